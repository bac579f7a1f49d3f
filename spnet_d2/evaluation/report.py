"""Results for people and for programs: a table, ``metrics.json``, ``per_query.csv`` and
Detectron2's result dict."""

import csv
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from spnet_d2.evaluation.ground_truth import GroundTruth
from spnet_d2.evaluation.retrieval import RetrievalScores
from spnet_d2.evaluation.scoring import Evaluation
from spnet_d2.evaluation.threshold import suggest_threshold
from spnet_d2.utils.atomic_io import atomic_path, write_json

TOP_KS = (1, 5, 10)


def detection_metrics(evaluation: Evaluation) -> dict[str, float]:
    """``AP50``, ``recall50`` and ``rAP50``, fractions."""
    scores = evaluation.detection
    return {"AP50": scores.ap, "recall50": scores.recall, "rAP50": scores.rap}


def retrieval_metrics(evaluation: Evaluation, protocol: str) -> dict[str, float]:
    """``mAP``, ``top1``, ``top5``, ``top10`` and, if known, the same with ``gt_``; fractions."""
    metrics = _ranking_metrics(evaluation.retrieval[protocol])
    gt: RetrievalScores | None = evaluation.gt_retrieval.get(protocol)
    if gt is not None:
        metrics.update({f"gt_{key}": value for key, value in _ranking_metrics(gt).items()})
    return metrics


def rescored_metrics(evaluation: Evaluation, protocol: str) -> dict[str, dict[str, float]]:
    """``mAP``, ``top1``, ``top5`` and ``top10`` of every other ranking, by its name."""
    rankings = evaluation.rescored.get(protocol, {})
    return {name: _ranking_metrics(scores) for name, scores in rankings.items()}


def _ranking_metrics(scores: RetrievalScores) -> dict[str, float]:
    """Metrics of one ranking; one added here is printed, logged and written everywhere."""
    return {"mAP": scores.mean_ap, **{f"top{k}": scores.top(k) for k in TOP_KS}}


def results_dict(evaluation: Evaluation) -> OrderedDict:
    """
    What ``DatasetEvaluator.evaluate`` returns: ``{"detection": {...}, "<protocol>": {...}}``.

    In percent, as Detectron2's own evaluators: its hooks log these values and choose the best
    checkpoint by them. Files hold fractions.
    """
    results = OrderedDict(detection=_percent(detection_metrics(evaluation)))
    for protocol in evaluation.retrieval:
        results[protocol] = _percent(retrieval_metrics(evaluation, protocol))
    return results


def _percent(metrics: dict[str, float]) -> dict[str, float]:
    return {name: 100 * value for name, value in metrics.items()}


