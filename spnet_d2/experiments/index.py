"""Experiments as configs: which one starts from whose weights, and what they share.

The configs are the only source of that: a config starts from the experiment in whose
``OUTPUT_DIR`` its ``MODEL.WEIGHTS`` lies.
"""

import difflib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath

from detectron2.config import CfgNode

from spnet_d2.config_reader import read_config
from spnet_d2.experiments.paper import Published, published

CONFIG_FOLDER = "projects_configs"
# Every OUTPUT_DIR starts with it; another one can be put in its place.
OUTPUT_ROOT = "outputs"
FINAL_WEIGHTS = "model_final.pth"


@dataclass(frozen=True)
class Experiment:
    """
    An experiment of the paper with its config.

    Attributes:
        paper: what was published of it.
        config_file: its YAML.
    """

    paper: Published
    config_file: Path

    @property
    def name(self) -> str:
        return self.paper.name

    @cached_property
    def cfg(self) -> CfgNode:
        """The whole config, frozen; nothing that depends on data is filled in."""
        cfg = read_config(self.config_file)
        cfg.freeze()
        return cfg

    @property
    def output_dir(self) -> str:
        """``OUTPUT_DIR``. Experiments that are the same run have the same."""
        return self.cfg.OUTPUT_DIR

    @property
    def kind(self) -> str:
        """``pre-train``, ``fine-tune`` or ``evaluate``."""
        if self.paper.evaluate:
            return "evaluate"
        return "fine-tune" if self.paper.corpus else "pre-train"


class Index:
    """All experiments by name, in the order of the paper."""

    def __init__(self, experiments: list[Experiment]):
        self._experiments = {experiment.name: experiment for experiment in experiments}

    def __iter__(self):
        return iter(self._experiments.values())

    def __len__(self) -> int:
        return len(self._experiments)

    def __getitem__(self, name: str) -> Experiment:
        """
        Find an experiment by its name, or by its config file.

        Raises:
            KeyError: there is none; the message names similar ones.
        """
        key = name.removesuffix(".yaml").removeprefix(f"{CONFIG_FOLDER}/")
        if key not in self._experiments:
            similar = difflib.get_close_matches(key, self._experiments, n=3, cutoff=0.4)
            hint = f"similar: {', '.join(similar)}" if similar else "see --list"
            raise KeyError(f"no experiment {name!r}; {hint}")
        return self._experiments[key]

    @cached_property
    def _by_output(self) -> dict[PurePath, Experiment]:
        """The first experiment of each output folder."""
        found: dict[PurePath, Experiment] = {}
        for experiment in self:
            found.setdefault(PurePath(experiment.output_dir), experiment)
        return found

    def run_of(self, experiment: Experiment) -> Experiment:
        """The experiment whose run this one is: itself, unless it shares another's outputs."""
        return self._by_output[PurePath(experiment.output_dir)]

    def source(self, experiment: Experiment) -> Experiment | None:
        """The experiment whose final weights this one starts from, if any."""
        weights = PurePath(experiment.cfg.MODEL.WEIGHTS)
        return self._by_output.get(weights.parent) if weights.name == FINAL_WEIGHTS else None

    def chain(self, experiment: Experiment) -> list[Experiment]:
        """What has to run, in this order, to get this experiment; it is the last."""
        steps = [self.run_of(experiment)]
        while (source := self.source(steps[0])) is not None:
            steps.insert(0, source)
        return steps

    def hours(self, experiment: Experiment) -> float:
        """GPU hours of the whole chain on one A100, as the paper gives or implies them."""
        return sum(step.paper.hours or 0.0 for step in self.chain(experiment))


def load_index(root: str | Path) -> Index:
    """
    All experiments of the paper.

    Args:
        root: folder that holds ``projects_configs``.

    Raises:
        FileNotFoundError: an experiment has no config.
    """
    folder = Path(root) / CONFIG_FOLDER
    experiments = []
    for entry in published():
        config_file = folder / f"{entry.name}.yaml"
        if not config_file.is_file():
            raise FileNotFoundError(f"experiment {entry.name!r} has no config at {config_file}")
        experiments.append(Experiment(entry, config_file))
    return Index(experiments)
