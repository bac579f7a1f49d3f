#!/usr/bin/env python3
"""Time and memory of tools/evaluate.py on synthetic corpora of the real sizes.

    python tools/benchmark_evaluation.py --output docs/evaluation_benchmark.md
    python tools/benchmark_evaluation.py --cases prw cuhk_g100

Each case is written to a temporary folder (the largest takes 6 GB) and evaluated by a process of
its own, as a user would do it: read the files, compute all metrics, write the results. The page has
wall and CPU seconds and the peak of resident memory, as the system counts them, beside the targets;
the first line is the start of Python with its imports. Embeddings are random, so the metrics mean
nothing. A case that fails is reported, the others go on, and the exit status is 1.
"""

import argparse
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from spnet_d2.analysis import Cost, measure_program
from spnet_d2.analysis.evaluation_corpus import Case, disk_bytes, scaled, write_case
from spnet_d2.utils.atomic_io import atomic_path

EVALUATE = Path(__file__).with_name("evaluate.py")


PRW = (6112, 450, 25_062, 43_000)
CUHK = (6978, 2900, 40_871, 50_000)
CASES = {
    "prw": Case(*PRW, 2057),
    "prw_half_the_queries": Case(*PRW, 1028),
    "prw_half_the_detections": Case(*PRW[:3], 21_500, 2057),
    "prw_twice_the_detections": Case(*PRW[:3], 86_000, 2057),
    "prw_gallery_times_10": Case(61_120, 4500, 250_620, 430_000, 2057),
    "cuhk_g100": Case(*CUHK, 2900, 100),
    "cuhk_g4000": Case(*CUHK, 2900, 4000),
}
# Wall seconds, start included, and peak GiB that a case may take on two cores.
TARGETS = {
    "prw": (12, 3),
    "prw_gallery_times_10": (None, 3),
    "cuhk_g100": (5, None),
    "cuhk_g4000": (60, None),
}
# The others change one of its numbers.
REFERENCE = "prw"


def measure(arguments: list[str]) -> Cost:
    """Run tools/evaluate.py; raises ``RuntimeError`` where it fails."""
    return measure_program([sys.executable, str(EVALUATE), *arguments])


@dataclass(frozen=True)
class Result:
    """A case, and what evaluating it took; None: it failed."""

    name: str
    case: Case
    cost: Cost | None

    @property
    def products(self) -> int:
        """Pairs of a query and a box that are scored, in a gallery of all images."""
        return self.case.queries * (self.case.detections + self.case.gt_boxes)


