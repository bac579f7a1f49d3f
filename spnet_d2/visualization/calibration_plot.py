"""Histograms of strangers' and one person's similarities, with what was fitted to them."""

from pathlib import Path

import numpy as np
from scipy import stats

from spnet_d2.errors import UserError
from spnet_d2.gallery.calibration import Calibration, Pairs, thresholds
from spnet_d2.utils.atomic_io import atomic_path


def draw_calibration(path: Path, pairs: Pairs, found: Calibration) -> None:
    """
    Write the picture as PNG.

    Raises:
        UserError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            "The picture of the calibration needs matplotlib: pip install 'spnet_d2[plot]'. "
            "The calibration itself is saved."
        ) from error
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    low = min(pairs.strangers.min(), pairs.same.min(), 0)
    bins = np.linspace(low, 1, 61).tolist()
    axes.hist(pairs.strangers, bins, density=True, alpha=0.55, color="#c44e52", label="strangers")
    axes.hist(pairs.same, bins, density=True, alpha=0.55, color="#4c72b0", label="one person")
    grid = np.linspace(low, 0.999, 500)
    same = stats.norm.pdf(np.arctanh(grid), found.same_mean, found.same_deviation) / (1 - grid**2)
    axes.plot(grid, same, color="#24447a", lw=1.2)
    tail = grid[grid > found.tail_start]
    excess = tail - found.tail_start
    density = 0.1 * stats.genpareto.pdf(excess, found.tail_shape, 0, found.tail_scale)
    axes.plot(tail, density, color="#7a2428", lw=1.2)
    for rate, similarity in thresholds(found):
        if rate in (0.01, 0.1, 1.0) and similarity < 1:
            axes.axvline(similarity, color="#555", lw=0.8, ls="--")
            axes.annotate(
                f"{rate:g}",
                (similarity, 0.98),
                xycoords=("data", "axes fraction"),
                va="top",
                fontsize=8,
                rotation=90,
            )
    axes.set_xlabel(
        "cosine similarity (dashed: thresholds for 1, 0.1, 0.01 false alarms per search)"
    )
    axes.set_ylabel("density")
    axes.legend(frameon=False)
    with atomic_path(path) as part:
        figure.savefig(part, format="png", dpi=110)
