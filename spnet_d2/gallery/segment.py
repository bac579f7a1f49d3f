"""
A segment: a file of people that never changes after it got its name.

Columns lie one after another, each at a multiple of 64 bytes, so that they are used where they lie
(memory-mapped). A text column is its distinct texts and a number per row. The file ends with a JSON
footer (what lies where, CRC-32 of each column), its length and a mark: a file cut short lacks them.
"""

import json
import os
import zlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .errors import GalleryError
from .filter import Filter
from .folder import part_of, sync, sync_folder
from .people import People

NUMBERS = {
    "ids": np.dtype("<i8"),
    "embeddings": np.dtype("<f2"),
    "boxes": np.dtype("<f4"),
    "scores": np.dtype("<f4"),
    "frames": np.dtype("<i8"),
    "times": np.dtype("<M8[ns]"),
    "tracklets": np.dtype("<i8"),
}
TEXTS = ("sources", "cameras", "thumbnails", "batches")
_MARK = b"SPNETSEG"
_ALIGNMENT = 64
# Rows are copied and checked in pieces of this many bytes.
_PIECE = 2**22


class Segment:
    """
    A segment opened for reading. ``R`` rows, of which some may have been deleted.

    Args:
        path: of the file.
        deleted: numbers of its rows that were deleted.

    Raises:
        GalleryError: the file is cut short or no segment.
    """

    # File that the numbers come from, if there is one.
    deleted_file: str | None = None

    def __init__(self, path: Path, deleted: np.ndarray | None = None):
        self.path = path
        self._footer, self._data = _opened(path)
        self.ids = self._column("ids")
        self.deleted = np.zeros(0, np.int64) if deleted is None else deleted

    def __len__(self) -> int:
        """Rows, deleted ones included."""
        return len(self.ids)

    @property
    def embeddings(self) -> np.ndarray:
        """(R, D) float16, memory-mapped."""
        return self._column("embeddings")

    def _column(self, name: str) -> np.ndarray:
        place = self._footer["columns"][name]
        start, size = place["offset"], place["bytes"]
        return self._data[start : start + size].view(place["dtype"]).reshape(place["shape"])

    def live(self) -> np.ndarray:
        """(R,) bool, rows that were not deleted."""
        mask = np.ones(len(self), bool)
        mask[self.deleted] = False
        return mask

    def matching(self, where: Filter) -> np.ndarray:
        """Numbers of the rows that were not deleted and that ``where`` holds for, rising."""
        mask = self.live()
        for name in ("cameras", "sources", "batches"):
            wanted = getattr(where, name)
            if wanted is not None:
                allowed = np.array([word in set(wanted) for word in self._vocabulary(name)], bool)
                mask &= allowed[self._column(f"{name}_codes")]
        if where.ids is not None:
            mask &= np.isin(self.ids, where.ids)
        # Comparisons with NaT are false.
        if where.since is not None:
            mask &= self._column("times") >= where.since
        if where.before is not None:
            mask &= self._column("times") < where.before
        if where.min_score is not None:
            mask &= self._column("scores") >= np.float32(where.min_score)
        return np.flatnonzero(mask)

    def people(self, rows: np.ndarray) -> People:
        """These rows, in this order."""
        columns = {name: self._column(name)[rows] for name in NUMBERS if name != "ids"}
        for name in TEXTS:
            columns[name] = self._vocabulary(name)[self._column(f"{name}_codes")[rows]]
        return People(**columns)

    def _vocabulary(self, name: str) -> np.ndarray:
        if name not in self._vocabularies:
            ends = self._column(f"{name}_ends")
            data = self._column(f"{name}_bytes").tobytes()
            starts = [0, *ends[:-1].tolist()]
            words = np.empty(len(ends), object)
            words[:] = [data[a:b].decode("utf-8") for a, b in zip(starts, ends.tolist())]
            self._vocabularies[name] = words
        return self._vocabularies[name]

    @cached_property
    def _vocabularies(self) -> dict[str, np.ndarray]:
        return {}

    def check(self) -> None:
        """
        Read everything once.

        Raises:
            GalleryError: a column differs from what was written.
        """
        for name, place in self._footer["columns"].items():
            data, crc = self._data[place["offset"] : place["offset"] + place["bytes"]], 0
            for start in range(0, len(data), _PIECE):
                crc = zlib.crc32(data[start : start + _PIECE].data, crc)
            if crc != place["crc32"]:
                raise GalleryError(
                    f"{self.path} is damaged: its {name} changed since they were written."
                )


