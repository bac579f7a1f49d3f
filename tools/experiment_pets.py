#!/usr/bin/env python3
"""Measure what pre-training adds on real footage (PETS09), for both pathways and noisy labels.

    make experiment-pets        or        python tools/experiment_pets.py [--seeds 0 1 2] [--jobs 2]

Every run is short. What is finished is skipped, what was interrupted continues from its last
checkpoint. Written to --output: one folder per run, results.json, table.md, plot.png.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import spnet_d2  # noqa: F401  (before PyTorch: see spnet_d2/process.py)

# isort: split
from detectron2.config import CfgNode

from spnet_d2.demo import lite0_weights
from spnet_d2.errors import errors_in_one_line
from spnet_d2.experiments.pretraining_grid import (
    CONFIGS,
    check_settings,
    collect,
    make_grid,
    plot,
    run_grid,
    table,
)
from spnet_d2.utils.atomic_io import atomic_path, write_json, write_text

ROOT = Path(__file__).resolve().parents[1]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = Path(os.environ.get("DETECTRON2_DATASETS", ROOT / "datasets"))
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "experiment_pets")
    parser.add_argument("--datasets", type=Path, default=data, help="where pets09/ is or goes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="%(default)s")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--report-only", action="store_true", help="no runs, only table and plot")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="for every run")
    args = parser.parse_args(argv)
    if len(args.opts) % 2:
        parser.error(f"settings are KEY VALUE pairs, found {len(args.opts)} words: {args.opts}")
    if args.jobs < 1:
        parser.error(f"--jobs must be at least 1, found {args.jobs}")
    return args


def say(line: str) -> None:
    print(line, flush=True)


def prepare(args: argparse.Namespace) -> list[str]:
    """Make the data sets and the ImageNet weights; returns settings that name the latter."""
    if not args.report_only:
        command = [sys.executable, str(ROOT / "datasets" / "prepare_pets09.py"), "--weak"]
        if subprocess.run([*command, "--output", str(args.datasets / "pets09")]).returncode:
            raise SystemExit("PETS09 could not be prepared; the message above says why.")
    key = "MODEL.SPNET.BACKBONE.PRETRAINED"
    if args.report_only or key in args.opts[0::2]:
        return args.opts
    weights = ROOT / "outputs" / "weights" / lite0_weights.DEFAULT_PATH.name
    return [key, str(lite0_weights.write_lite0_weights(weights)), *args.opts]


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with errors_in_one_line("experiment_pets"):
        experiment(args)


def experiment(args: argparse.Namespace) -> None:
    """Prepare, run what is not finished, and put the results together."""
    chains = make_grid(args.seeds)
    common = prepare(args)
    failed = []
    if not args.report_only:
        for run in (run for chain in chains for run in chain):
            config = CfgNode.load_yaml_with_base(str(ROOT / CONFIGS / run.config))
            check_settings(run, args.output, args.opts, CfgNode(config).dump())

        def command(run) -> list[str]:
            tool, config = ROOT / "tools" / "train_net.py", ROOT / CONFIGS / run.config
            start = [sys.executable, str(tool), "--config-file", str(config), "--resume"]
            return [*start, *run.settings(args.output), *common]

        # Two runs of one thread are faster than one run of two.
        environment = {
            **os.environ,
            "DETECTRON2_DATASETS": str(args.datasets.absolute()),
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // args.jobs)),
        }
        failed = run_grid(chains, args.output, command, environment, args.jobs, say)
    found = collect(chains, args.output)
    if not found:
        raise SystemExit(f"No run below {args.output} is finished.")
    text = table(found)
    args.output.mkdir(parents=True, exist_ok=True)
    write_json(args.output / "results.json", found, indent=1, allow_nan=True)
    write_text(args.output / "table.md", text + "\n")
    with atomic_path(args.output / "plot.png") as part:
        plot(found).savefig(part, dpi=110, format="png")
    print(text)
    print(f"table and plot: {args.output / 'table.md'}, {args.output / 'plot.png'}")
    if failed:
        raise SystemExit(f"{len(failed)} runs failed: {', '.join(failed)}. Repeat the command.")


if __name__ == "__main__":
    main()
