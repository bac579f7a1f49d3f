"""Numbers of a training step beside its losses, for TensorBoard and ``metrics.json``.

What is known on the host is free. What the GPU counts is brought to the host once in a while, since
that waits for it.
"""

from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor

from . import whole_batch

# Iterations from one record to the next: Detectron2's writers' period, and its phase.
PERIOD = 20
PREFIX = "spnet"


def due() -> bool:
    """Whether to record this step's numbers: a trainer's, every ``PERIOD`` iterations."""
    storage = _storage()
    return storage is not None and (storage.iter + 1) % PERIOD == 0 and whole_batch.in_last_pass()


def record(**values: Tensor | float) -> None:
    """Put numbers into Detectron2's ``EventStorage`` as ``spnet/NAME``, if they are :func:`due`."""
    storage = _storage()
    if storage is None or not due():
        return
    for name, value in values.items():
        storage.put_scalar(f"{PREFIX}/{name}", float(value), smoothing_hint=False)


def _storage() -> EventStorage | None:
    try:
        return get_event_storage()
    except AssertionError:
        # Outside of a trainer. Older versions of Detectron2 have no other way to ask.
        return None
