#!/usr/bin/env python3
"""Does it all work on this GPU, and how fast: runs tests/cuda, measures, writes docs/gpu.md.

    python tools/gpu_check.py                       # or: make gpu-check
    python tools/gpu_check.py --minutes 20 --repetitions 20
    python tools/gpu_check.py --device cpu --tiny --output /tmp/gpu.md

Without a GPU it says so and leaves the page as it is. The page is written anew after every
measurement, so that what was measured is there if the time is up or the machine goes away.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import spnet_d2  # noqa: F401  (before PyTorch: see spnet_d2/process.py)

# isort: split
import torch
from tabulate import tabulate

from spnet_d2.utils.atomic_io import atomic_path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "gpu.md"
# Iterations of 30 epochs of 8 images: COCOPersons (64115 images, two views), CUHK-SYSU (11206).
PRETRAINING, FINE_TUNING = 30 * 16029, 30 * (11206 // 8)
# PRW's frames of 1080 x 1920 after the resize of INPUT.MIN_SIZE_TEST 900, MAX_SIZE_TEST 1500.
PRW_FRAME = ("--size", "844", "1500", "--people", "7")
# What makes a model of milliseconds of any config.
TINY = (
    *("MODEL.SPNET.BACKBONE.NAME", "test_convnext", "MODEL.SPNET.EMBED_DIM", "16"),
    *("MODEL.SPNET.REID_DIM", "16", "MODEL.SPNET.REID.QUEUE_SIZE", "64"),
    *("MODEL.SPNET.ANCHORS_PER_IMAGE", "16", "MODEL.SPNET.QC.PAIRS_PER_BATCH", "4"),
)


@dataclass
class Row:
    """
    A measurement by ``tools/benchmark.py``.

    Attributes:
        name: what is measured.
        task, config: for the tool.
        paper: what the paper has of it, hours or frames per second; None: nothing.
        iterations: of a whole training; 0: of none.
        options: more for the tool.
        result: the tool's numbers, once there are some.
        problem: why there are none.
    """

    name: str
    task: str
    config: str
    paper: float | None = None
    iterations: int = 0
    options: tuple[str, ...] = ()
    result: dict = field(default_factory=dict)
    problem: str = "not measured"

    def cells(self) -> list[str]:
        """Columns of its table."""
        if not self.result:
            measured = [self.problem, "", ""]
        elif self.task == "step":
            seconds = self.result["wall_seconds"]
            hours = seconds * self.iterations / 3600
            measured = [f"{seconds:.3f} s", f"{hours:.1f} h", self._memory()]
        else:
            timing = list(self.result["timings"].values())[-1]
            rate = timing["images_per_second"]
            measured = [f"{timing['wall_seconds']:.4f} s", f"{rate:.1f}", self._memory()]
        unit = " h" if self.task == "step" else ""
        paper = "" if self.paper is None else f"{self.paper}{unit}"
        return [self.name, f"`{self.config}`", *measured, paper]

    def _memory(self) -> str:
        return f"{self.result['peak_bytes'] / 2**30:.1f} GiB"


def all_rows() -> list[Row]:
    """Everything that is measured, what matters most first."""
    return [
        Row("SPNet-S, QC pre-training", "step", "table5/pretrain_qc", 30.0, PRETRAINING),
        Row("SPNet-L, fine-tuning", "step", "table3/cuhk_sysu_classifier", 9.0, FINE_TUNING),
        Row("SPNet-L, ResNet-50", "inference", "table1/prw_resnet50", 27.6, options=PRW_FRAME),
        Row("SPNet-S, OC pre-training", "step", "table5/pretrain_oc", 24.5, PRETRAINING),
        Row("SPNet-L, QC pre-training", "step", "table3/pretrain_qc", 46.5, PRETRAINING),
        Row("SPNet-L, OC pre-training", "step", "table3/pretrain_oc", 40.5, PRETRAINING),
        Row("SPNet-S, fine-tuning", "step", "table5/cuhk_sysu_classifier", 2.5, FINE_TUNING),
        Row("SPNet-S", "inference", "table5/prw_classifier", options=PRW_FRAME),
        Row("SPNet-L", "inference", "table3/prw_classifier", options=PRW_FRAME),
        Row(
            "SPNet-S, search for 16 people",
            "qc-search",
            "table5/prw_classifier",
            options=(*PRW_FRAME, "--queries", "16"),
        ),
    ]


def page(rows: list[Row], where: str = "", tests: str = "") -> str:
    """
    The text of docs/gpu.md.

    Args:
        rows: with their results so far.
        where: card and versions; "": nothing was run.
        tests: the last line of tests/cuda's run.
    """
    state = (
        f"Measured on **{where}**. `tests/cuda`: {tests or 'not run'}."
        if where
        else "**Nothing has been run on a GPU yet**: the tables have the paper's numbers only. "
        "`make gpu-check` on a machine with a GPU fills them in."
    )
    steps = [row.cells() for row in rows if row.task == "step"]
    frames = [row.cells() for row in rows if row.task != "step"]
    step_table = tabulate(
        steps,
        ["training", "config", "a step", "30 epochs", "peak memory", "paper (A100)"],
        tablefmt="github",
        disable_numparse=True,
    )
    frame_table = tabulate(
        frames,
        ["inference", "config", "a frame", "frames/s", "peak memory", "paper (A100)"],
        tablefmt="github",
        disable_numparse=True,
    )
    return f"""# On a GPU

