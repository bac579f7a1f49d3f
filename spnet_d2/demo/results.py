"""``results.json`` of the demo, and its summary for people."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from tabulate import tabulate

from spnet_d2.utils.peak_memory import peak_memory, peak_memory_of_children

PROTOCOLS = ("standard", "reentry")
PHASES = ("prepare", "starter", "train", "evaluate", "search")


class Clock:
    """Seconds spent in each phase; an inner phase's time is not counted for the outer one."""

    def __init__(self):
        self._start = time.perf_counter()
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._open: list[float] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside the block for ``name``."""
        begin = time.perf_counter()
        self._open.append(0.0)
        try:
            yield
        finally:
            taken = time.perf_counter() - begin
            self._seconds[name] += taken - self._open.pop()
            if self._open:
                self._open[-1] += taken

    def seconds(self) -> dict[str, float]:
        """By phase, and ``total`` since the clock was made."""
        seconds = {**self._seconds, "total": time.perf_counter() - self._start}
        return {name: round(value, 1) for name, value in seconds.items()}


def peak_rss_gb(num_workers: int) -> float:
    """
    Most resident memory, GiB: this process and ``num_workers`` times its largest child.

    An upper bound: the peaks need not coincide, and forked children share memory with this one.
    """
    peak = peak_memory(torch.device("cpu")) + num_workers * peak_memory_of_children()
    return round(peak / 2**30, 3)


def make_results(
    metrics: Mapping, starter: Mapping, baseline: Mapping, seconds: Mapping, peak_gb: float
) -> dict[str, dict | float]:
    """
    Content of ``results.json``; all metrics are fractions.

    Args:
        metrics: of the evaluator, after training.
        starter: of the evaluator, before it.
        baseline: of :func:`spnet_d2.demo.hsv_baseline.evaluate_hsv_baseline`.
        seconds: of :meth:`Clock.seconds`.
        peak_gb: of :func:`peak_rss_gb`.
    """
    return {
        **_picked(metrics),
        "starter": _picked(starter),
        "baseline_hsv": {name: _pick(baseline[name], "mAP", "top1") for name in PROTOCOLS},
        "seconds": dict(seconds),
        "peak_rss_gb": peak_gb,
    }


def _picked(metrics: Mapping) -> dict[str, dict[str, float]]:
    return {
        "detection": _pick(metrics["detection"], "AP50", "recall50"),
        **{name: _pick(metrics[name], "mAP", "top1", "gt_mAP", "gt_top1") for name in PROTOCOLS},
    }


def _pick(source: Mapping, *keys: str) -> dict[str, float]:
    return {key: round(float(source[key]), 6) for key in keys}


def summary(results: Mapping) -> str:
    """Table in percent, and whether the model beats the colour histogram on its own detections."""
    rows = []
    for name in PROTOCOLS:
        trained, starter = results[name], results["starter"][name]
        baseline = results["baseline_hsv"][name]
        rows += [
            [name, "starter weights, their detections", starter["mAP"], starter["top1"]],
            ["", "fine-tuned, its detections", trained["mAP"], trained["top1"]],
            ["", "fine-tuned, given boxes", trained["gt_mAP"], trained["gt_top1"]],
            ["", "colour histogram, given boxes", baseline["mAP"], baseline["top1"]],
        ]
    rows = [[*row[:2], *(f"{100 * value:.1f}" for value in row[2:])] for row in rows]
    headers = ["protocol", "", "mAP", "top-1"]
    table = tabulate(
        rows, headers, disable_numparse=True, colalign=("left", "left", "right", "right")
    )
    detection, before = results["detection"], results["starter"]["detection"]
    verdicts = [f"{name}: {'yes' if beats_baseline(results, name) else 'NO'}" for name in PROTOCOLS]
    seconds = results["seconds"]
    return "\n".join(
        [
            table,
            f"detection: AP50 {100 * before['AP50']:.1f} -> {100 * detection['AP50']:.1f}, "
            f"recall50 {100 * before['recall50']:.1f} -> {100 * detection['recall50']:.1f}",
            f"mAP above the colour histogram's after fine-tuning? {', '.join(verdicts)}",
            f"{seconds['total']:.0f} s ("
            + ", ".join(f"{name} {seconds[name]:.0f}" for name in PHASES)
            + f"), at most {results['peak_rss_gb']:.1f} GiB",
        ]
    )


def beats_baseline(results: Mapping, protocol: str) -> bool:
    """Whether the model's mAP with its own detections is above the baseline's with given boxes."""
    return results[protocol]["mAP"] > results["baseline_hsv"][protocol]["mAP"]
