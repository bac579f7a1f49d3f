"""People of a gallery as columns: ``N`` rows, embeddings of ``D`` numbers."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from .errors import GalleryError
from .times import time_stamps

NO_TRACKLET = -1


@dataclass(frozen=True, eq=False)
class People:
    """
    One row per person and frame. Build it with :meth:`of`, which checks and converts.

    Attributes:
        embeddings: (N, D) float16, unit vectors.
        boxes: (N, 4) float32 xyxy, pixels of the upright image.
        scores: (N,) float32, the detector's.
        sources: (N,) text, the folder, video or stream.
        cameras: (N,) text.
        frames: (N,) int64, number of the frame in its source.
        times: (N,) ``datetime64[ns]`` UTC; NaT where unknown.
        tracklets: (N,) int64; -1 for none.
        thumbnails: (N,) text, key of the person's crop; "" for none.
        batches: (N,) text, name of the unit of work that found them; "" for none. A program that
            was stopped asks by it what is already there.
    """

    embeddings: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    sources: np.ndarray
    cameras: np.ndarray
    frames: np.ndarray
    times: np.ndarray
    tracklets: np.ndarray
    thumbnails: np.ndarray
    batches: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def dimension(self) -> int:
        return self.embeddings.shape[1]

    @classmethod
    def of(
        cls,
        embeddings: Any,
        boxes: Any,
        scores: Any,
        *,
        sources: Any = "",
        cameras: Any = "",
        frames: Any = 0,
        times: Any = None,
        tracklets: Any = NO_TRACKLET,
        thumbnails: Any = "",
        batches: Any = "",
    ) -> "People":
        """
        Check and convert; a single value stands for all rows.

        Args:
            embeddings: (N, D) of any length; stored as unit vectors.
            boxes: (N, 4) xyxy.
            scores: (N,) in [0, 1].
            times: as :func:`~.times.time_stamp` takes them.

        Raises:
            GalleryError: columns of different length, numbers that are not finite, embeddings of
                length 0, a time without zone.
        """
        embeddings = unit_vectors(embeddings).astype(np.float16)
        count = len(embeddings)
        columns = {
            "embeddings": embeddings,
            "boxes": _boxes(boxes),
            "scores": _numbers("scores", scores, np.float32),
            "sources": texts(sources, count),
            "cameras": texts(cameras, count),
            "frames": _integers("frames", frames, count),
            "times": time_stamps(times, count),
            "tracklets": _integers("tracklets", tracklets, count),
            "thumbnails": texts(thumbnails, count),
            "batches": texts(batches, count),
        }
        lengths = {name: len(column) for name, column in columns.items()}
        if set(lengths.values()) != {count} or columns["scores"].ndim != 1:
            raise GalleryError(f"All columns of people need the same length, found {lengths}.")
        if ((columns["scores"] < 0) | (columns["scores"] > 1)).any():
            raise GalleryError("Scores of people must be in [0, 1].")
        return cls(**columns)

    def rows(self, rows: np.ndarray | slice) -> "People":
        """Only these rows, in this order."""
        return People(*(getattr(self, field.name)[rows] for field in fields(self)))


def concatenated(parts: list[People]) -> People:
    """All rows of one or more parts, in order."""
    return People(
        *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(People))
    )


def _boxes(values: Any) -> np.ndarray:
    boxes = _numbers("boxes", values, np.float32)
    if boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 4):
        raise GalleryError(f"boxes have four numbers each, found shape {boxes.shape}.")
    return boxes.reshape(-1, 4)


def check_all_found(ids: np.ndarray, found: np.ndarray, name: str) -> None:
    if not found.all():
        missing = ", ".join(map(str, ids[~found][:5].tolist()))
        raise GalleryError(
            f"{name} has no people with ids {missing}{' ...' if (~found).sum() > 5 else ''}: they "
            "were deleted, or never there."
        )


def nobody(dimension: int) -> People:
    """No rows."""
    none = np.zeros(0)
    return People.of(np.zeros((0, dimension)), none.reshape(0, 4), none)


def unit_vectors(embeddings: Any) -> np.ndarray:
    """
    (N, D) float32 of length 1.

    Raises:
        GalleryError: other shapes, numbers that are not finite, vectors of length 0.
    """
    vectors = _numbers("embeddings", embeddings, np.float64)
    if vectors.ndim != 2 or not vectors.shape[1]:
        raise GalleryError(f"Embeddings have shape (people, dimension), found {vectors.shape}.")
    # Scaled first: squares of large or tiny numbers are out of range.
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    if not largest.all():
        row = int(np.flatnonzero(largest == 0)[0])
        raise GalleryError(f"Embedding {row} is zero, so it has no direction to compare.")
    vectors = vectors / largest
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def texts(values: Any, count: int) -> np.ndarray:
    """
    (count,) object array of text.

    Names of files that are no UTF-8 (lone surrogates) are written as ``\\udce9``, which every
    store can keep.
    """
    if isinstance(values, str):
        values = [values] * count
    column = np.empty(len(values), object)
    column[:] = [plain_text(str(value)) for value in values]
    return column


def plain_text(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _numbers(name: str, values: Any, dtype: type) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise GalleryError(f"{name} must be numbers, found {array.dtype}.")
    array = array.astype(dtype)
    if not np.isfinite(array).all():
        raise GalleryError(f"{name} must be finite numbers, found NaN or infinity.")
    return array


def _integers(name: str, values: Any, count: int) -> np.ndarray:
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise GalleryError(f"{name} must be whole numbers, found {array.dtype}.")
    return np.full(count, array, np.int64) if array.ndim == 0 else array.astype(np.int64)