def run_case(name: str, case: Case, folder: Path | None, options: list[str]) -> Result:
    """Write a corpus, evaluate it and remove it again."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        needed, free = disk_bytes(case), shutil.disk_usage(place).free
        if needed > free:
            print(
                f"{name}: {place} must have {needed / 2**30:.1f} GiB free, found "
                f"{free / 2**30:.1f}. Give another --folder.",
                file=sys.stderr,
            )
            return Result(name, case, None)
        arguments = write_case(case, Path(place))
        # Else the system may still be writing the corpus while it is evaluated.
        os.sync()
        try:
            cost = measure([*arguments, "--output", place, *options])
        except RuntimeError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return Result(name, case, None)
    return Result(name, case, cost)


def cost_table(start: Cost, results: list[Result], targets: dict) -> str:
    """A line per case: its size, what it took, and the targets."""
    rows = [["start", *[None] * 5, start.wall, None, start.cpu, None, start.memory, None]]
    for result in results:
        case, cost = result.case, result.cost
        gallery = case.gallery or case.images - 1
        size = [case.images, case.detections, case.gt_boxes, case.queries, gallery]
        seconds, memory = targets.get(result.name, (None, None))
        took = ["failed", seconds, None, None, None, memory]
        if cost is not None:
            took = [cost.wall, seconds, cost.cpu, cost.cpu - start.cpu, cost.memory, memory]
        rows.append([result.name, *size, *took])
    headers = ["case", "images", "detections", "ground truth", "queries", "gallery", "wall s"]
    headers += ["target s", "CPU s", "CPU s after start", "peak GiB", "target GiB"]
    return _table(headers, rows)


def _table(headers: list[str], rows: list[list]) -> str:
    """A Markdown table of texts, numbers and gaps (None)."""

    def text(cell) -> str:
        if cell is None:
            return ""
        if isinstance(cell, float):
            return f"{cell:.2f}"
        return f"{cell:,}" if isinstance(cell, int) else cell

    align = ["left"] + ["right"] * (len(headers) - 1)
    cells = [[text(cell) for cell in row] for row in rows]
    return tabulate(cells, headers, tablefmt="github", colalign=align, disable_numparse=True)


def verdicts(results: list[Result], targets: dict) -> list[str]:
    """A line for every target."""
    lines = []
    for result in results:
        seconds, memory = targets.get(result.name, (None, None))
        for target, what, unit in (seconds, "wall", "s"), (memory, "memory", "GiB"):
            if target is None:
                continue
            if result.cost is None:
                lines.append(f"{result.name}, {unit}: not measured, target {target}")
                continue
            found = getattr(result.cost, what)
            where = "within" if found <= target else "ABOVE"
            lines.append(f"{result.name}: {found:.2f} {unit}, {where} the target of {target}")
    return lines


def growth_table(start: Cost, results: list[Result]) -> str | None:
    """How time after start grows with queries and boxes; None without the case to compare with."""
    measured = {r.name: r for r in results if r.cost is not None and not r.case.gallery}
    reference = measured.pop(REFERENCE, None)
    if reference is None or not measured:
        return None
    rows = []
    for result in measured.values():
        case, of = result.case, reference.case
        work = result.products / reference.products
        wall, cpu = (
            (getattr(result.cost, what) - getattr(start, what))
            / (getattr(reference.cost, what) - getattr(start, what))
            for what in ("wall", "cpu")
        )
        sizes = [case.queries / of.queries, case.detections / of.detections]
        rows.append([result.name, *sizes, case.gt_boxes / of.gt_boxes, work, wall, cpu])
    headers = ["case", "queries", "detections", "ground truth", "queries x boxes", "wall", "CPU"]
    return _table(headers, rows)


def report(start: Cost, results: list[Result], targets: dict, options: list[str]) -> str:
    """The measurements as a Markdown page."""
    parts = [
        "# Time and memory of the evaluation",
        f"Written by\n\n```bash\npython tools/benchmark_evaluation.py {' '.join(options)}\n```",
        f"on {len(os.sched_getaffinity(0))} cores ({platform.machine()}), Python "
        f"{platform.python_version()}, NumPy {np.__version__}, `OMP_NUM_THREADS` "
        f"{os.environ.get('OMP_NUM_THREADS', 'unset')}, load average "
        f"{os.getloadavg()[0]:.1f} at the end. Each line is one process of "
        "`tools/evaluate.py`, which reads annotations, protocol and predictions (float32, D = "
        f"{CASES[REFERENCE].size}), computes all metrics, including COCO's and those of "
        'ground-truth boxes, and writes the results. "start" is `--help`: the start of Python '
        "with its imports. On a shared machine CPU seconds say more than wall seconds.",
        cost_table(start, results, targets),
        "\n".join(f"- {line}" for line in verdicts(results, targets)),
    ]
    growth = growth_table(start, results)
    if growth:
        parts += [
            "## Growth",
            f"As multiples of `{REFERENCE}`, times after start. Detected and ground-truth boxes "
            "are both scored. Linear growth in queries and in boxes means: time in proportion to "
            "queries x boxes, plus a constant part for reading and detection.",
            growth,
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--scale", type=float, default=1.0, help="share of each case (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where temporary files go")
    parser.add_argument("--output", type=Path, help="Markdown file for the page")
    parser.add_argument(
        "--evaluate-options", nargs=argparse.REMAINDER, default=[], help="passed to evaluate.py"
    )
    args = parser.parse_args(argv)
    # Files of the program come from the disk only once.
    measure(["--help"])
    start = measure(["--help"])
    targets = TARGETS if args.scale == 1 else {}
    results = []
    for name in tqdm(args.cases, disable=None):
        case = scaled(CASES[name], args.scale)
        results.append(run_case(name, case, args.folder, args.evaluate_options))
        # The whole page is for the end, but an hour's work is not lost if it doesn't come.
        print(name, results[-1].cost or "failed", file=sys.stderr)
    page = report(start, results, targets, sys.argv[1:] if argv is None else argv)
    print(page)
    if args.output:
        with atomic_path(args.output) as part:
            part.write_text(page, encoding="utf-8")
    return int(any(result.cost is None for result in results))


if __name__ == "__main__":
    sys.exit(main())
