"""SPNet, SeqNeXt and SeqNet trained in miniature at equal budget, on real footage."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from spnet_d2.experiments.pretraining_grid import PETS09, Run, Target, collect, metrics_table

CONFIGS = PETS09.configs
# Config of projects_configs/pets09 -> model.
MODELS = {"spnet": "SPNet", "seqnext": "SeqNeXt", "seqnet": "SeqNet"}
_METRICS = {
    f"{protocol}/{metric}": f"{prefix}{heading}"
    for protocol, prefix in (("standard", ""), ("reentry", "re-entry "))
    for metric, heading in (
        ("mAP", "mAP"),
        ("top1", "top-1"),
        ("gt_mAP", "GT mAP"),
        ("gt_top1", "GT top-1"),
    )
} | {"AP50": "AP@0.5"}
TARGETS = {key: Target(f"{key}_", f"{key}.yaml", "pets09_test", _METRICS) for key in MODELS}


def make_runs(seeds: Iterable[int]) -> list[list[Run]]:
    """Chains of one run each: all models of a seed, then the next seed."""
    return [
        [Run(f"{key}_s{seed}", target.config, ("SEED", str(seed)), target=target)]
        for seed in seeds
        for key, target in TARGETS.items()
    ]


def collect_models(
    chains: Iterable[Iterable[Run]], root: Path
) -> dict[str, list[dict[str, float]]]:
    """Metrics of finished runs in percent, by key of ``MODELS``, one entry per seed."""
    grid = [list(chain) for chain in chains]
    found = {key: collect(grid, root, target) for key, target in TARGETS.items()}
    # A target's runs are all of one start.
    return {key: next(iter(runs.values())) for key, runs in found.items() if runs}


def models_table(found: Mapping[str, list[dict[str, float]]]) -> str:
    """Markdown: mean and standard deviation over seeds."""
    return metrics_table(found, MODELS, _METRICS, "model")
