"""Time stamps: nanoseconds in UTC as ``datetime64[ns]``, ``NaT`` where the time is unknown."""

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np

from .errors import GalleryError

UNKNOWN = np.datetime64("NaT", "ns")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def time_stamp(value: Any) -> np.datetime64:
    """
    One time stamp.

    Args:
        value: ``datetime`` with a time zone, ``datetime64`` in UTC, integer nanoseconds since
            1970-01-01 UTC, or None: unknown.

    Raises:
        GalleryError: another type, or a ``datetime`` without a time zone.
    """
    if value is None:
        return UNKNOWN
    if isinstance(value, np.datetime64):
        stamp = value.astype("datetime64[ns]")
        if not np.isnat(value) and stamp.astype(value.dtype) != value:
            raise GalleryError(f"A time stamp of a gallery is from 1678 to 2262, found {value}.")
        return stamp
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise GalleryError(
                f"{value.isoformat()} has no time zone: give one, as in "
                "datetime(2026, 5, 1, 12, tzinfo=timezone.utc)."
            )
        # Integers throughout: a float of today's seconds is 200 ns coarse.
        since = value - _EPOCH
        return _nanoseconds(
            ((since.days * 86400 + since.seconds) * 10**6 + since.microseconds) * 1000
        )
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return _nanoseconds(int(value))
    raise GalleryError(
        "A time stamp is a datetime with a time zone, a numpy.datetime64, integer nanoseconds "
        f"since 1970 UTC, or None, found {value!r}."
    )


def _nanoseconds(value: int) -> np.datetime64:
    # The least integer is numpy's NaT.
    if not -(2**63) < value < 2**63:
        raise GalleryError(f"A time stamp of a gallery is from 1678 to 2262, found {value} ns.")
    return np.datetime64(value, "ns")


def time_stamps(values: Any, count: int) -> np.ndarray:
    """(count,) ``datetime64[ns]`` of one value for all, or of a sequence of them."""
    if isinstance(values, np.ndarray) and values.dtype == "datetime64[ns]":
        return values
    if isinstance(values, Sequence | np.ndarray) and not isinstance(values, str):
        return np.array([time_stamp(value) for value in values], "datetime64[ns]")
    return np.full(count, time_stamp(values))
