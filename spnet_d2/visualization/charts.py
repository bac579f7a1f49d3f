"""The report's diagrams, drawn with matplotlib and returned as SVG data URIs."""

import base64
import io

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spnet_d2.evaluation.retrieval import RetrievalScores
from spnet_d2.evaluation.threshold import SuggestedThreshold
from spnet_d2.visualization.curves import cumulative_matches
from spnet_d2.visualization.recorder import BINS, RECALLS, RankingRecorder

_SIZE = (4.8, 3.4)  # inches
_HIT, _MISS, _LINE, _OTHER = "#2c9646", "#d73232", "#1f5fa8", "#888888"
_CMC_LENGTH = 50


def precision_recall(recorder: RankingRecorder) -> str:
    """Mean precision over recall; the area under it is mAP."""
    figure, axis = _panel("recall", "precision (mean over queries)")
    mean_ap = recorder.precisions.mean()
    axis.fill_between(RECALLS, recorder.precisions, step="mid", color=_LINE, alpha=0.12)
    axis.step(
        RECALLS, recorder.precisions, where="mid", color=_LINE, label=f"area {100 * mean_ap:.1f} %"
    )
    axis.set(xlim=(0, 1), ylim=(0, 1.02))
    axis.legend(loc="lower left")
    return _data_uri(figure)


def cmc(scores: RetrievalScores, gt_scores: RetrievalScores | None) -> str:
    """Share of queries with a hit among the first k boxes, detected and (if known) annotated."""
    figure, axis = _panel("first k boxes", "queries with a hit")
    length = max(1, min(_CMC_LENGTH, int(scores.pool_size.max(initial=1))))
    ks = np.arange(1, length + 1)
    curves = [("detected boxes", scores, _LINE, "-")]
    if gt_scores is not None:
        curves.append(("ground-truth boxes", gt_scores, _OTHER, "--"))
    for label, of, colour, style in curves:
        shares = cumulative_matches(of.first_hit_rank[of.counted], length)
        axis.plot(ks, shares, style, color=colour, label=label, marker="." if length < 3 else None)
    axis.set(xlim=(1, max(2, length)), ylim=(0, 1.02))
    axis.legend(loc="lower right")
    return _data_uri(figure)


def similarity_histograms(recorder: RankingRecorder, threshold: SuggestedThreshold | None) -> str:
    """Matches and non-matches by similarity, either with area 1."""
    figure, axis = _panel("similarity", "share of boxes per 0.01")
    kinds = [
        ("matches", recorder.match_counts, _HIT),
        ("non-matches", recorder.other_counts, _MISS),
    ]
    for name, counts, colour in kinds:
        total = counts.sum()
        if total:
            label = f"{total:,} {name}"
            axis.stairs(counts / total, BINS, fill=True, color=colour, alpha=0.35)
            axis.stairs(counts / total, BINS, color=colour, label=label)
    filled = np.flatnonzero(recorder.match_counts + recorder.other_counts)
    if len(filled):
        axis.set_xlim(BINS[filled[0]] - 0.02, BINS[filled[-1] + 1] + 0.02)
    if threshold is not None:
        label = f"suggested threshold {threshold.similarity:.3f}"
        axis.axvline(threshold.similarity, color="black", linestyle="--", label=label)
    # Room for the legend, over the curves.
    axis.set_ylim(0, 1.4 * axis.get_ylim()[1])
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="upper left")
    return _data_uri(figure)


def gallery_size(recorder: RankingRecorder) -> str:
    """mAP and top-1 over the number of gallery images without the person."""
    figure, axis = _panel("gallery images without the person", "mean over queries")
    mean_ap, top1 = recorder.size_scores
    axis.plot(recorder.sizes, mean_ap, "o-", color=_LINE, label="mAP")
    axis.plot(recorder.sizes, top1, "s--", color=_HIT, label="top-1")
    if len(recorder.sizes):
        axis.set_xscale("log")
        largest = recorder.sizes[-1]
        decades = [10**e for e in range(len(str(largest))) if 2 * 10**e < largest]
        axis.set_xticks([*decades, largest])
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.xaxis.set_minor_formatter("")
    axis.set_ylim(0, 1.02)
    axis.legend(loc="lower left")
    return _data_uri(figure)


def _panel(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axis = figure.subplots()
    axis.set(xlabel=x, ylabel=y)
    axis.grid(alpha=0.3)
    return figure, axis


def _data_uri(figure: Figure) -> str:
    file = io.BytesIO()
    # Neither a date nor random names: the same evaluation gives the same file.
    with matplotlib.rc_context({"svg.hashsalt": "spnet_d2"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode()