`make gpu-check` runs `tests/cuda`, measures training, inference and search at the paper's sizes
with `tools/benchmark.py`, and writes this page; it stops after eight minutes.

{state}

## Training

The trainer's whole step of 8 images (crops of 512, SPNet-L's fine-tuning 1024) in float16, data
excluded: random weights, 8 people in each crop. 30 epochs are {PRETRAINING:,} steps of COCOPersons
or {FINE_TUNING:,} of CUHK-SYSU; the paper's hours (Table 4) include loading and evaluation.

{step_table}

## Inference

PRW's frames at 844 x 1500, one at a time, in float16, 7 people in each, data excluded. The paper
(Table 1) gives 27.6 frames per second for SPNet-L with ResNet-50; how they were measured is not
published.

{frame_table}
"""


def measure(row: Row, args: argparse.Namespace, seconds: float) -> None:
    """Run the tool for a row, at most so long."""
    config = ROOT / "projects_configs" / f"{row.config}.yaml"
    options, settings = [*row.options], []
    repetitions, warm_up = args.repetitions, 3
    if args.tiny:
        size = ("--size", "64", "64", "--images", "2", "--people", "2")
        options, settings, repetitions, warm_up = [*options, *size], [*TINY], 1, 0
    with tempfile.TemporaryDirectory() as folder:
        numbers = Path(folder) / "numbers.json"
        command = [sys.executable, ROOT / "tools" / "benchmark.py", "--task", row.task]
        command += ["--config-file", config, "--device", args.device, "--output", numbers]
        command += ["--repetitions", repetitions, "--warm-up", warm_up, *options, *settings]
        code, output = run(command, seconds)
        if code == 0:
            row.result = json.loads(numbers.read_text())
        else:
            row.problem = "time was up" if code is None else f"failed: {last_line(output)}"


def run(command: list, seconds: float) -> tuple[int | None, str]:
    """Exit status (None: time was up) and output of a command."""
    print("$", *command, flush=True)
    if seconds <= 0:
        return None, ""
    try:
        done = subprocess.run(
            [*map(str, command)],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return None, ""
    print(done.stdout, flush=True)
    return done.returncode, done.stdout


def last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no output")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, default=PAGE, help="page to write (%(default)s)")
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit (%(default)s)")
    parser.add_argument(
        "--repetitions", type=int, default=10, help="timed repetitions (%(default)s)"
    )
    parser.add_argument("--tiny", action="store_true", help="tiny models, to test this script")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    on_gpu = torch.device(args.device).type == "cuda"
    if on_gpu and not torch.cuda.is_available():
        print(f"gpu_check: PyTorch finds no CUDA device; {args.output} stays as it is.")
        return 0
    card = torch.cuda.get_device_name(args.device) if on_gpu else "a CPU"
    where = f"{card}, PyTorch {torch.__version__}" + (", tiny models" if args.tiny else "")
    deadline = time.monotonic() + 60 * args.minutes
    rows = all_rows()
    if args.tiny:
        rows = list({row.task: row for row in rows}.values())
    chosen = "tests/cuda/test_inference.py" if args.tiny else "tests/cuda"
    # A third of the time is enough for them, or something hangs.
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", chosen]
    if args.tiny:
        pytest += ["-k", "nobody"]
    code, output = run(pytest, 20 * args.minutes)
    tests = "time was up" if code is None else last_line(output)
    for row in rows:
        measure(row, args, deadline - time.monotonic())
        with atomic_path(args.output) as part:
            part.write_text(page(rows, where, tests), encoding="utf-8")
    failed = [row.name for row in rows if not row.result]
    print(f"gpu_check: wrote {args.output}" + (f"; without {', '.join(failed)}" if failed else ""))
    return 0 if code == 0 and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
