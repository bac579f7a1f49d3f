#!/usr/bin/env python3
"""Measure what pre-training adds on real footage (PETS09), for both pathways and noisy labels.

    make experiment-pets        or        python tools/experiment_pets.py [--seeds 0 1 2] [--jobs 2]
    python tools/experiment_pets.py --models      # instead: SPNet, SeqNeXt, SeqNet at equal budget

Every run is short. What is finished is skipped, what was interrupted continues from its last
checkpoint. Written to --output: one folder per run, results.json, table.md, plot.png (of
pre-trainings only).
"""

import argparse
import subprocess
import sys
from functools import partial
from pathlib import Path

import spnet_d2  # noqa: F401  (before PyTorch: see spnet_d2/process.py)

# isort: split
from spnet_d2.demo.lite0_weights import trunk_settings
from spnet_d2.errors import errors_in_one_line
from spnet_d2.experiments.pretraining_grid import PETS09
from spnet_d2.experiments.run_study import (
    add_study_options,
    check_study_options,
    end_if_failed,
    run_study,
    train_all,
)
from spnet_d2.experiments.side_by_side import CONFIGS, collect_models, make_runs, models_table
from spnet_d2.utils.atomic_io import write_json, write_text

ROOT = Path(__file__).resolve().parents[1]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_study_options(parser, ROOT, "experiment_pets")
    parser.add_argument(
        "--models",
        action="store_true",
        help="compare models, not pre-trainings; output: outputs/experiment_models",
    )
    args = parser.parse_args(argv)
    if args.models and args.output == parser.get_default("output"):
        # Tables of the two studies have the same names.
        args.output = ROOT / "outputs" / "experiment_models"
    check_study_options(parser, args)
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with errors_in_one_line("experiment_pets"):
        common = args.opts
        if not args.report_only:
            command = [sys.executable, str(ROOT / "datasets" / "prepare_pets09.py"), "--weak"]
            if subprocess.run([*command, "--output", str(args.datasets / "pets09")]).returncode:
                raise SystemExit("PETS09 could not be prepared; the message above says why.")
            common = [*trunk_settings(ROOT / "outputs" / "weights", args.opts), *args.opts]
        compare = compare_models if args.models else partial(run_study, PETS09)
        compare(args, ROOT, common)


def compare_models(args: argparse.Namespace, root: Path, common: list[str]) -> None:
    chains = make_runs(args.seeds)
    failed = [] if args.report_only else train_all(chains, CONFIGS, args, root, common)
    found = collect_models(chains, args.output)
    if found:
        write_json(args.output / "results.json", found, indent=1, allow_nan=True)
        text = models_table(found)
        write_text(args.output / "table.md", text + "\n")
        print(text)
    end_if_failed(failed)
    if not found:
        raise SystemExit(f"No run below {args.output} is finished.")


if __name__ == "__main__":
    main()