def fractions(results: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """An evaluator's results, which are percent, as files have them."""
    return {
        task: {name: value / 100 for name, value in metrics.items()}
        for task, metrics in results.items()
    }


def flat_metrics(evaluation: Evaluation) -> dict:
    """Content of ``metrics.json``: metrics as fractions, counts and names.

    Flat keys of detection and of the first protocol (``AP50``, ..., ``mAP``, ...). With several
    protocols also ``<protocol>/mAP`` and so on, for each. ``protocol`` names the first one,
    ``protocol_variant`` the rules; counts tell what was scored. Other rankings have their name
    before the key (``cws_mAP``), COCO's metrics ``coco_``, the suggested similarity threshold and
    what it does (:mod:`.threshold`) ``not_in_gallery_``; the latter are left out if no answer is
    right.
    """
    detection = evaluation.detection
    names = list(evaluation.retrieval)
    flat: dict[str, Any] = {**detection_metrics(evaluation), **evaluation.coco}
    if names:
        flat.update(_protocol_metrics(evaluation, names[0]))
    if len(names) > 1:
        for name in names:
            metrics = _protocol_metrics(evaluation, name)
            flat.update({f"{name}/{key}": value for key, value in metrics.items()})
    flat.update(
        protocol=names[0] if names else None,
        protocols=names,
        protocol_variant=evaluation.variant.name,
        num_gt_boxes=detection.num_gt,
        num_detections=detection.num_detections,
        num_queries=len(evaluation.retrieval[names[0]].ap) if names else 0,
    )
    return flat


def _protocol_metrics(evaluation: Evaluation, protocol: str) -> dict:
    metrics = retrieval_metrics(evaluation, protocol)
    for ranking, values in rescored_metrics(evaluation, protocol).items():
        metrics.update({f"{ranking}_{key}": value for key, value in values.items()})
    scenes = evaluation.scenes.get(protocol, {})
    metrics.update({f"gfn_{key}": value for key, value in scenes.items()})
    scores = evaluation.retrieval[protocol]
    threshold = suggest_threshold(scores)
    found = {} if threshold is None else asdict(threshold)
    return {
        **metrics,
        "num_queries": len(scores.ap),
        "num_queries_in_mean": int(scores.counted.sum()),
        "num_queries_without_match": int((scores.present == 0).sum()),
        **{f"not_in_gallery_{key}": value for key, value in found.items()},
    }


def write_metrics(
    evaluation: Evaluation, path: str | os.PathLike, more: dict | None = None
) -> None:
    """Write :func:`flat_metrics`, and ``more`` after them, to ``path``, atomically."""
    content = {**flat_metrics(evaluation), **(more or {})}
    # A metric without a single case is NaN.
    write_json(path, content, indent=2, allow_nan=True)


def write_per_query(truth: GroundTruth, evaluation: Evaluation, path: str | os.PathLike) -> None:
    """Write one line per protocol and query, with a header, atomically.

    Columns: ``protocol``, ``query_id`` (annotation), ``query_image_id``, ``AP``, ``top1``,
    ``top5``, ``top10`` (0 or 1), ``matches`` (gallery entries that show the person), ``found``
    (those that were hit), ``best_match_rank`` (1 is the top; empty: nothing found),
    ``best_match_similarity``, ``best_similarity`` (of any box), ``best_other_similarity`` (of the
    images without the person), ``ranked_boxes``, ``in_mean`` (0: left out, without a match) and,
    where known, ``gt_AP``, ``cws_AP``, ``cbgm_AP``, ``seqnet_cbgm_AP``,
    ``gfn_AP``, ``gfn_cws_AP``, ``gfn_filter_AP``, ``rerank_AP``.
    """
    with (
        atomic_path(path) as part,
        open(part, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        lines = csv.writer(file, lineterminator="\n")
        for number, (protocol, scores) in enumerate(evaluation.retrieval.items()):
            boxes = truth.find_annotations(scores.annotation_ids, "queries")
            columns = {
                "protocol": [protocol] * len(boxes),
                "query_id": scores.annotation_ids,
                "query_image_id": truth.image_ids[truth.image_index[boxes]],
                "AP": scores.ap,
                **{f"top{k}": scores.found_within(k).astype(int) for k in TOP_KS},
                "matches": scores.present,
                "found": scores.hits,
                "best_match_rank": np.where(
                    scores.first_hit_rank < 0, np.nan, scores.first_hit_rank + 1
                ),
                "best_match_similarity": scores.best_hit_similarity,
                "best_similarity": scores.best_similarity,
                "best_other_similarity": scores.best_absent_similarity,
                "ranked_boxes": scores.pool_size,
                "in_mean": scores.counted.astype(int),
            }
            if protocol in evaluation.gt_retrieval:
                columns["gt_AP"] = evaluation.gt_retrieval[protocol].ap
            for name, other in evaluation.rescored.get(protocol, {}).items():
                columns[f"{name}_AP"] = other.ap
            if number == 0:
                lines.writerow(columns)
            lines.writerows(zip(*(map(_cell, values) for values in columns.values())))


def _cell(value) -> str:
    if isinstance(value, float | np.floating):
        if np.isnan(value):
            return ""
        return str(int(value)) if value == int(value) else f"{value:.9g}"
    return str(value)


def format_table(evaluation: Evaluation) -> str:
    """A text table in percent: a row for detection, one per protocol and one per other ranking."""
    rows = [("detection", detection_metrics(evaluation))]
    if evaluation.coco:
        rows.append(("COCO", evaluation.coco))
    for name in evaluation.retrieval:
        rows.append((name, retrieval_metrics(evaluation, name)))
        others = rescored_metrics(evaluation, name)
        rows += [(f"{name} ({other})", metrics) for other, metrics in others.items()]
        if name in evaluation.scenes:
            rows.append((f"{name} (scenes)", evaluation.scenes[name]))
    width = max(len(name) for name, _ in rows)
    return "\n".join(
        f"{name:<{width}}  "
        + "  ".join(f"{key} {100 * value:6.2f}" for key, value in metrics.items())
        for name, metrics in rows
    )


def format_thresholds(evaluation: Evaluation) -> str:
    """A line per protocol with its suggested similarity threshold."""
    lines = []
    for name, scores in evaluation.retrieval.items():
        found = suggest_threshold(scores)
        lines.append(
            f"{name}: no best match is right, so no similarity threshold is suggested"
            if found is None
            else f'{name}: below similarity {found.similarity:.4f} say "not in this gallery" '
            f"(on this set: precision {100 * found.precision:.2f}, recall "
            f"{100 * found.recall:.2f}, answers where the person is absent "
            f"{100 * found.false_alarms:.2f})"
        )
    return "\n".join(lines)
