"""Running the steps of an experiment one after the other, skipping what is done."""

import json
import logging
import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from spnet_d2.experiments.index import OUTPUT_ROOT, Experiment, Index
from spnet_d2.experiments.results import metrics_file, read_metrics, relocated
from spnet_d2.utils.run_record import Record, differences

logger = logging.getLogger(__name__)

RECORD = "reproduce.json"
# Settings that may differ between the parts of one run: they don't change its result.
_HARMLESS = (
    "DATALOADER.NUM_WORKERS",
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",
    "OUTPUT_DIR",
    "SOLVER.BACKUP_PERIOD",
    "SOLVER.CHECKPOINT_EPOCHS",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.EVAL_EPOCHS",
    "TEST.EVAL_PERIOD",
    "VIS_PERIOD",
    "CUDNN_BENCHMARK",
)


@dataclass(frozen=True)
class Step:
    """
    One job of a chain.

    Attributes:
        experiment: what is trained, or evaluated.
        opts: settings on top of its config, KEY VALUE after KEY VALUE.
        output_root: takes the place of ``outputs`` in its paths.
    """

    experiment: Experiment
    opts: tuple
    output_root: Path

    @property
    def cfg(self) -> CfgNode:
        cfg = self.experiment.cfg.clone()
        cfg.defrost()
        cfg.merge_from_list(list(self.opts))
        return cfg

    @property
    def folder(self) -> Path:
        return relocated(self.experiment.output_dir, self.output_root)

    @property
    def record(self) -> Record:
        return Record(self.folder / RECORD)

    def metrics(self) -> dict[str, float] | None:
        """Percent by metric if the step is finished, else None."""
        record = self.record.read()
        return record["metrics"] if record else None

    def check(self) -> None:
        """
        Refuse to go on with a run of other settings.

        Raises:
            ValueError: its folder has such a run.
        """
        record = self.record.read()
        if record is None:
            return
        then, now = record["config"], _flat(self.cfg)
        # Keys that one of two versions lacks say nothing.
        both = [k for k in now if k in then and k not in _HARMLESS]
        if changes := differences({k: then[k] for k in both}, {k: now[k] for k in both}):
            self.record.refuse(changes)

    def missing_inputs(self) -> list[str]:
        """What the step reads and does not find, beside weights of earlier steps."""
        cfg = self.cfg
        missing = []
        training = () if self.experiment.paper.evaluate else cfg.DATASETS.TRAIN
        for name in dict.fromkeys([*training, *cfg.DATASETS.TEST]):
            metadata = MetadataCatalog.get(name) if name in DatasetCatalog else None
            json_file = metadata.get("person_search_file", "") if metadata else ""
            if metadata is None:
                missing.append(f"data set {name} is not registered")
            elif json_file and not os.path.isfile(json_file):
                missing.append(f"{json_file} of {name}. {metadata.get('prepare_hint', '')}")
        weights = cfg.MODEL.SPNET.BACKBONE.PRETRAINED
        if training and weights not in ("", "hub", "torchvision") and not os.path.isfile(weights):
            missing.append(f"MODEL.SPNET.BACKBONE.PRETRAINED {weights}")
        return missing

    def run(self, job: Callable[[Namespace], Any], num_gpus: int) -> dict[str, float]:
        """
        Train and evaluate, going on from the last checkpoint if there is one.

        Args:
            job: ``main`` of ``tools/train_net.py``, or what launches it.
            num_gpus: for ``job``.

        Returns:
            Percent by metric.

        Raises:
            RuntimeError: the job ended without an evaluation.
        """
        self._write(metrics=None)
        evaluate = self.experiment.paper.evaluate
        file = metrics_file(self.experiment, self.output_root)
        # Of an evaluation in between: only the last one counts.
        file.unlink(missing_ok=True)
        job(
            Namespace(
                config_file=str(self.experiment.config_file),
                opts=list(self.opts),
                num_gpus=num_gpus,
                num_machines=1,
                machine_rank=0,
                dist_url="auto",
                resume=not evaluate,
                eval_only=evaluate,
                allow_untrained=False,
            )
        )
        metrics = read_metrics(file)
        if metrics is None:
            raise RuntimeError(f"{self.experiment.name} ended without writing {file}.")
        self._write(metrics)
        return metrics

    def _write(self, metrics: dict[str, float] | None) -> None:
        name, config = self.experiment.name, _flat(self.cfg)
        self.record.write({"experiment": name, "metrics": metrics, "config": config})


def plan(
    index: Index,
    experiment: Experiment,
    opts: Sequence = (),
    output_root: str | Path = OUTPUT_ROOT,
    own_settings: Callable[[CfgNode], list] = lambda cfg: [],
) -> list[Step]:
    """
    The steps that lead to an experiment.

    Args:
        opts: KEY VALUE pairs for every step.
        output_root: takes the place of ``outputs``.
        own_settings: further pairs, by the config of each step; ``opts`` win over them.
    """
    steps = []
    for part in index.chain(experiment):
        settings = ["OUTPUT_DIR", str(relocated(part.output_dir, output_root))]
        if index.source(part) is not None:
            settings += ["MODEL.WEIGHTS", str(relocated(part.cfg.MODEL.WEIGHTS, output_root))]
        settings += [*own_settings(part.cfg), *opts]
        steps.append(Step(part, tuple(settings), Path(output_root)))
    return steps


def check_chain(steps: Sequence[Step]) -> None:
    """
    See that a chain can run through, before it costs hours.

    Raises:
        FileNotFoundError: data or weights that an unfinished step needs are not there.
        ValueError: a step's folder has a run of other settings.
    """
    missing = []
    for step in steps:
        step.check()
        if step.metrics() is None:
            missing += step.missing_inputs()
    if missing:
        lines = "\n  ".join(dict.fromkeys(missing))
        raise FileNotFoundError(f"Nothing was run, for there is no\n  {lines}")


def run_chain(
    steps: Sequence[Step],
    job: Callable[[Namespace], Any],
    num_gpus: int = 1,
    say: Callable[[str], Any] = logger.info,
    show_hours: bool = True,
) -> dict[str, float]:
    """
    Run what is not finished.

    Args:
        steps: of :func:`plan`.
        job: ``main`` of ``tools/train_net.py``, or what launches it.
        num_gpus: for ``job``.
        say: gets a line for every step.
        show_hours: say what a step costs; of no use in miniature.

    Returns:
        The last step's metrics, in percent.
    """
    metrics: dict[str, float] = {}
    for number, step in enumerate(steps, start=1):
        name, where = step.experiment.name, f"[{number}/{len(steps)}]"
        finished = step.metrics()
        if finished is not None:
            say(f"{where} {name} is finished: {step.folder}")
            metrics = finished
            continue
        if (step.folder / "last_checkpoint").is_file():
            say(f"{where} {name} goes on from its last checkpoint")
        else:
            hours = step.experiment.paper.hours
            cost = f", about {hours:.1f} h on one A100" if hours and show_hours else ""
            say(f"{where} {name} starts ({step.experiment.kind}{cost})")
        metrics = step.run(job, num_gpus)
    return metrics


def _flat(cfg: CfgNode, prefix: str = "") -> dict[str, Any]:
    """Every key of a config with its value, as JSON has it (which has no tuples)."""
    flat = {}
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = json.loads(json.dumps(value))
    return flat
