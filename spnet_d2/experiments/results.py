"""What runs reached: the metrics that evaluations left below an output folder."""

import json
from pathlib import Path

from spnet_d2.experiments.index import OUTPUT_ROOT, Experiment, Index

# Metric -> heading.
HEADINGS = {"mAP": "mAP", "top1": "top-1", "gt_mAP": "GT mAP", "AP50": "AP@0.5"}


def relocated(path: str, output_root: str | Path) -> Path:
    """A path of a config below another output root than ``outputs``."""
    below = Path(path)
    if below.parts[:1] == (OUTPUT_ROOT,):
        return Path(output_root).joinpath(*below.parts[1:])
    return below


def metrics_file(experiment: Experiment, output_root: str | Path = OUTPUT_ROOT) -> Path:
    """Where the last evaluation of an experiment writes its metrics."""
    folder = relocated(experiment.output_dir, output_root)
    return folder / "inference" / experiment.cfg.DATASETS.TEST[0] / "metrics.json"


def read_metrics(path: Path) -> dict[str, float] | None:
    """
    Percent by metric of a ``metrics.json`` of the evaluation; None if there is no such file.

    Raises:
        ValueError: it is no such file.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: 100 * content[name] for name in HEADINGS if content.get(name) is not None}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no metrics.json of an evaluation ({error}); remove it and evaluate again"
        ) from error


def reached(index: Index, output_root: str | Path) -> dict[str, dict[str, float]]:
    """Metrics, in percent, of every experiment that has been evaluated below ``output_root``."""
    found = {}
    for experiment in index:
        metrics = read_metrics(metrics_file(experiment, output_root))
        if metrics:
            found[experiment.name] = metrics
    return found
