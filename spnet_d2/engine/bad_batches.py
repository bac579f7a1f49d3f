"""Batches whose losses or gradient are infinite or NaN (``SOLVER.ON_BAD_BATCH``)."""

import logging
import math
from collections.abc import Sequence

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from spnet_d2.engine import random_state
from spnet_d2.errors import UserError

logger = logging.getLogger(__name__)

# This many bad batches in a row are no accident.
_MOST_IN_A_ROW = 20


class BadBatchError(UserError, FloatingPointError):
    """A batch with a loss or gradient that is infinite or NaN; no state has anything of it."""


class Moment:
    """
    What a forward pass changes, to go back to: re-id memory, norms' statistics, random generators.

    Parameters and the momentum encoder's weights are not in it: they move with the optimiser's
    steps. Copies are made into the same storage every time, by a few kernels for all buffers
    together.
    """

    def __init__(self, model: nn.Module):
        self._modules = [module for module in model.modules() if module._buffers]
        self._kept: list[list[Tensor]] = []
        self._random: dict = {}

    @torch.no_grad()
    def keep(self) -> None:
        """The moment is now."""
        groups = self._buffers()
        shapes = [[b.shape for b in group] for group in groups]
        if shapes != [[b.shape for b in group] for group in self._kept]:
            # The first time, and after a checkpoint with a look-up table of another size.
            self._kept = [[torch.empty_like(b) for b in group] for group in groups]
        for kept, group in zip(self._kept, groups, strict=True):
            torch._foreach_copy_(kept, group)
        self._random = random_state.capture()

    @torch.no_grad()
    def restore(self) -> None:
        """Go back to it."""
        for kept, group in zip(self._kept, self._buffers(), strict=True):
            torch._foreach_copy_(group, kept)
        random_state.restore(self._random)

    def _buffers(self) -> list[list[Tensor]]:
        """All buffers by type: a kernel takes tensors of one type."""
        groups: dict[torch.dtype, list[Tensor]] = {}
        for module in self._modules:
            for buffer in module._buffers.values():
                if buffer is not None:
                    groups.setdefault(buffer.dtype, []).append(buffer)
        return list(groups.values())


def not_finite(losses: dict[str, float]) -> dict[str, float]:
    """Those of some losses that are infinite or NaN."""
    return {name: value for name, value in losses.items() if not math.isfinite(value)}


def agree(problem: str | None) -> str | None:
    """
    Put together what the processes found, once they know that one of them found something.

    Args:
        problem: this process's, if any. All processes must call this.
    """
    found = comm.all_gather(problem)
    if len(found) == 1:
        return problem
    parts = [f"process {rank}: {text}" for rank, text in enumerate(found) if text]
    return "; ".join(parts) or None


def file_names(batch: Sequence) -> str:
    """Names of the images of a batch, for a message."""
    return ", ".join(str(x["file_name"]) for x in batch)


class BadBatches:
    """Counts the batches of a run that were left out, and knows when it has to stop."""

    def __init__(self, policy: str = "stop"):
        """
        Args:
            policy: "stop" the run, or "skip" the batch.
        """
        self.policy = policy
        self.count = 0
        self._in_a_row = 0

    def good(self) -> None:
        """Take note of a batch that trained."""
        self._in_a_row = 0

    def bad(self, problem: str, iteration: int) -> None:
        """
        Take note of a bad one, with a warning.

        Raises:
            BadBatchError: it stops the run.
        """
        if self.policy == "stop":
            raise BadBatchError(problem)
        self._in_a_row += 1
        if self._in_a_row >= _MOST_IN_A_ROW:
            raise BadBatchError(
                f"{_MOST_IN_A_ROW} batches one after another could not be trained on. The last "
                f"one: {problem}"
            )
        self.count += 1
        logger.warning(
            "Left out the batch of iteration %d (number %d of this run): %s",
            iteration,
            self.count,
            problem,
        )

    def report(self) -> None:
        """Log the total."""
        if self.count:
            logger.warning(
                "%d batches of this run were left out, because losses or gradient were infinite or "
                "NaN; the warnings above name their files.",
                self.count,
            )
