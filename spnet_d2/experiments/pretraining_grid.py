"""Does pre-training help on real footage? A grid of small runs (Figure 6 in miniature).

For every seed: fine-tuning from ImageNet weights alone, and after object-centric or query-centric
pre-training on boxes without identities, of which all are there, most are missing, or to which
spurious ones were added.
"""

import json
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from matplotlib.figure import Figure
from tabulate import tabulate

from spnet_d2.experiments.plots import shared_legend
from spnet_d2.utils.run_record import Record

PATHWAYS = ("oc", "qc")
# Percent of the boxes' number: 80 % missing, all, 80 % spurious ones added.
LABELS = (20, 100, 180)
# Lines of a plot: pre-training, and how fine-tuning starts from it.
SERIES = {
    "oc": "OC pre-training",
    "qc": "QC pre-training",
    "qc_fitted": "QC pre-training, fitted bridge",
}
FITTED = ("MODEL.SPNET.INIT.BRIDGE", "least_squares")
_COLOURS = {"oc": "tab:orange", "qc": "tab:blue", "qc_fitted": "tab:green"}
# Along the axis, so that one line's spread doesn't hide another's.
_SHIFT = {"oc": -2, "qc": 2, "qc_fitted": 5}


@dataclass(frozen=True)
class Target:
    """
    What pre-trained weights are fine-tuned and evaluated on.

    Attributes:
        prefix: of the runs' names; empty for a study's only one.
        config: file of the fine-tuning, in the study's folder.
        test_set: registered name.
        metrics: key of ``metrics.json`` -> heading, in the table's order.
    """

    prefix: str
    config: str
    test_set: str
    metrics: Mapping[str, str]


@dataclass(frozen=True)
class Study:
    """
    Attributes:
        configs: folder of the configs, with ``pretrain_oc.yaml`` and ``pretrain_qc.yaml``.
        weak_set: registered name of all boxes; noisy ones have ``_p20``, ``_p180`` behind it.
        targets: fine-tunings of each pre-training.
        fits_bridges: fine-tunings after query-centric pre-training are repeated with bridges that
            start as least-squares maps.
    """

    configs: Path
    weak_set: str
    targets: tuple[Target, ...]
    fits_bridges: bool = False

    @property
    def series(self) -> tuple[str, ...]:
        """Keys of ``SERIES``."""
        return (*PATHWAYS, "qc_fitted") if self.fits_bridges else PATHWAYS


_PETS09_METRICS = {
    "standard/mAP": "mAP",
    "standard/gt_mAP": "GT mAP",
    "reentry/mAP": "re-entry mAP",
    "reentry/gt_mAP": "re-entry GT mAP",
    "AP50": "AP@0.5",
}
# Its only protocol: metrics.json has no name before a figure (docs/evaluation.md).
_MOT15_METRICS = {"mAP": "mAP", "gt_mAP": "GT mAP", "AP50": "AP@0.5"}
# The demo's own people.
PETS09 = Study(
    Path("projects_configs/pets09"),
    "pets09_weak_train",
    (Target("", "experiment_finetune.yaml", "pets09_test", _PETS09_METRICS),),
)
# Pre-trained on strangers, fine-tuned on some people, evaluated on others.
STRANGERS = Study(
    Path("projects_configs/strangers"),
    "strangers_weak",
    (
        Target("on_mot15_", "finetune_mot15.yaml", "pets09_test", _PETS09_METRICS),
        Target("on_pets09_", "finetune_pets09.yaml", "mot15_people", _MOT15_METRICS),
    ),
    fits_bridges=True,
)


@dataclass(frozen=True)
class Run:
    """
    One training.

    Attributes:
        name: of its folder.
        config: file in the study's folder.
        opts: settings on top of it, without folders.
        source: the run whose weights it starts from, if any.
        target: of a fine-tuning.
    """

    name: str
    config: str
    opts: tuple[str, ...]
    source: "Run | None" = None
    target: Target | None = None

    def result_file(self, root: Path) -> Path:
        """What exists when the run is finished."""
        if self.target:
            return root / self.name / "inference" / self.target.test_set / "metrics.json"
        return root / self.name / "model_final.pth"

    def settings(self, root: Path) -> list[str]:
        """KEY VALUE pairs for ``tools/train_net.py``."""
        weights = ["MODEL.WEIGHTS", str(self.source.result_file(root))] if self.source else []
        return [*self.opts, *weights, "OUTPUT_DIR", str(root / self.name)]


def make_grid(study: Study, seeds: Iterable[int]) -> list[list[Run]]:
    """Chains of runs, one per start; a chain's runs follow one another."""
    chains = []
    for seed in seeds:
        at_seed = ("SEED", str(seed))
        chains.append(_fine_tunings(study, f"none_s{seed}", at_seed, None))
        # All labels first: what the others are compared with.
        for labels in sorted(LABELS, key=lambda percent: percent != 100):
            data = study.weak_set + ("" if labels == 100 else f"_p{labels}")
            for pathway in PATHWAYS:
                end = f"p{labels}_s{seed}"
                opts = (*at_seed, "DATASETS.TRAIN", f"('{data}',)")
                first = Run(f"pretrain_{pathway}_{end}", f"pretrain_{pathway}.yaml", opts)
                chain = [first, *_fine_tunings(study, f"{pathway}_{end}", at_seed, first)]
                if pathway == "qc" and study.fits_bridges:
                    chain += _fine_tunings(study, f"qc_fitted_{end}", (*at_seed, *FITTED), first)
                chains.append(chain)
    return chains


def _fine_tunings(study: Study, name: str, opts: tuple[str, ...], source: Run | None) -> list[Run]:
    return [Run(f"{t.prefix}{name}", t.config, opts, source, t) for t in study.targets]


