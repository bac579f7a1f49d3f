"""Which people of a gallery are looked at: conditions that hold before neighbours are taken."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from .errors import GalleryError
from .people import plain_text
from .times import time_stamp


@dataclass(frozen=True)
class Filter:
    """
    Conditions that all have to hold; None: no such condition. An empty collection holds for nobody.

    Args:
        cameras: any of these; one name or several.
        sources: any of these.
        batches: any of these.
        ids: any of these rows.
        since: this time or later, as :func:`~.times.time_stamp` takes it.
        before: earlier than this time. People of unknown time are outside of every time range.
        min_score: the detector's score or more.

    Raises:
        GalleryError: a time without zone, or an unfit type.
    """

    cameras: Any = None
    sources: Any = None
    batches: Any = None
    ids: Any = None
    since: Any = None
    before: Any = None
    min_score: float | None = None

    def __post_init__(self):
        for name in ("cameras", "sources", "batches"):
            self._set(name, _names(name, getattr(self, name)))
        if self.ids is not None:
            self._set("ids", _row_numbers(self.ids))
        for name in ("since", "before"):
            if getattr(self, name) is not None:
                self._set(name, time_stamp(getattr(self, name)))
        if self.min_score is not None:
            if not np.isfinite(self.min_score):
                raise GalleryError(f"min_score must be a number, found {self.min_score}.")
            # Scores are float32: 0.7 finds what was stored as 0.7.
            self._set("min_score", float(np.float32(self.min_score)))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def empty(self) -> bool:
        """Whether there is no condition."""
        return all(getattr(self, field.name) is None for field in fields(self))


def _names(what: str, names: Any) -> tuple[str, ...] | None:
    if names is None:
        return None
    if isinstance(names, str):
        return (plain_text(names),)
    if not isinstance(names, Iterable):
        raise GalleryError(f"{what} of a filter are names, found {names!r}.")
    return tuple(sorted({plain_text(str(name)) for name in names}))


def _row_numbers(ids: Any) -> tuple[int, ...]:
    numbers = np.unique(np.atleast_1d(np.asarray(ids if np.ndim(ids) else [ids])))
    if numbers.size and numbers.dtype.kind not in "iu":
        raise GalleryError(f"ids of a filter are whole numbers, found {numbers.dtype}.")
    return tuple(numbers.astype(np.int64).tolist())


EVERYBODY = Filter()
