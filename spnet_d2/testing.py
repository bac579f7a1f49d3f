"""Helpers for tests that compare numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from timm.layers import DropPath

from .modeling import sampling


@contextmanager
def deterministic_sampling() -> Iterator[None]:
    """
    Take randomness out of SPNet: every random subset becomes the first n in index order, and
    stochastic depth is off.
    """
    with (
        mock.patch.object(sampling, "_first_in_order", True),
        mock.patch.object(DropPath, "forward", lambda self, x: x),
    ):
        yield
