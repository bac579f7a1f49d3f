#!/usr/bin/env python3
"""Galleries of synthetic people: build, disk, memory, search, beside faiss and the .npz scan.

    python tools/benchmark_gallery.py                       # 100,000 people x 128
    python tools/benchmark_gallery.py --people 1000000 --output outputs/gallery_1m.json
    python tools/benchmark_gallery.py --people 1000000 --dimension 2048 --queries 30 \\
        --engines exact lancedb

People lie in clusters of about 50. Each engine builds and searches in processes of its own. Memory
is the peak above what the program held before. Ten neighbours are searched for: of all people, and
of one camera of 50 (2 %). Recall is by the exact engine's answers. `slower` is the median search
after additions of 1,000 rows over the one before. faiss is compared where it is installed
(pip install faiss-cpu).
"""

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import spnet_d2  # noqa: F401  (before PyTorch: see spnet_d2/process.py)

# isort: split
from tabulate import tabulate

from spnet_d2.analysis.gallery_speed import (
    Searches,
    measure_appends,
    measure_build,
    measure_searches,
    write_people,
)
from spnet_d2.utils.atomic_io import write_json

ENGINES = ("exact", "lancedb", "npz", "faiss-flat", "faiss-hnsw")
_NEEDS = {"lancedb": "lancedb", "faiss-flat": "faiss", "faiss-hnsw": "faiss"}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("--people", type=int, default=100_000, help="rows of the gallery (%(default)s)")
    option("--dimension", type=int, default=128, help="numbers per embedding (%(default)s)")
    option("--queries", type=int, default=100, help="(%(default)s)")
    option("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), help="(all)")
    option("--folder", type=Path, help="where files are for a while (the system's)")
    option("--output", type=Path, help="JSON file for the numbers")
    args = parser.parse_args(argv)
    if args.people < 1000 or args.dimension < 1 or args.queries < 1:
        parser.error("--people must be 1000 or more, --dimension and --queries 1 or more")
    if "exact" not in args.engines:
        parser.error("--engines needs exact: recall is by its answers")
    return args


def alone(work: Callable[..., dict], *arguments: Any) -> dict:
    """In a new process, whose memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def measure(args: argparse.Namespace, scratch: Path) -> dict[str, dict]:
    """By engine; the file of --output has what is done so far."""
    file = scratch / "people.f16"
    write_people(file, args.people, args.dimension)
    results: dict[str, dict] = {}
    truth: dict[str, Searches] = {}
    # The exact one first: its answers are the truth.
    for name in sorted(args.engines, key=ENGINES.index):
        if importlib.util.find_spec(_NEEDS.get(name, "numpy")) is None:
            print(f"{name} is left out: {_NEEDS[name]} is not installed.")
            continue
        folder = scratch / name
        folder.mkdir()
        given = (name, file, args.dimension, folder)
        result = {**alone(measure_build, *given), **alone(measure_searches, *given, args.queries)}
        if name in ("exact", "lancedb"):
            result["appends"] = alone(measure_appends, *given, min(30, args.queries))
        found = {key: Searches(**result[key]) for key in ("all", "camera")}
        truth = truth or found
        results[name] = result | {
            key: {"median": one.median, "worst": one.worst, "cpu": one.cpu}
            | {"recall": one.recall(truth[key])}
            for key, one in found.items()
        }
        save(args, results)
    return results


def save(args: argparse.Namespace, results: dict[str, dict]) -> None:
    if args.output:
        head = {"people": args.people, "dimension": args.dimension, "queries": args.queries}
        write_json(args.output, {**head, "engines": results}, indent=1)


def table(results: dict[str, dict], size: int) -> str:
    """Engines side by side; ``size``: bytes of the embeddings as float16."""
    rows: dict[str, list[str]] = {}

    def row(name: str, text: Callable[[dict], str]) -> None:
        rows[name] = [text(result) for result in results.values()]

    row("build, s (CPU s)", lambda r: f"{r['build_seconds']:.0f} ({r['build_cpu_seconds']:.0f})")
    row("peak memory of it / data", lambda r: f"{r['build_peak_bytes'] / size:.2f}")
    row("disk / data", lambda r: f"{r['disk_bytes'] / size:.2f}")
    row("peak memory of searching / data", lambda r: f"{r['search_peak_bytes'] / size:.2f}")
    for key, what in (("all", "all people"), ("camera", "2 % of them")):
        row(
            f"{what}: median, 95 %, ms",
            lambda r, key=key: f"{r[key]['median']:.1f}, {r[key]['worst']:.1f}",
        )
        row(f"{what}: CPU, ms", lambda r, key=key: f"{r[key]['cpu']:.1f}")
        row(f"{what}: recall@10", lambda r, key=key: f"{r[key]['recall']:.3f}")
    row("slower", lambda r: f"{r['appends']['slower']:.2f}" if "appends" in r else "")
    row(
        "share of memory's bandwidth",
        lambda r: f"{r['bandwidth']['share']:.0%}" if "bandwidth" in r else "",
    )
    lines = [[name, *cells] for name, cells in rows.items()]
    return tabulate(lines, ["", *results], tablefmt="github", disable_numparse=True)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        results = measure(args, Path(scratch))
    size = 2 * args.people * args.dimension
    print(f"{args.people:,} people x {args.dimension}, {size / 1e6:.0f} MB as float16\n")
    print(table(results, size))
    return 0


if __name__ == "__main__":
    sys.exit(main())