def check_settings(run: Run, root: Path, common: Sequence[str], config_text: str) -> None:
    """
    Remember what a run is made with; refuse to mix it with what another setting left.

    Args:
        common: KEY VALUE pairs for all runs.
        config_text: of the run's config and the files below it.

    Raises:
        ValueError: its folder was made with other settings.
    """
    record = Record(root / run.name / "settings.json")
    settings = {"config": config_text, "opts": [*run.opts, *common]}
    then = record.read()
    if then is None:
        record.write(settings)
    elif then != settings:
        now, before = " ".join(settings["opts"]), " ".join(then["opts"])
        record.refuse(f"now {now}, then {before}, or {run.config} changed")


def run_grid(
    chains: Sequence[Sequence[Run]],
    root: Path,
    command: Callable[[Run], list[str]],
    environment: dict[str, str],
    jobs: int,
    say: Callable[[str], object],
) -> list[str]:
    """
    Run what is not finished, ``jobs`` chains at a time.

    A run's output goes to ``output.log`` in its folder. One that fails ends its chain; the others
    go on.

    Args:
        command: of a run; it has to continue from the last checkpoint by itself.
        environment: of the commands.
        say: gets a line for every run that starts, ends, or is skipped.

    Returns:
        Names of the runs that failed.
    """

    def is_finished(run: Run) -> bool:
        return run.result_file(root).is_file()

    def run_chain(chain: Sequence[Run]) -> str | None:
        if all(is_finished(run) for run in chain if run.target):
            return None
        for run in chain:
            if is_finished(run):
                continue
            say(f"{run.name} starts")
            folder = root / run.name
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "output.log").open("a", encoding="utf-8") as log:
                code = subprocess.run(
                    command(run), stdout=log, stderr=subprocess.STDOUT, env=environment
                ).returncode
            if code or not is_finished(run):
                say(f"{run.name} FAILED (exit status {code}); see {folder / 'output.log'}")
                return run.name
        return None

    failed = []
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(run_chain, chain): chain[-1].name for chain in chains}
        for done, future in enumerate(as_completed(futures), start=1):
            name = future.result()
            failed += [name] if name else []
            if not name:
                say(f"[{done}/{len(chains)}] {futures[future]} is finished")
    return sorted(failed)


def collect(
    chains: Sequence[Sequence[Run]], root: Path, target: Target
) -> dict[str, list[dict[str, float]]]:
    """Metrics of a target's finished fine-tunings, in percent: by variant (``none``, ``qc_p100``
    ...), one entry per seed."""
    found: dict[str, list[dict[str, float]]] = {}
    for run in (run for chain in chains for run in chain if run.target == target):
        file = run.result_file(root)
        if file.is_file():
            content = json.loads(file.read_text(encoding="utf-8"))
            variant = run.name.removeprefix(target.prefix).rpartition("_s")[0]
            metrics = {key: 100 * content[key] for key in target.metrics}
            found.setdefault(variant, []).append(metrics)
    return found


def variants(study: Study) -> dict[str, str]:
    """Variant -> what it is, in the table's order."""
    names = {100: "all boxes", 20: "80 % missing", 180: "80 % spurious"}
    rows = {"none": "ImageNet only"}
    for labels, text in names.items():
        rows.update({f"{key}_p{labels}": f"{SERIES[key]}, {text}" for key in study.series})
    return rows


def table(found: dict[str, list[dict[str, float]]], target: Target, study: Study) -> str:
    """Markdown: mean and standard deviation over seeds."""
    return metrics_table(found, variants(study), target.metrics, "start")


def metrics_table(
    found: Mapping[str, list[dict[str, float]]],
    labels: Mapping[str, str],
    metrics: Mapping[str, str],
    first: str,
) -> str:
    """
    Markdown: mean and standard deviation over seeds.

    Args:
        found: metrics of each seed, by variant.
        labels: variant -> what it is, in the table's order.
        metrics: metric -> heading, likewise.
        first: heading of the variants.
    """
    rows = []
    for variant, label in labels.items():
        runs = found.get(variant, [])
        cells = []
        for key in metrics:
            values = [run[key] for run in runs]
            spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.1f}{spread}" if values else "")
        rows.append([label, *cells, len(runs)])
    return tabulate(rows, [first, *metrics.values(), "seeds"], tablefmt="github")


def plot(found: dict[str, list[dict[str, float]]], target: Target, study: Study) -> Figure:
    """Metrics over the share of labels: after each pre-training, and without one."""
    figure = Figure(figsize=(3.4 * len(target.metrics), 3.2), layout="constrained")
    axes = figure.subplots(1, len(target.metrics))
    for axis, (key, heading) in zip(axes, target.metrics.items(), strict=True):
        for line in study.series:
            points = [
                (labels, [run[key] for run in found[f"{line}_p{labels}"]])
                for labels in LABELS
                if f"{line}_p{labels}" in found
            ]
            if points:
                x = [labels for labels, _ in points]
                y = [mean(values) for _, values in points]
                errors = [stdev(values) if len(values) > 1 else 0.0 for _, values in points]
                axis.errorbar(
                    [value + _SHIFT[line] for value in x],
                    y,
                    errors,
                    fmt="o-",
                    capsize=3,
                    color=_COLOURS[line],
                    label=SERIES[line],
                )
        values = [run[key] for run in found.get("none", [])]
        if values:
            axis.axhline(mean(values), linestyle="--", color="gray", label="ImageNet only")
        axis.set_title(heading)
        axis.set_xlabel("labels (%)")
        axis.set_xticks(LABELS)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("percent")
    shared_legend(figure, axes)
    return figure
