"""What a gallery's store does, whichever engine is behind it."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .errors import GalleryError
from .filter import EVERYBODY, Filter
from .people import People, unit_vectors


@dataclass(frozen=True)
class GallerySettings:
    """
    What makes the embeddings of a gallery comparable; it never changes after creation.

    Attributes:
        dimension: numbers per embedding.
        fingerprint: text that differs when the embeddings do (weights, input size, pathway ...).
        score_floor: people of lower scores are not in it.
    """

    dimension: int
    fingerprint: str = ""
    score_floor: float = 0.0

    def __post_init__(self):
        if self.dimension < 1:
            raise GalleryError(f"An embedding has one number or more, found {self.dimension}.")
        if not 0 <= self.score_floor <= 1:
            raise GalleryError(f"The score floor must be in [0, 1], found {self.score_floor}.")
        # As precise as the scores.
        object.__setattr__(self, "score_floor", float(np.float32(self.score_floor)))

    def check_serves(self, expected: "GallerySettings", name: str) -> None:
        """
        Whether this gallery can answer somebody who expects these settings.

        Raises:
            GalleryError: another dimension or fingerprint, or people of lower scores are expected.
        """
        again = "Index again into another gallery, or use what this one was made with."
        if expected.dimension != self.dimension:
            raise GalleryError(
                f"{name} has embeddings of {self.dimension} numbers, and the model gives "
                f"{expected.dimension}. {again}"
            )
        if expected.fingerprint != self.fingerprint:
            raise GalleryError(
                f"{name} was made with another model or other settings (fingerprint "
                f"{self.fingerprint!r}, now {expected.fingerprint!r}), so similarities would mean "
                f"nothing. {again}"
            )
        self.check_score(expected.score_floor, name)

    def check_score(self, min_score: float, name: str) -> None:
        if min_score < self.score_floor:
            raise GalleryError(
                f"{name} has people from a score of {self.score_floor:g} on, and those from "
                f"{min_score:g} on are expected: index again with a lower floor, or use "
                f"{self.score_floor:g} or more."
            )

    def check_people(self, people: People, name: str) -> None:
        """Whether these rows fit in."""
        if people.dimension != self.dimension:
            raise GalleryError(
                f"{name} has embeddings of {self.dimension} numbers, found {people.dimension}; "
                "nothing was added."
            )
        if len(people) and people.scores.min() < self.score_floor:
            raise GalleryError(
                f"{name} has people from a score of {self.score_floor:g} on, and one of "
                f"{people.scores.min():g} was to be added; nothing was added."
            )

    def checked_queries(self, queries: Any, topk: int, where: Filter, name: str) -> np.ndarray:
        """(Q, D) float32 unit vectors of one (D,) or several (Q, D) queries that fit."""
        vectors = unit_vectors(np.atleast_2d(queries))
        if vectors.shape[1] != self.dimension:
            raise GalleryError(
                f"{name} has embeddings of {self.dimension} numbers, and the query has "
                f"{vectors.shape[1]}: embed it with the model that the gallery was made with."
            )
        if topk < 1:
            raise GalleryError(f"topk must be 1 or more, found {topk}.")
        if where.min_score is not None:
            self.check_score(where.min_score, name)
        return vectors


@dataclass(frozen=True, eq=False)
class Hits:
    """
    The people most similar to one query, best first; of equal ones, the one added first.

    Attributes:
        ids: (K,) int64, their rows.
        similarities: (K,) float32, cosine, in [-1, 1] but for rounding.
    """

    ids: np.ndarray
    similarities: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


class GalleryStore(Protocol):
    """
    Millions of people, found by similarity. Open one with :func:`~.address.open_gallery`.

    Every method raises :class:`~.errors.GalleryError` with one message, and what was committed
    before stays.
    """

    address: str
    settings: GallerySettings

    def add(self, people: People) -> np.ndarray:
        """Commit rows, all or none; their (N,) int64 ids, which rise and are never used again."""

    def search(self, queries: Any, topk: int = 10, where: Filter = EVERYBODY) -> list[Hits]:
        """
        The ``topk`` most similar people that ``where`` holds for, fewer only if there are fewer.

        Args:
            queries: (D,) or (Q, D), of any length.
            topk: how many, 1 or more.
            where: conditions, applied before neighbours are taken.

        Returns:
            Q results.
        """

    def find(self, where: Filter = EVERYBODY) -> np.ndarray:
        """(M,) int64 ids of all people that ``where`` holds for, rising."""

    def fetch(self, ids: Any) -> People:
        """Rows of these ids, in this order; an error for ids that are not there."""

    def tracklets(self, ids: Any) -> np.ndarray:
        """(N,) int64 of these ids, in this order: that column of :meth:`fetch` alone."""

    def count(self, where: Filter = EVERYBODY) -> int:
        """How many people there are."""

    def delete(self, where: Filter) -> int:
        """
        Remove people, and say how many; searches don't find them from then on.

        Their data leaves the disk with the next :meth:`compact`. A filter without any condition is
        refused.
        """

    def compact(self) -> None:
        """Give back the space of deleted rows, and put small pieces together."""

    def close(self) -> None:
        """Let go of files and locks. Everything added is already safe."""


def check_deletes_some(where: Filter) -> None:
    """A forgotten condition must not empty a gallery."""
    if where.empty:
        raise GalleryError(
            "Say who is to be deleted: a filter without any condition means everybody."
        )
