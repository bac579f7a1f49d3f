"""Person-search evaluation: ground truth, protocols, detection and retrieval figures.

``evaluate_predictions(truth, protocols, predictions)`` scores any model's predictions;
:class:`PersonSearchEvaluator` does so for a model that Detectron2 runs,
``evaluate_query_centric(model, loader, evaluator)`` for one that searches query by query.
"""

from spnet_d2.evaluation.evaluator import PersonSearchEvaluator
from spnet_d2.evaluation.ground_truth import GroundTruth
from spnet_d2.evaluation.predictions import Predictions
from spnet_d2.evaluation.protocols import ALL_PROTOCOL, RetrievalProtocol
from spnet_d2.evaluation.query_centric import QueryCentricEvaluator, evaluate_query_centric
from spnet_d2.evaluation.report import (
    flat_metrics,
    format_table,
    format_thresholds,
    results_dict,
    write_metrics,
    write_per_query,
)
from spnet_d2.evaluation.reranking import KReciprocal
from spnet_d2.evaluation.scoring import Evaluation, ExtraFigures, evaluate_predictions
from spnet_d2.evaluation.variants import CORRECTED, ORIGINAL, VARIANTS, ProtocolVariant

__all__ = [
    "ALL_PROTOCOL",
    "CORRECTED",
    "ORIGINAL",
    "VARIANTS",
    "Evaluation",
    "ExtraFigures",
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
