"""Gradient accumulation: a batch in parts that fit into memory, one optimiser step for all.

``SOLVER.IMS_PER_BATCH`` stays the batch of a step, so the data, their order, the schedule and a
resumed run are those of training without accumulation. Whatever sees a batch as a whole sees a
part instead, so the weights that come out are not the same: statistics of batch norms, the
sampled (query, image) pairs and the normalisers of the losses (positives in the batch) are those
of a part, and re-id memories are written after each one.
"""

import contextlib
import time
from collections.abc import Iterator

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.utils import comm
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel


class AccumulatingTrainer(SimpleTrainer):
    """Detectron2's ``SimpleTrainer``, with every batch cut into ``steps`` equal parts."""

    def __init__(self, *args, steps: int, **kwargs):
        """
        Args:
            steps: number of parts; the trainer's other arguments are Detectron2's.
        """
        super().__init__(*args, **kwargs)
        self.steps = steps

    def run_step(self) -> None:
        """
        One optimiser step; losses are reported as means over the parts.

        Raises:
            FloatingPointError: a loss is infinite or NaN; no parameter was changed.
        """
        assert self.model.training, "The model was changed to eval mode."
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        size = len(data) // self.steps
        self.optimizer.zero_grad()
        means: dict[str, Tensor] = {}
        for k in range(self.steps):
            with self._part(last=k == self.steps - 1):
                with self._precision():
                    losses = self.model(data[k * size : (k + 1) * size])
                    losses = {name: loss / self.steps for name, loss in losses.items()}
                    total = sum(losses.values())
                self._backward(total)
            for name, loss in losses.items():
                means[name] = means.get(name, 0) + loss.detach()
        self.after_backward()
        self._write_metrics(means, data_time)
        self._optimise()

    @contextlib.contextmanager
    def _part(self, last: bool) -> Iterator[None]:
        """What is done once per step waits for the last part."""
        model, sync = self.model, contextlib.nullcontext()
        if isinstance(model, DistributedDataParallel):
            # Gradients of all processes are added up once.
            sync = contextlib.nullcontext() if last else model.no_sync()
            model = model.module
        # The momentum twin moves once, as its momentum is per step.
        model.update_twin = last
        try:
            with sync:
                yield
        finally:
            model.update_twin = True

    def _precision(self):
        return contextlib.nullcontext()

    def _backward(self, loss: Tensor) -> None:
        loss.backward()

    def _optimise(self) -> None:
        self.optimizer.step()


class AccumulatingAMPTrainer(AccumulatingTrainer, AMPTrainer):
    """The same with mixed precision."""

    def _precision(self):
        return torch.autocast(next(self.model.parameters()).device.type, dtype=self.precision)

    def _backward(self, loss: Tensor) -> None:
        self.grad_scaler.scale(loss).backward()

    def _optimise(self) -> None:
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()


def accumulate(trainer: SimpleTrainer, cfg: CfgNode) -> SimpleTrainer:
    """
    Give a trainer the accumulation that ``cfg`` asks for.

    Args:
        trainer: Detectron2's, not yet started.
        cfg: ``SOLVER.ACCUMULATION_STEPS``; 1 leaves the trainer as it is.

    Raises:
        ValueError: the batch of a process can't be cut into so many equal parts with all views
            of an image in one of them.
    """
    steps = cfg.SOLVER.ACCUMULATION_STEPS
    if steps == 1:
        return trainer
    images, views = cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.VIEWS_PER_IMAGE
    processes = comm.get_world_size()
    if steps < 1 or images % (steps * views * processes):
        raise ValueError(
            f"SOLVER.ACCUMULATION_STEPS is {steps}, but SOLVER.IMS_PER_BATCH {images} on "
            f"{processes} processes can't be cut into so many equal parts of whole sets of "
            f"DATALOADER.VIEWS_PER_IMAGE {views}."
        )
    parts = (trainer.model, trainer.data_loader, trainer.optimizer)
    if isinstance(trainer, AMPTrainer):
        return AccumulatingAMPTrainer(
            *parts, steps=steps, grad_scaler=trainer.grad_scaler, precision=trainer.precision
        )
    return AccumulatingTrainer(*parts, steps=steps)
