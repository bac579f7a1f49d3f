"""Gradient accumulation: a batch in parts that fit into memory, one optimiser step for all.

``SOLVER.IMS_PER_BATCH`` stays the batch of a step, so the data, their order, the schedule and a
resumed run are those of training without accumulation. Losses and re-id memories are those of the
whole batch, too (:mod:`spnet_d2.modeling.whole_batch`). They depend on all parts, so every part
passes twice: first without gradients, to count, then with the same random numbers, to train. That
takes a forward pass more. Left to the parts are statistics of batch norms, (query, image) pairs,
padding of images of different sizes, and the people that NT-Xent compares.
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

from spnet_d2.engine.batch_parts import count_parts, cut


class AccumulatingTrainer(SimpleTrainer):
    """Detectron2's ``SimpleTrainer``, with every batch cut into ``steps`` parts."""

    def __init__(self, *args, steps: int, views: int = 1, **kwargs):
        """
        Args:
            steps: number of parts; the trainer's other arguments are Detectron2's.
            views: images in a row that stay in one part.
        """
        super().__init__(*args, **kwargs)
        self.steps = steps
        self.views = views

    def run_step(self) -> None:
        """
        One optimiser step; losses are reported as the whole batch's.

        Raises:
            FloatingPointError: a loss is infinite or NaN; no parameter was changed.
        """
        assert self.model.training, "The model was changed to eval mode."
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        inputs = cut(data, self.steps, self.views)
        parts = count_parts(self.model, inputs, self._precision)
        self.optimizer.zero_grad()
        means: dict[str, Tensor] = {}
        for k, part in enumerate(inputs):
            with self._part(last=k == len(inputs) - 1), parts.part(k, counting=False):
                with self._precision():
                    losses = self.model(part)
                    losses = {name: loss / len(inputs) for name, loss in losses.items()}
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
            *parts,
            steps=steps,
            views=views,
            grad_scaler=trainer.grad_scaler,
            precision=trainer.precision,
        )
    return AccumulatingTrainer(*parts, steps=steps, views=views)
