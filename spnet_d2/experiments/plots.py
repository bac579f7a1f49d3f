"""Figures 6 to 8 of the paper, drawn from the metrics that runs reached."""

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spnet_d2.experiments.paper import ARCHITECTURES, LAYER_OPTIMIZATION, NOISE_PERCENT, PATHWAYS
from spnet_d2.experiments.results import HEADINGS

Metrics = Mapping[str, Mapping[str, float]]

_COLOURS = {"qc": "tab:blue", "oc": "tab:orange"}
_MODES = {"": "Baseline", "_pt": "PT", "_pt_rep": "PT-Rep"}
_MODE_COLOURS = {"": "tab:gray", "_pt": "tab:blue", "_pt_rep": "tab:green"}
_PANEL = (4.0, 3.0)  # inches


def figure6(metrics: Metrics) -> Figure:
    """Label noise on CUHK-SYSU: search (mAP, top-1) and detection (AP@0.5) over percent of labels.

    Args:
        metrics: percent by metric, by experiment; what is missing is left out.
    """
    panels = ("mAP", "top1", "AP50")
    figure, axes = _panels(panels)
    for axis, metric in zip(axes, panels, strict=True):
        for pathway in PATHWAYS:
            points = [
                (percent, value)
                for percent in NOISE_PERCENT
                if (value := _get(metrics, f"figure6/cuhk_sysu_{pathway}_p{percent}", metric))
                is not None
            ]
            if points:
                x, y = zip(*points, strict=True)
                axis.plot(x, y, "o-", color=_COLOURS[pathway], label=pathway.upper())
        _dashed(axis, _get(metrics, "table5/cuhk_sysu_classifier", metric))
        axis.set_xlabel("annotations used (%)")
        axis.set_xticks(NOISE_PERCENT)
    shared_legend(figure, axes)
    return figure


def figure7(metrics: Metrics) -> Figure:
    """Layer optimisation on PRW: OC and QC side by side, for four ways of training the trunk."""
    panels = ("mAP", "top1")
    figure, axes = _panels(panels)
    labels = [label for label, _ in LAYER_OPTIMIZATION.values()]
    for axis, metric in zip(axes, panels, strict=True):
        bars = {
            pathway.upper(): (
                _COLOURS[pathway],
                [
                    _get(metrics, f"figure7/prw_{pathway}_{key}", metric)
                    for key in LAYER_OPTIMIZATION
                ],
            )
            for pathway in PATHWAYS
        }
        _bars(axis, labels, bars, _get(metrics, "table5/prw_classifier", metric))
    shared_legend(figure, axes)
    return figure


def figure8(metrics: Metrics) -> Figure:
    """Architectures on CUHK-SYSU: without pre-training, with PT and with PT-Rep."""
    panels = ("mAP", "top1")
    figure, axes = _panels(panels)
    labels = list(dict.fromkeys(row.partition(",")[0] for row, _ in ARCHITECTURES.values()))
    for axis, metric in zip(axes, panels, strict=True):
        bars = {
            mode: (
                _MODE_COLOURS[suffix],
                [
                    _get(metrics, f"figure8/cuhk_sysu_{x.replace('-', '_')}{suffix}", metric)
                    for x in labels
                ],
            )
            for suffix, mode in _MODES.items()
        }
        _bars(axis, labels, bars, None)
    shared_legend(figure, axes)
    return figure


FIGURES: dict[str, Callable[[Metrics], Figure]] = {
    "figure6": figure6,
    "figure7": figure7,
    "figure8": figure8,
}


def drawn(figure: Figure) -> int:
    """How many values a figure shows, dashed lines apart."""
    points = 0
    for axis in figure.axes:
        solid = (line for line in axis.lines if line.get_linestyle() == "-")
        points += sum(np.size(line.get_xdata()) for line in solid)
        points += len(axis.patches)
    return points


def _get(metrics: Metrics, experiment: str, metric: str) -> float | None:
    return metrics.get(experiment, {}).get(metric)


def _panels(metrics: tuple[str, ...]) -> tuple[Figure, list[Axes]]:
    """One panel per metric, lettered; no window system is touched."""
    width, height = _PANEL
    figure = Figure(figsize=(width * len(metrics), height), layout="constrained")
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    for letter, axis, metric in zip("abcdef", axes, metrics, strict=False):
        axis.set_title(f"({letter}) {HEADINGS[metric]}")
        axis.set_ylabel(f"{HEADINGS[metric]} (%)")
    return figure, list(axes)


def _dashed(axis: Axes, value: float | None) -> None:
    if value is not None:
        axis.axhline(value, color="black", linestyle="--", label="no pre-training")


def _bars(
    axis: Axes,
    labels: list[str],
    bars: Mapping[str, tuple[str, list[float | None]]],
    baseline: float | None,
) -> None:
    """
    Groups of bars, side by side around their label, whichever of them there are.

    The axis starts near the lowest, as differences are of a few percent.
    """
    width = 0.8 / len(bars)
    shown = [] if baseline is None else [baseline]
    groups = list(zip(*(values for _, values in bars.values()), strict=True))
    sizes = [sum(v is not None for v in group) for group in groups]
    for i, (name, (colour, values)) in enumerate(bars.items()):
        heights = {k: v for k, v in enumerate(values) if v is not None}
        if heights:
            before = [sum(v is not None for v in groups[k][:i]) for k in heights]
            x = [k + (b - (sizes[k] - 1) / 2) * width for k, b in zip(heights, before, strict=True)]
            axis.bar(x, [*heights.values()], width, color=colour, label=name)
            shown += heights.values()
    _dashed(axis, baseline)
    axis.set_xticks(range(len(labels)), labels, rotation=20, ha="right", fontsize="small")
    axis.set_xlim(-0.6, len(labels) - 0.4)
    if shown:
        margin = max(0.5, 0.2 * (max(shown) - min(shown)))
        axis.set_ylim(max(0, min(shown) - margin), min(100, max(shown) + margin))


def shared_legend(figure: Figure, axes: list[Axes]) -> None:
    """One for all panels, below them, where it hides nothing."""
    entries: dict = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        figure.legend(
            entries.values(), entries, loc="outside lower center", ncols=len(entries), frameon=False
        )
