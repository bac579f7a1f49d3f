"""A training step: in mixed precision, in parts that fit into memory, and not with a bad batch.

``SOLVER.IMS_PER_BATCH`` stays the batch of a step, so the data, their order, the schedule and a
resumed run are those of training without parts (gradient accumulation). Losses and re-id memories
are those of the whole batch, too (:mod:`spnet_d2.modeling.whole_batch`). They depend on all parts,
so every part passes twice: first without gradients, to count, then with the same random numbers, to
train. That takes a forward pass more, unless annotations alone give the counts
(:mod:`spnet_d2.modeling.known_counts`). Left to the parts are statistics of batch norms, (query,
image) pairs, padding of images of different sizes, and the people that NT-Xent compares.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from spnet_d2.engine.bad_batches import BadBatches, Moment, agree, file_names, not_finite
from spnet_d2.engine.batch_parts import count_parts, cut
from spnet_d2.engine.optimizer import clip_gradient
from spnet_d2.engine.outcome import Outcome
from spnet_d2.modeling.precision import autocast
from spnet_d2.modeling.whole_batch import Parts


class StepTrainer(SimpleTrainer):
    """
    Detectron2's ``SimpleTrainer`` and ``AMPTrainer`` in one, with batches in parts.

    A batch is bad where a loss of it, or the gradient, is infinite or NaN, on any process. Then
    nothing moves: parameters, optimiser, batch norms' statistics, re-id memory, momentum encoder
    and random generators are on all processes what they were before it, and the run stops or goes
    on to the next batch. The momentum encoder moves with the optimiser's steps, once for each.

    With float16 the loss is scaled. A gradient that overflows makes the scale smaller, as happens
    now and then; it is no bad batch unless it would overflow unscaled. That step is left out, but
    its embeddings are in the re-id memory.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader,
        optimizer: torch.optim.Optimizer,
        *,
        steps: int = 1,
        views: int = 1,
        precision: str = "float32",
        on_bad_batch: str = "stop",
    ):
        """
        Args:
            model: an SPNet, also inside of ``DistributedDataParallel``.
            data_loader: its batches.
            optimizer: whose ``step`` raises FloatingPointError, and does nothing, where the
                gradient is infinite or NaN.
            steps: number of parts of a batch.
            views: images in a row that stay in one part.
            precision: one of ``spnet_d2.modeling.precision.PRECISIONS``.
            on_bad_batch: "stop" or "skip".
        """
        super().__init__(model, data_loader, optimizer)
        self.steps = steps
        self.views = views
        self.precision = precision
        self.bad_batches = BadBatches(on_bad_batch)
        self.device = next(model.parameters()).device
        self.grad_scaler = None
        if precision == "float16":
            self.grad_scaler = torch.amp.GradScaler(self.device.type)
        # An SPNet, or anything with its `move_twin_with`.
        network: Any = model.module if isinstance(model, DistributedDataParallel) else model
        self.network = network
        self.network.move_twin_with(optimizer)
        self._before = Moment(self.network)

    def run_step(self) -> None:
        """
        One optimiser step; losses are reported as the whole batch's.

        The host waits for the device once, when all of the backward pass is queued.

        Raises:
            BadBatchError: a loss or the gradient is infinite or NaN, and that stops the run.
        """
        assert self.model.training, "The model was changed to eval mode."
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self._before.keep()
        self.optimizer.zero_grad()
        parts = cut(data, self.steps, self.views)
        losses = self._backward(parts)
        self.after_backward()
        if self.grad_scaler:
            self.grad_scaler.unscale_(self.optimizer)
        outcome = Outcome.of(losses, clip_gradient(self.optimizer), data_time)
        problem = None
        if outcome.bad_losses:
            if self.grad_scaler:
                # As it was, and ready for the next gradient.
                self.grad_scaler.update(self.grad_scaler.get_scale())
            problem = agree(self._bad_losses(parts, losses)) or "A loss is infinite or NaN."
        else:
            outcome.write(data_time, self.iter)
            try:
                self._optimise(outcome.grad_norm)
            except FloatingPointError as error:
                # On all processes, for their gradients are the same.
                problem = agree(f"{error} {_whose(data)}")
        if problem is None:
            self.bad_batches.good()
        else:
            self._before.restore()
            self.bad_batches.bad(problem, self.iter)
        if self.bad_batches.policy == "skip":
            get_event_storage().put_scalar(
                "bad_batches", self.bad_batches.count, smoothing_hint=False
            )

    def _backward(self, parts: list[list[dict]]) -> list[dict[str, Tensor]]:
        """Gradients of a batch in parts; the losses of each."""
        counted = None if self.steps == 1 else count_parts(self.network, parts, self._precision)
        losses: list[dict[str, Tensor]] = []
        for k, part in enumerate(parts):
            with self._part(counted, k, last=k == len(parts) - 1):
                with self._precision():
                    found = self.model(part)
                total = sum(found.values()) / len(parts)
                (self.grad_scaler.scale(total) if self.grad_scaler else total).backward()
            losses.append({name: loss.detach() for name, loss in found.items()})
        return losses

    def _bad_losses(self, parts: list[list[dict]], losses: list[dict[str, Tensor]]) -> str | None:
        """What is wrong with this process's losses, if anything."""
        for part, found in zip(parts, losses, strict=True):
            bad = not_finite({name: loss.item() for name, loss in found.items()})
            if bad:
                values = ", ".join(f"{name} {value}" for name, value in bad.items())
                return f"losses are infinite or NaN ({values}). {_whose(part)}"
        if not_finite(_means(losses)):
            return f"the mean loss is infinite. {_whose(sum(parts, []))}"
        return None

    def _precision(self) -> contextlib.AbstractContextManager:
        return autocast(self.device, self.precision)

    @contextlib.contextmanager
    def _part(self, counted: Parts | None, index: int, last: bool) -> Iterator[None]:
        """One of the parts that were counted; gradients of all processes are added up once."""
        with contextlib.ExitStack() as stack:
            if isinstance(self.model, DistributedDataParallel) and not last:
                stack.enter_context(self.model.no_sync())
            if counted is not None:
                stack.enter_context(counted.part(index, counting=False))
            yield

    def _optimise(self, grad_norm: float) -> None:
        """
        The optimiser's step.

        Args:
            grad_norm: of the gradient, unscaled.

        Raises:
            FloatingPointError: the gradient is infinite or NaN, and there was none.
        """
        finite = math.isfinite(grad_norm)
        if self.grad_scaler is None:
            if not finite:
                raise FloatingPointError(f"The norm of the gradient is {grad_norm}.")
            self._move(grad_norm)
            return
        scale = self.grad_scaler.get_scale()
        get_event_storage().put_scalar("loss_scale", scale, smoothing_hint=False)
        # Not its ``step``, which would ask the device once more whether the gradient is finite.
        if finite:
            self._move(grad_norm)
        self.grad_scaler.update()
        if finite:
            return
        if self.grad_scaler.get_scale() >= scale:
            raise FloatingPointError(f"The norm of the gradient is {grad_norm}.")
        if scale <= 1:
            raise FloatingPointError("The gradient is infinite or NaN, also of the unscaled loss.")

    def _move(self, grad_norm: float) -> None:
        self.optimizer.step()
        self.optimizer.grad_norm = grad_norm

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["bad_batches"] = self.bad_batches.count
        if self.grad_scaler:
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        # Older checkpoints don't have it.
        self.bad_batches.count = state_dict.get("bad_batches", 0)
        if self.grad_scaler and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def _means(losses: list[dict[str, Tensor]]) -> dict[str, float]:
    return {
        name: torch.stack([part[name].float() for part in losses]).sum(dim=0).item() / len(losses)
        for name in losses[0]
    }


def _whose(data: list[dict]) -> str:
    return f"The batch: {file_names(data)}"


def training_precision(cfg: CfgNode) -> str:
    """``SOLVER.AMP.PRECISION`` if mixed precision is on, else float32."""
    return cfg.SOLVER.AMP.PRECISION if cfg.SOLVER.AMP.ENABLED else "float32"


def build_step_trainer(
    cfg: CfgNode, model: nn.Module, data_loader, optimizer: torch.optim.Optimizer
) -> StepTrainer:
    """The trainer of a config."""
    return StepTrainer(
        model,
        data_loader,
        optimizer,
        steps=cfg.SOLVER.ACCUMULATION_STEPS,
        views=cfg.DATALOADER.VIEWS_PER_IMAGE,
        precision=training_precision(cfg),
        on_bad_batch=cfg.SOLVER.ON_BAD_BATCH,
    )
