"""Run a study of pre-training, and put its tables and plots together."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode

from spnet_d2.utils.atomic_io import atomic_path, write_json, write_text
from spnet_d2.utils.own_process import train_command, with_this_package
from spnet_d2.utils.settings_option import KeyValuePairs

from .pretraining_grid import Run, Study, check_settings, collect, make_grid, plot, run_grid, table


def add_study_options(parser: argparse.ArgumentParser, root: Path, output: str) -> None:
    """
    Options of a study's tool.

    Args:
        parser: of the tool.
        root: of the project.
        output: default folder of the results, below ``outputs``.
    """
    data = Path(os.environ.get("DETECTRON2_DATASETS", root / "datasets"))
    add = parser.add_argument
    add("--output", type=Path, default=root / "outputs" / output, help="default: %(default)s")
    add("--datasets", type=Path, default=data, help="folder that has or gets pets09/")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="%(default)s")
    add("--jobs", type=int, default=2, help="runs at a time, one thread each")
    add("--report-only", action="store_true", help="no runs, only table and plot")
    add(
        "--opts",
        nargs="+",
        default=[],
        action=KeyValuePairs,
        metavar="KEY VALUE",
        help="settings of every run",
    )


def check_study_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End the program where options can't be used."""
    if args.jobs < 1:
        parser.error(f"--jobs must be at least 1, found {args.jobs}")


def run_study(study: Study, args: argparse.Namespace, root: Path, common: Sequence[str]) -> None:
    """
    Run what is not finished, and write results.json, and table.md and plot.png of each target.

    Args:
        study: what to run.
        args: of :func:`add_study_options`.
        root: of the project.
        common: KEY VALUE settings of all runs.

    Raises:
        ValueError: a run's folder was made with other settings.
        SystemExit: a run failed, or none is finished.
    """
    chains = make_grid(study, args.seeds)
    failed = [] if args.report_only else train_all(chains, study.configs, args, root, common)
    _report(study, chains, args.output)
    end_if_failed(failed)


def train_all(
    chains: Sequence[Sequence[Run]],
    configs: Path,
    args: argparse.Namespace,
    root: Path,
    common: Sequence[str],
) -> list[str]:
    """
    Run what is not finished.

    Args:
        chains: of :func:`~.pretraining_grid.run_grid`.
        configs: folder of their configs, below ``root``.
        args, root, common: as in :func:`run_study`.

    Returns:
        Names of the runs that failed.

    Raises:
        ValueError: a run's folder was made with other settings.
    """
    for run in (run for chain in chains for run in chain):
        config = CfgNode.load_yaml_with_base(str(root / configs / run.config))
        check_settings(run, args.output, args.opts, CfgNode(config).dump())

    def command(run) -> list[str]:
        start = train_command(root / configs / run.config)
        return [*start, *run.settings(args.output), *common]

    # Two runs of one thread are faster than one run of two.
    environment = {
        **with_this_package(os.environ),
        "DETECTRON2_DATASETS": str(args.datasets.absolute()),
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // args.jobs)),
    }
    return run_grid(chains, args.output, command, environment, args.jobs, _say)


def end_if_failed(failed: Sequence[str]) -> None:
    """
    Raises:
        SystemExit: with their names, if there are any.
    """
    if failed:
        raise SystemExit(f"{len(failed)} runs failed: {', '.join(failed)}. Repeat the command.")


def _report(study: Study, chains: Sequence[Sequence[Run]], output: Path) -> None:
    results = {}
    for target in study.targets:
        found = collect(chains, output, target)
        if not found:
            continue
        results[target.prefix.rstrip("_")] = found
        text = table(found, target, study)
        write_text(output / f"{target.prefix}table.md", text + "\n")
        with atomic_path(output / f"{target.prefix}plot.png") as part:
            plot(found, target, study).savefig(part, dpi=110, format="png")
        _say(f"{target.prefix.replace('_', ' ').strip()}\n{text}".strip())
        _say(f"table and plot: {output}/{target.prefix}table.md, {target.prefix}plot.png")
    if not results:
        raise SystemExit(f"No run below {output} is finished.")
    # A study's only target has no name.
    write_json(output / "results.json", results.get("", results), indent=1, allow_nan=True)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201
