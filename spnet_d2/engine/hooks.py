"""Hooks of the trainer, most of which act before others save or evaluate."""

import logging
from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from torch import nn

from spnet_d2.engine import random_state
from spnet_d2.modeling.sync_batch_norm import is_synchronised

logger = logging.getLogger(__name__)


class PeriodicHook(HookBase):
    """
    Acts after iterations at which others save or evaluate, and after the last one.

    Must come before these hooks, on all processes: only the main one saves.
    """

    def __init__(self, *periods: int):
        """
        Args:
            periods: of what it comes before, in iterations; 0: only at the end.
        """
        self._periods = [period for period in periods if period > 0]

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or any(done % period == 0 for period in self._periods):
            self.act()

    @abstractmethod
    def act(self) -> None:
        """What has to be done then, by all processes."""


class RandomState(PeriodicHook):
    """Stores the random state of every process in checkpoints, and continues from it."""

    def __init__(self, *periods: int):
        """
        Args:
            periods: iterations between checkpoints, of every kind.
        """
        super().__init__(*periods)
        self._states: list[dict[str, Any]] = []
        self._loaded: list[dict[str, Any]] = []

    def before_train(self) -> None:
        # As late as possible, so that nothing is drawn between this and the first iteration.
        if len(self._loaded) == comm.get_world_size():
            random_state.restore(self._loaded[comm.get_rank()])
        elif self._loaded:
            logger.warning(
                "The checkpoint has random states of %d processes, but this run has %d: it "
                "continues with fresh ones, so not exactly as the interrupted run would have.",
                len(self._loaded),
                comm.get_world_size(),
            )

    def act(self) -> None:
        """Get the states of all processes, which must all call this, for the next checkpoint."""
        self._states = comm.gather(random_state.capture())

    def state_dict(self) -> dict[str, Any]:
        # A checkpoint that is saved by hand, outside the period, is exact on one process only.
        states = [random_state.capture()] if comm.get_world_size() == 1 else self._states
        return {"states": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict["states"]


class AverageBatchNorms(PeriodicHook):
    """
    Averages running statistics over processes before they are used: saved, or evaluated with.

    Training itself doesn't use them, so averaging more often would change nothing but rounding.
    """

    def act(self) -> None:
        average_batch_norms(self.trainer.model)


@torch.no_grad()
def average_batch_norms(model: nn.Module) -> None:
    """
    Set running means and variances to their averages over processes, which must all call this.

    Frozen norms, and synchronised ones, have the same everywhere already.

    Args:
        model: in training mode.
    """
    norms = [
        m
        for m in model.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training and not is_synchronised(m)
    ]
    buffers = [b for m in norms for b in (m.running_mean, m.running_var) if b is not None]
    if comm.get_world_size() == 1 or not buffers:
        return
    flat = torch.cat(buffers)
    dist.all_reduce(flat)
    flat /= comm.get_world_size()
    for buffer, average in zip(buffers, flat.split([len(b) for b in buffers]), strict=True):
        buffer.copy_(average)


class Backups(hooks.PeriodicCheckpointer):
    """
    Keeps the newest two of frequent checkpoints, ``backup_*.pth``, while a run goes on.

    The kept checkpoints of a long run are hours apart. ``--resume`` takes the newest file, of
    either kind. Must come after the hook that saves those to keep.
    """

    KEPT = 2

    def __init__(self, checkpointer, period: int, kept_period: int):
        """
        Args:
            checkpointer: of the main process.
            period: iterations between backups.
            kept_period: iterations between checkpoints that are kept; no backup is made there.
        """
        super().__init__(checkpointer, period, max_to_keep=self.KEPT, file_prefix="backup")
        self._kept_period = kept_period

    def before_train(self) -> None:
        # Those of the run that is resumed are thinned out, too.
        folder = Path(self.checkpointer.save_dir)
        self.recent_checkpoints = sorted(map(str, folder.glob("backup_*.pth")))

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter:
            for file in self.recent_checkpoints:
                Path(file).unlink(missing_ok=True)
        elif done % self._kept_period:
            self.step(self.trainer.iter)
