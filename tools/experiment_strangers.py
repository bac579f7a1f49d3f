#!/usr/bin/env python3
"""Measure what pre-training on strangers adds for people that nobody has seen.

    make experiment-strangers EXPERIMENT_ARGS="--scenes coco=DIR --scenes fudan=DIR --people DIR"
    python tools/experiment_strangers.py --scenes coco=DIR --people DIR [--seeds 0 1 2] [--jobs 2]

Pre-training: query-centric, object-centric or none, on the boxes of --scenes, with all labels, 80 %
missing, or 80 % spurious ones. Fine-tuning: on the people of --people (MOT15, by
datasets/convert.py) to find those of PETS09, and the other way round. A folder of --scenes has
annotations.json and images/ (datasets/README.md); --people also retrieval/later.json.

What is finished is skipped, what was interrupted continues from its last checkpoint. Written to
--output: data/, one folder per run, results.json, and a table and plot for each fine-tuning.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import spnet_d2  # noqa: F401  (before PyTorch: see spnet_d2/process.py)

# isort: split
from spnet_d2.demo.lite0_weights import trunk_settings
from spnet_d2.errors import errors_in_one_line
from spnet_d2.experiments.pretraining_grid import STRANGERS
from spnet_d2.experiments.run_study import add_study_options, check_study_options, run_study
from spnet_d2.experiments.strangers import FILES, write_strangers

ROOT = Path(__file__).resolve().parents[1]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--people", type=Path, metavar="DIR")
    add_study_options(parser, ROOT, "experiment_strangers")
    args = parser.parse_args(argv)
    check_study_options(parser, args)
    if not args.report_only and (not args.scenes or args.people is None):
        parser.error("give --scenes NAME=DIR, once or more, and --people DIR")
    if wrong := [text for text in args.scenes if "=" not in text]:
        parser.error(f"--scenes takes NAME=DIR, found {wrong[0]}")
    return args


def prepare(args: argparse.Namespace) -> None:
    """Data, unless they are there."""
    command = [sys.executable, str(ROOT / "datasets" / "prepare_pets09.py")]
    if subprocess.run([*command, "--output", str(args.datasets / "pets09")]).returncode:
        raise SystemExit("PETS09 could not be prepared; the message above says why.")
    data = args.output / "data"
    if not (data / FILES).is_file():
        scenes = dict(text.split("=", 1) for text in args.scenes)
        write_strangers(data, {k: Path(v) for k, v in scenes.items()}, args.people.absolute())


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with errors_in_one_line("experiment_strangers"):
        common = [*args.opts, "DATASETS.FILES", str((args.output / "data" / FILES).absolute())]
        if not args.report_only:
            prepare(args)
            common = [*trunk_settings(ROOT / "outputs" / "weights", args.opts), *common]
        run_study(STRANGERS, args, ROOT, common)


if __name__ == "__main__":
    main()
