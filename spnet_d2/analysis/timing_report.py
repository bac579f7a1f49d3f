"""Timings as tables and as numbers: medians, spread, ratios to the limits, shares of the parts."""

import statistics
from collections.abc import Callable

import torch
from tabulate import tabulate

from spnet_d2.analysis.model_parts import ANCHOR_LIMIT, LIMIT
from spnet_d2.analysis.timing import Timing
from spnet_d2.utils.peak_memory import peak_memory


def report(
    timings: dict[str, Timing], images: int, device: torch.device
) -> tuple[str, dict[str, object]]:
    """
    What was measured beside the limits, the parts of all but these, and the peak of memory.

    Args:
        timings: of works timed in turn, both limits (``limit_works``) among them.
        images: worked on in each.
        device: where.

    Returns:
        Tables, and the numbers in plain types.
    """
    limit, anchor_limit = timings[LIMIT], timings[ANCHOR_LIMIT]
    seconds = "seconds" if device.type == "cuda" else "CPU seconds"
    headers = ["", seconds, "min .. max", "limit", "x limit", "x limit with anchors", "images/s"]
    rows = [
        [
            name,
            timing.median,
            f"{min(timing.busy):.3f} .. {max(timing.busy):.3f}",
            limit.median,
            timing.over(limit),
            timing.over(anchor_limit),
            images / statistics.median(timing.wall),
        ]
        for name, timing in timings.items()
    ]
    steps = {name: t for name, t in timings.items() if name not in (LIMIT, ANCHOR_LIMIT)}
    peak = peak_memory(device)
    text = [
        tabulate(rows, headers, floatfmt=".3f"),
        *(parts_table(name, timing) for name, timing in steps.items()),
        f"Peak memory: {peak / 2**30:.2f} GiB",
    ]
    return "\n\n".join(text), {
        "timings": {name: numbers(timing, images) for name, timing in timings.items()},
        "over_limit": {name: t.over(limit) for name, t in steps.items()},
        "over_anchor_limit": {name: t.over(anchor_limit) for name, t in steps.items()},
        "peak_bytes": peak,
    }


def side_by_side(
    timings: dict[str, Timing], images: int, device: torch.device
) -> tuple[str, dict[str, object]]:
    """
    Models beside the first of them.

    Args:
        timings: of works timed in turn.
        images: worked on in each.
        device: where.

    Returns:
        A table, and the numbers in plain types; ``speed`` is how many times as fast as the first.
    """
    first = next(iter(timings.values()))
    seconds = "seconds" if device.type == "cuda" else "CPU seconds"
    headers = ["", seconds, "min .. max", "speed", "images/s"]
    speeds = {name: first.over(timing) for name, timing in timings.items()}
    rows = [
        [
            name,
            timing.median,
            f"{min(timing.busy):.3f} .. {max(timing.busy):.3f}",
            speeds[name],
            images / statistics.median(timing.wall),
        ]
        for name, timing in timings.items()
    ]
    return tabulate(rows, headers, floatfmt=".3f"), {
        "timings": {name: numbers(timing, images) for name, timing in timings.items()},
        "speed": speeds,
    }


def parts_table(name: str, timing: Timing) -> str:
    """Seconds of each part by phase, and its share, largest first."""
    medians = timing.part_medians()
    phases = list(dict.fromkeys(phase for phase, _ in medians))
    totals = {part: 0.0 for _, part in medians}
    for (_, part), seconds in medians.items():
        totals[part] += seconds
    whole = sum(totals.values())
    rows = [
        [part, *(medians.get((phase, part), 0.0) for phase in phases), f"{total / whole:.1%}"]
        for part, total in sorted(totals.items(), key=lambda x: -x[1])
    ]
    return tabulate(rows, [name, *phases, "share"], floatfmt=".4f")


def operators_table(works: dict[str, Callable[[], None]], device: torch.device) -> str:
    """Run the last of ``works`` once more, for the operators of PyTorch that take longest."""
    name, work = list(works.items())[-1]
    with torch.profiler.profile() as profiler:
        work()
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=key, row_limit=20, max_name_column_width=50)
    return f"{name}, operators:\n\n{table}"


def numbers(timing: Timing, images: int) -> dict:
    """A timing of ``images`` images in plain types, for JSON."""
    parts: dict[str, dict[str, float]] = {}
    for (phase, part), seconds in timing.part_medians().items():
        parts.setdefault(phase, {})[part] = seconds
    wall = statistics.median(timing.wall)
    return {
        "seconds": timing.median,
        "repetitions": timing.busy,
        "wall_seconds": wall,
        "images_per_second": images / wall,
        "parts": parts,
    }
