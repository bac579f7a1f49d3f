#!/usr/bin/env python3
"""Time and memory of tools/evaluate.py on synthetic corpora of the real sizes.

    python tools/benchmark_evaluation.py --output docs/evaluation_benchmark.md
    python tools/benchmark_evaluation.py --cases prw cuhk_g100

Each case is written to a temporary folder (the largest takes 6 GB) and evaluated by a process of
its own, as a user would do it: read the files, all figures, write the results. Quoted are wall and
CPU seconds and the peak of resident memory, as the system counts them, beside the limits; the first
line is what Python and the imports take. Embeddings are random, so the figures mean nothing. A case
that fails is reported, the others go on, and the exit status is 1.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from spnet_d2.data.atomic_io import atomic_path

EVALUATE = Path(__file__).with_name("evaluate.py")
IMAGE_SIZE = (1920, 1080)
CHUNK_ROWS = 8192


@dataclass(frozen=True)
class Case:
    """Size of a corpus; ``gallery`` images are listed per query, 0: all others are searched."""

    images: int
    people: int
    gt_boxes: int
    detections: int
    queries: int
    gallery: int = 0
    size: int = 2048


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
LIMITS = {
    "prw": (12, 3),
    "prw_gallery_times_10": (None, 3),
    "cuhk_g100": (5, None),
    "cuhk_g4000": (60, None),
}
# The others change one of its numbers.
REFERENCE = "prw"


def write_case(case: Case, folder: Path) -> list[str]:
    """Write a corpus; returns the arguments of tools/evaluate.py that score it."""
    rng = np.random.default_rng(0)
    image = np.sort(rng.integers(0, case.images, case.gt_boxes))
    # Half of the boxes show known people, each in several images; the others are unknown.
    known = rng.random(case.gt_boxes) < 0.5
    person = np.where(
        known, rng.integers(0, case.people, case.gt_boxes), case.people + np.arange(case.gt_boxes)
    )
    corner = rng.uniform(0, 1, (case.gt_boxes, 2)) * (np.array(IMAGE_SIZE) - (150, 400))
    boxes = np.hstack([corner, rng.uniform((40, 100), (150, 400), (case.gt_boxes, 2))]).round(1)
    _write_json(folder / "annotations.json", _annotations(case, image, person, known, boxes))
    _write_json(folder / "protocol.json", _protocol(case, rng, image, person, known))

    # Detections: every ground-truth box in turn until there are enough. One in ten, and all from
    # the second turn on, are far away.
    of_box = np.arange(case.detections) % case.gt_boxes
    near = (np.arange(case.detections) < case.gt_boxes) & (rng.random(case.detections) < 0.9)
    shift = np.where(near, 5, 300)[:, None]
    detected = boxes[of_box]
    detected[:, :2] += rng.normal(0, 1, (case.detections, 2)) * shift
    detected[:, 2:] += detected[:, :2]
    centres = rng.standard_normal((case.people, case.size), np.float32)
    detected_person = np.where(near, person[of_box], case.people)
    with zipfile.ZipFile(folder / "predictions.npz", "w") as archive:
        for name, array in {
            "image_ids": image[of_box],
            "boxes": detected.astype(np.float32),
            "scores": rng.uniform(0.5, 1, case.detections).astype(np.float32),
            "gt_annotation_ids": np.arange(case.gt_boxes),
        }.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array)
        for name, people in ("embeddings", detected_person), ("gt_embeddings", person):
            _write_embeddings(archive, name, people, centres, rng)
    names = ("annotations", "protocol", "predictions")
    files = (folder / "annotations.json", folder / "protocol.json", folder / "predictions.npz")
    return [word for name, file in zip(names, files) for word in (f"--{name}", str(file))]


def _annotations(case: Case, image, person, known, boxes) -> dict:
    width, height = IMAGE_SIZE
    columns = (image.tolist(), person.tolist(), known.tolist(), boxes.tolist())
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": width, "height": height}
            for i in range(case.images)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": of_image,
                "bbox": box,
                "area": box[2] * box[3],
                "person_id": who,
                "is_known": is_known,
                "iou_thresh": 0.5,
                "category_id": 1,
                "iscrowd": 0,
            }
            for number, (of_image, who, is_known, box) in enumerate(zip(*columns))
        ],
        "categories": [{"id": 1, "name": "person"}],
    }


def _protocol(case: Case, rng, image, person, known) -> dict:
    queries = rng.permutation(np.flatnonzero(known))[: case.queries]
    if not case.gallery:
        return {"images": list(range(case.images)), "queries": queries.tolist()}
    order = np.argsort(person, kind="stable")
    starts = np.searchsorted(person[order], np.arange(case.people + 1))
    galleries = {}
    for query in queries.tolist():
        of_person = image[order[starts[person[query]] : starts[person[query] + 1]]]
        of_person = np.setdiff1d(of_person, image[query])[: case.gallery]
        others = rng.permutation(case.images)
        others = others[~np.isin(others, of_person) & (others != image[query])]
        galleries[query] = [*of_person.tolist(), *others[: case.gallery - len(of_person)].tolist()]
    return {"images": list(range(case.images)), "queries": galleries}


def _write_embeddings(archive, name: str, people: np.ndarray, centres: np.ndarray, rng) -> None:
    """Noise around the centre of each known person, chunk by chunk."""
    shape = (len(people), centres.shape[1])
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(people), CHUNK_ROWS):
            chunk = people[start : start + CHUNK_ROWS]
            vectors = 4 * rng.standard_normal((len(chunk), shape[1]), np.float32)
            has_centre = chunk < len(centres)
            vectors[has_centre] += centres[chunk[has_centre]]
            file.write(vectors)


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


@dataclass(frozen=True)
class Cost:
    """What a process took: seconds, seconds of all cores together, peak GiB."""

    wall: float
    cpu: float
    memory: float


# A process starts with the peak memory of the one that started it, and this one has made a corpus:
# a small one goes between. It prints the CPU seconds and the peak memory of the program.
_LAUNCHER = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
sys.exit(code)
"""


