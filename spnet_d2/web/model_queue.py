"""The model in one thread: several users' images wait in a bounded queue."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import TypeVar

from spnet_d2.errors import UserError

T = TypeVar("T")
MAX_WAITING = 32


class BusyError(UserError, RuntimeError):
    """Too many images wait for the model."""


class ModelQueue:
    """
    Runs what needs the model, one after the other, opening the model when it is first needed.

    Args:
        open_predictor: opens the model.
        max_waiting: jobs in the line, with the one that runs.
    """

    def __init__(self, open_predictor: Callable[[], object], max_waiting: int = MAX_WAITING):
        self._open = open_predictor
        self._predictor: object | None = None
        self._places = BoundedSemaphore(max_waiting)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    def run(self, work: Callable[..., T]) -> T:
        """
        ``work(predictor)`` in the model's thread; waits for the result.

        Raises:
            BusyError: the line is full.
        """
        if not self._places.acquire(blocking=False):
            raise BusyError("Too many pictures wait for the model; try again in a moment.")
        try:
            return self._pool.submit(self._work, work).result()
        finally:
            self._places.release()

    def _work(self, work: Callable[..., T]) -> T:
        if self._predictor is None:
            self._predictor = self._open()
        return work(self._predictor)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
