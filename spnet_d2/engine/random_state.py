"""The random number generators of a process as plain data, to store them and to put them back."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def capture() -> dict[str, Any]:
    """
    State of the generators of PyTorch (CPU, every GPU), numpy and Python.

    Returns:
        dict of tensors, numbers, strings and lists, which ``torch.load(weights_only=True)`` reads.
    """
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    assert isinstance(keys, np.ndarray)
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
