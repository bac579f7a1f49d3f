"""Results for people and for programs: a table, ``metrics.json`` and Detectron2's result dict."""

import json
from collections import OrderedDict

from spnet_d2.data.atomic_io import atomic_path
from spnet_d2.evaluation.retrieval import RetrievalScores
from spnet_d2.evaluation.scoring import Evaluation

# What papers report, known mistakes of the official evaluations included.
PROTOCOL_VARIANT = "original"


def detection_metrics(evaluation: Evaluation) -> dict[str, float]:
    """``AP50``, ``recall50`` and ``rAP50``, fractions."""
    scores = evaluation.detection
    return {"AP50": scores.ap, "recall50": scores.recall, "rAP50": scores.rap}


def retrieval_metrics(evaluation: Evaluation, protocol: str) -> dict[str, float]:
    """``mAP``, ``top1``, ``top5``, ``top10`` and, if known, ``gt_mAP``, ``gt_top1``; fractions."""
    scores = evaluation.retrieval[protocol]
    metrics = {"mAP": scores.mean_ap, **{f"top{k}": scores.top(k) for k in (1, 5, 10)}}
    gt: RetrievalScores | None = evaluation.gt_retrieval.get(protocol)
    if gt is not None:
        metrics.update(gt_mAP=gt.mean_ap, gt_top1=gt.top(1))
    return metrics


def results_dict(evaluation: Evaluation) -> OrderedDict:
    """What ``DatasetEvaluator.evaluate`` returns: ``{"detection": {...}, "<protocol>": {...}}``."""
    results = OrderedDict(detection=detection_metrics(evaluation))
    for protocol in evaluation.retrieval:
        metrics = retrieval_metrics(evaluation, protocol)
        results[protocol] = {k: v for k, v in metrics.items() if k not in ("top5", "top10")}
    return results


def flat_metrics(evaluation: Evaluation) -> dict:
    """Content of ``metrics.json``.

    Flat keys of detection and of the first protocol (``AP50``, ..., ``mAP``, ...). With several
    protocols also ``<protocol>/mAP`` and so on, for each. ``protocol`` names the first one,
    ``protocol_variant`` the rules; counts tell what was scored.
    """
    detection = evaluation.detection
    names = list(evaluation.retrieval)
    flat = dict(detection_metrics(evaluation))
    if names:
        flat.update(retrieval_metrics(evaluation, names[0]))
    if len(names) > 1:
        for name in names:
            metrics = retrieval_metrics(evaluation, name)
            flat.update({f"{name}/{key}": value for key, value in metrics.items()})
    flat.update(
        protocol=names[0] if names else None,
        protocol_variant=PROTOCOL_VARIANT,
        num_gt_boxes=detection.num_gt,
        num_detections=detection.num_detections,
        num_queries=len(evaluation.retrieval[names[0]].ap) if names else 0,
    )
    return flat


def write_metrics(evaluation: Evaluation, path: str, more: dict | None = None) -> None:
    """Write :func:`flat_metrics`, and ``more`` after them, to ``path``, atomically."""
    content = {**flat_metrics(evaluation), **(more or {})}
    with atomic_path(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def format_table(evaluation: Evaluation) -> str:
    """A text table in percent, one row for detection and one per protocol."""
    rows = [("detection", detection_metrics(evaluation))]
    rows += [(name, retrieval_metrics(evaluation, name)) for name in evaluation.retrieval]
    width = max(len(name) for name, _ in rows)
    return "\n".join(
        f"{name:<{width}}  "
        + "  ".join(f"{key} {100 * value:6.2f}" for key, value in metrics.items())
        for name, metrics in rows
    )