def measure(arguments: list[str]) -> Cost:
    """Run tools/evaluate.py.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, str(EVALUATE), *arguments]
    start = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-c", _LAUNCHER, *command], stdout=subprocess.PIPE, text=True
    )
    wall = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"tools/evaluate.py {' '.join(arguments)} failed, see above.")
    cpu, memory = map(float, process.stdout.split())
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if platform.system() == "Darwin" else 1024
    return Cost(wall, cpu, memory * unit / 2**30)


def scaled(case: Case, factor: float) -> Case:
    """The case with a share of its images, boxes and queries."""

    def share(count: int) -> int:
        return max(1, round(factor * count))

    return Case(
        *map(share, (case.images, case.people, case.gt_boxes, case.detections, case.queries)),
        gallery=min(case.gallery, share(case.images) - 1),
        size=case.size,
    )


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


def disk_bytes(case: Case) -> int:
    """What the files of a case take, about: float32 embeddings and half a KiB of JSON per box."""
    boxes = case.detections + case.gt_boxes
    return boxes * (4 * case.size + 512) + 8 * case.queries * case.gallery


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


def cost_table(start: Cost, results: list[Result], limits: dict) -> str:
    """A line per case: its size, what it took, and what it may take."""
    rows = [["start", *[None] * 5, start.wall, None, start.cpu, None, start.memory, None]]
    for result in results:
        case, cost = result.case, result.cost
        gallery = case.gallery or case.images - 1
        size = [case.images, case.detections, case.gt_boxes, case.queries, gallery]
        seconds, memory = limits.get(result.name, (None, None))
        took = ["failed", seconds, None, None, None, memory]
        if cost is not None:
            took = [cost.wall, seconds, cost.cpu, cost.cpu - start.cpu, cost.memory, memory]
        rows.append([result.name, *size, *took])
    headers = ["case", "images", "detections", "ground truth", "queries", "gallery", "wall s"]
    headers += ["limit s", "CPU s", "CPU s after start", "peak GiB", "limit GiB"]
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


def verdicts(results: list[Result], limits: dict) -> list[str]:
    """A line for every limit: met or missed."""
    lines = []
    for result in results:
        seconds, memory = limits.get(result.name, (None, None))
        for limit, what, unit in (seconds, "wall", "s"), (memory, "memory", "GiB"):
            if limit is None:
                continue
            if result.cost is None:
                lines.append(f"{result.name}, {unit}: not measured, limit {limit}")
                continue
            found = getattr(result.cost, what)
            lines.append(
                f"{result.name}: {found:.2f} {unit}, limit {limit}: "
                + ("met" if found <= limit else "MISSED")
            )
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


def report(start: Cost, results: list[Result], limits: dict, options: list[str]) -> str:
    """The measurements as a Markdown page."""
    parts = [
        "# Time and memory of the evaluation",
        f"Written by\n\n```bash\npython tools/benchmark_evaluation.py {' '.join(options)}\n```",
        f"on {len(os.sched_getaffinity(0))} cores ({platform.machine()}), Python "
        f"{platform.python_version()}, NumPy {np.__version__}, `OMP_NUM_THREADS` "
        f"{os.environ.get('OMP_NUM_THREADS', 'unset')}, load average "
        f"{os.getloadavg()[0]:.1f} at the end. Each line is one process of "
        "`tools/evaluate.py`, which reads annotations, protocol and predictions (float32, D = "
        f"{CASES[REFERENCE].size}), computes all figures, COCO's and those of ground-truth boxes "
        'among them, and writes the results; "start" is `--help`, that is, the start and imports '
        "of Python. On a machine that others use, CPU seconds say more than wall seconds.",
        cost_table(start, results, limits),
        "\n".join(f"- {line}" for line in verdicts(results, limits)),
    ]
    growth = growth_table(start, results)
    if growth:
        parts += [
            "## Growth",
            f"As multiples of `{REFERENCE}`, times after start. Detected and ground-truth boxes "
            "are both scored, so linear growth in queries and in boxes is time in proportion to "
            "queries x boxes, and a constant part for reading and detection.",
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
    limits = LIMITS if args.scale == 1 else {}
    results = []
    for name in tqdm(args.cases, disable=None):
        case = scaled(CASES[name], args.scale)
        results.append(run_case(name, case, args.folder, args.evaluate_options))
        # The whole page is for the end, but an hour's work is not lost if it doesn't come.
        print(name, results[-1].cost or "failed", file=sys.stderr)
    page = report(start, results, limits, sys.argv[1:] if argv is None else argv)
    print(page)
    if args.output:
        with atomic_path(args.output) as part:
            part.write_text(page, encoding="utf-8")
    return int(any(result.cost is None for result in results))


if __name__ == "__main__":
    sys.exit(main())
