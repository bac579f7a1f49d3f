#!/usr/bin/env python3
"""Reproduce an experiment of the paper: pre-train, fine-tune, compare with what was published.

    python tools/reproduce.py --list                 all experiments, and what others publish
    python tools/reproduce.py --list field           only what others publish
    python tools/reproduce.py table5/prw_qc          the whole chain; repeat to continue or compare
    python tools/reproduce.py table5/prw_qc --scale mini     the same on toy data, in a minute

Finished steps are skipped, an interrupted one continues from its last checkpoint. Settings follow
at the end as KEY VALUE pairs and hold for all steps. GPU hours are the paper's, for one A100; a
star marks those derived from them.
"""

import argparse
from pathlib import Path

import spnet_d2  # noqa: F401  (before PyTorch: see spnet_d2/process.py)

# isort: split
import torch

from spnet_d2.cli.gpu_option import add_gpu_option, choose_gpus
from spnet_d2.data.catalog import register_builtin_datasets
from spnet_d2.engine.job import main as main_of_job
from spnet_d2.engine.launch import launch_job
from spnet_d2.errors import errors_in_one_line
from spnet_d2.experiments import miniature
from spnet_d2.experiments.chain import check_chain, plan, run_chain
from spnet_d2.experiments.field import GPU_OF_SPEED, field_markdown, field_table
from spnet_d2.experiments.field import NAME as FIELD
from spnet_d2.experiments.index import OUTPUT_ROOT, Index, load_index
from spnet_d2.experiments.page import markdown_page
from spnet_d2.experiments.results import reached
from spnet_d2.experiments.tables import comparison, list_table, markdown_table
from spnet_d2.utils.log_handlers import restored_log_handlers
from spnet_d2.utils.settings_option import add_settings_option

ROOT = Path(__file__).resolve().parents[1]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", help="experiment, or its config file; see --list")
    parser.add_argument(
        "--list", action="store_true", help="list experiments (with NAME in their names)"
    )
    parser.add_argument(
        "--markdown",
        action="store_true",
        help="with --list: print docs/experiments.md, or with NAME only the rows; with NAME "
        f"{FIELD} the table in MODEL_ZOO.md",
    )
    parser.add_argument(
        "--scale",
        choices=("full", "mini"),
        default="full",
        help="mini: toy data and model, on the CPU",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help=f"in place of {OUTPUT_ROOT}/; with --scale mini: {OUTPUT_ROOT}/mini",
    )
    add_gpu_option(parser)
    add_settings_option(parser, nargs="*")
    args = parser.parse_intermixed_args(argv)
    if not args.name and not args.list:
        parser.error("name an experiment, or --list them")
    args.num_gpus = choose_gpus(parser, args.num_gpus)
    args.output = args.output or Path(OUTPUT_ROOT, *(["mini"] if args.scale == "mini" else []))
    return args


def show_list(index: Index, args: argparse.Namespace) -> None:
    if args.name == FIELD:
        return print(field_markdown() if args.markdown else field_table())
    chosen = [e for e in index if (args.name or "") in e.name]
    done = reached(index, args.output)
    if args.markdown:
        page = markdown_table(chosen, done) if args.name else markdown_page(index, done).rstrip()
        return print(page)
    print(list_table(index, chosen, done))
    print(f"{len(chosen)} experiments. paper, here: mAP / top-1. *: derived from Table 4.")
    if not args.name:
        print(f"\nThe field, as published (FPS on one {GPU_OF_SPEED}):\n{field_table()}")


def job(args: argparse.Namespace) -> None:
    """Train, or evaluate, on ``args.num_gpus`` GPUs."""
    # A job logs to the terminal and its own folder.
    with restored_log_handlers():
        launch_job(main_of_job, args, device="cuda" if torch.cuda.is_available() else "cpu")


def main(argv: list[str] | None = None) -> dict[str, float] | None:
    args = parse_args(argv)
    index = load_index(ROOT)
    if args.list:
        return show_list(index, args)
    own_settings = miniature.settings if args.scale == "mini" else lambda cfg: []
    if args.scale == "mini":
        register_builtin_datasets(miniature.write_corpora(args.output / "datasets"))
    try:
        experiment = index[args.name]
        steps = plan(index, experiment, args.opts, args.output, own_settings)
        check_chain(steps)
    except (KeyError, ValueError, FileNotFoundError) as error:
        raise SystemExit(f"reproduce: {error.args[0]}") from error
    with errors_in_one_line("reproduce"):
        metrics = run_chain(steps, job, args.num_gpus, print, show_hours=args.scale == "full")
    print(comparison(experiment, metrics))
    if experiment.paper.note:
        print(f"Note: {experiment.paper.note}.")
    if args.scale == "mini":
        print("Toy data and model: the metrics mean nothing; the chain runs.")
    return metrics


if __name__ == "__main__":
    main()
