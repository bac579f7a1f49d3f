"""Person-search evaluation: ground truth, protocols, detection and retrieval metrics.

``evaluate_predictions(truth, protocols, predictions)`` scores any model's predictions;
:class:`PersonSearchEvaluator` does so for a model that Detectron2 runs,
``evaluate_query_centric(model, loader, evaluator)`` for one that searches query by query.
"""

import importlib

from spnet_d2.evaluation.ground_truth import GroundTruth
from spnet_d2.evaluation.predictions import Predictions
from spnet_d2.evaluation.protocols import ALL_PROTOCOL, RetrievalProtocol
from spnet_d2.evaluation.report import (
    flat_metrics,
    format_table,
    format_thresholds,
    results_dict,
    write_metrics,
    write_per_query,
)
from spnet_d2.evaluation.reranking import KReciprocal
from spnet_d2.evaluation.scoring import Evaluation, ExtraMetrics, evaluate_predictions
from spnet_d2.evaluation.variants import CORRECTED, ORIGINAL, VARIANTS, ProtocolVariant

__all__ = [
    "ALL_PROTOCOL",
    "CORRECTED",
    "ORIGINAL",
    "VARIANTS",
    "Evaluation",
    "ExtraMetrics",
    "GroundTruth",
    "KReciprocal",
    "PersonSearchEvaluator",
    "Predictions",
    "ProtocolVariant",
    "QueryCentricEvaluator",
    "RetrievalProtocol",
    "evaluate_predictions",
    "evaluate_query_centric",
    "flat_metrics",
    "format_table",
    "format_thresholds",
    "results_dict",
    "write_metrics",
    "write_per_query",
]

# Those that run a model need PyTorch, which takes seconds to import; scoring does without.
_RUN_MODELS = {
    "PersonSearchEvaluator": "evaluator",
    "QueryCentricEvaluator": "query_centric",
    "evaluate_query_centric": "query_centric",
}


def __getattr__(name: str):
    if name not in _RUN_MODELS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_RUN_MODELS[name]}"), name)
