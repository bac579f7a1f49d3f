"""The trainer's whole step, as a user's run has it, and nothing else."""

import itertools

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from spnet_d2.analysis.timing import PartClock, Timing
from spnet_d2.data.synthetic import make_batch
from spnet_d2.engine.optimizer import build_optimizer
from spnet_d2.engine.step import build_step_trainer


def time_whole_steps(
    cfg: CfgNode, images: int, side: int, people: int, repetitions: int, warm_up: int
) -> Timing:
    """
    Seconds of training steps on noise, with the checks, the scaled loss and the memories of a run.

    Args:
        cfg: of :func:`spnet_d2.analysis.measured_config`.
        images: in a batch.
        side: of the square crops, pixels.
        people: in each.
        repetitions, warm_up: steps that count, and steps before them.
    """
    torch.manual_seed(0)
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    for group in optimizer.param_groups:
        # Weights stay, so that all repetitions have the same work to do.
        group["lr"] = 0.0
    lut = getattr(model.roi_heads.reid_loss, "lut", None)
    batch = make_batch(images, side, people, 0 if lut is None else len(lut))
    batch = [{**x, "file_name": "synthetic"} for x in batch]
    trainer = build_step_trainer(cfg, model, itertools.repeat(batch), optimizer)
    clock, timing = PartClock(model.device), Timing()
    with EventStorage():
        for i in range(warm_up + repetitions):
            trainer.iter = i
            with clock.running(timing if i >= warm_up else Timing()):
                trainer.run_step()
    return timing