def _opened(path: Path) -> tuple[dict, np.ndarray]:
    try:
        data = np.memmap(path, np.uint8, "r")
    except ValueError:
        raise GalleryError(f"{path} is damaged: it is empty.") from None
    tail = data[-16:].tobytes()
    length = int.from_bytes(tail[:8], "little")
    if tail[8:] != _MARK or length > len(data) - 16:
        raise GalleryError(f"{path} is damaged: it is cut short, or not a segment of a gallery.")
    # A plain array: every slice of a memmap runs Python code.
    return json.loads(data[-16 - length : -16].tobytes()), np.asarray(data)


def write_people(path: Path, ids: np.ndarray, people: People) -> None:
    """Write new rows as a segment, durably; it is complete or not there."""
    _write(path, ids, people, iter([people.embeddings]))


def write_merged(path: Path, segments: list[Segment]) -> int:
    """
    Write the rows of some segments that were not deleted as one, and say how many.

    Embeddings are copied in pieces; the other columns, about 100 bytes a row, are in memory.
    """
    rows = [np.flatnonzero(segment.live()) for segment in segments]
    people = [_without_embeddings(s, r) for s, r in zip(segments, rows)]
    ids = np.concatenate([s.ids[r] for s, r in zip(segments, rows)])
    if len(ids):
        columns = {name: np.concatenate([part[name] for part in people]) for name in people[0]}
        dimension = segments[0].embeddings.shape[1]
        # Shape and type only; the numbers come in pieces.
        columns["embeddings"] = np.broadcast_to(np.float16(0), (len(ids), dimension))
        _write(path, ids, People(**columns), _pieces(segments, rows))
    return len(ids)


def _without_embeddings(segment: Segment, rows: np.ndarray) -> dict[str, np.ndarray]:
    columns = {n: segment._column(n)[rows] for n in NUMBERS if n not in ("ids", "embeddings")}
    for name in TEXTS:
        columns[name] = segment._vocabulary(name)[segment._column(f"{name}_codes")[rows]]
    return columns


def _pieces(segments: list[Segment], rows: list[np.ndarray]) -> Iterator[np.ndarray]:
    for segment, kept in zip(segments, rows):
        step = max(1, _PIECE // (2 * segment.embeddings.shape[1]))
        for start in range(0, len(kept), step):
            yield segment.embeddings[kept[start : start + step]]


def _write(path: Path, ids: np.ndarray, people: People, embeddings: Iterator[np.ndarray]) -> None:
    part = part_of(path)
    try:
        with open(part, "wb") as file:
            columns = {}
            for name, shape, dtype, pieces in _columns(ids, people, embeddings):
                columns[name] = _write_column(file, shape, dtype, pieces)
            footer = json.dumps({"columns": columns}).encode("utf-8")
            file.write(footer + len(footer).to_bytes(8, "little") + _MARK)
            sync(file)
        os.replace(part, path)
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _columns(ids: np.ndarray, people: People, embeddings: Iterator[np.ndarray]):
    """Name, shape, type and pieces of each column of the file."""
    for name, dtype in NUMBERS.items():
        values = ids if name == "ids" else getattr(people, name)
        pieces = embeddings if name == "embeddings" else [values]
        yield name, values.shape, dtype, pieces
    for name in TEXTS:
        values = getattr(people, name)
        words = sorted(set(values))
        code = {word: i for i, word in enumerate(words)}
        data = [word.encode("utf-8") for word in words]
        arrays = {
            "codes": np.array([code[value] for value in values], "<i4"),
            "ends": np.cumsum([len(piece) for piece in data], dtype="<i8"),
            "bytes": np.frombuffer(b"".join(data), np.uint8),
        }
        for kind, array in arrays.items():
            yield f"{name}_{kind}", array.shape, array.dtype, [array]


def _write_column(
    file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype, pieces: Iterable[np.ndarray]
) -> dict:
    file.write(bytes(-file.tell() % _ALIGNMENT))
    offset, crc = file.tell(), 0
    for piece in pieces:
        # As bytes: the buffer protocol has no time stamps.
        data = np.ascontiguousarray(piece, dtype).reshape(-1).view(np.uint8).data
        crc = zlib.crc32(data, crc)
        file.write(data)
    size = file.tell() - offset
    return {"offset": offset, "bytes": size, "dtype": dtype.str, "shape": shape, "crc32": crc}
