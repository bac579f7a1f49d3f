"""The random number generators of a process as plain data, to store them and to put them back."""

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm

from spnet_d2.engine.periodic import PeriodicHook

logger = logging.getLogger(__name__)


def capture() -> dict[str, Any]:
    """
    State of the generators of PyTorch (CPU, every GPU), numpy and Python.

    Returns:
        dict of tensors, numbers, strings and lists, which ``torch.load(weights_only=True)`` reads.
    """
    kind, keys, position, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "python": [version, list(internal), gauss],
    }


def restore(state: dict[str, Any]) -> None:
    """
    Put back what :func:`capture` returned.

    States of GPUs are left out where their number differs, as after a move to another machine.
    """
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


@contextmanager
def preserved() -> Iterator[None]:
    """Leave all generators as they were found, whatever happens inside."""
    state = capture()
    try:
        yield
    finally:
        restore(state)


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
            restore(self._loaded[comm.get_rank()])
        elif self._loaded:
            logger.warning(
                "The checkpoint has random states of %d processes, but this run has %d: it "
                "continues with fresh ones, so not exactly as the interrupted run would have.",
                len(self._loaded),
                comm.get_world_size(),
            )

    def act(self) -> None:
        """Get the states of all processes, which must all call this, for the next checkpoint."""
        self._states = comm.gather(capture())

    def state_dict(self) -> dict[str, Any]:
        # A checkpoint that is saved by hand, outside the period, is exact on one process only.
        states = [capture()] if comm.get_world_size() == 1 else self._states
        return {"states": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict["states"]
