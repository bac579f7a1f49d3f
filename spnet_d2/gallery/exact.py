"""
The exact store: segments on disk, and a scan over all rows that the filter leaves.

Its folder: ``gallery.json`` (the manifest), ``segments/`` and ``writer.lock``. What the manifest
lists is the gallery; every change writes new files first and then replaces the manifest, so that a
program killed at any point leaves what was there before or after. Files that no manifest lists are
left from such a death, and go when the gallery is opened for writing.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from .errors import GalleryError, storage_errors
from .filter import EVERYBODY, Filter
from .folder import (
    MANIFEST,
    FolderStore,
    create_folder,
    read_manifest,
    write_durably,
    write_manifest,
)
from .people import People, check_all_found, concatenated, nobody
from .scan import scan
from .segment import Segment, write_merged, write_people
from .store import GallerySettings, Hits, check_deletes_some

_SEGMENTS = "segments"
# Rows are merged until a segment has this many bytes of embeddings.
LARGEST_SEGMENT = 2**30
# This many segments of about one size become one: searches touch few files however small the
# additions are, and a row is copied once per eightfold growth.
_FAN = 8
# Bytes of embeddings that a thread takes at a time.
_CHUNK = 2**24


class ExactStore(FolderStore):
    """A :class:`~.store.GalleryStore` that ranks exactly, and needs no further package."""

    engine = "exact"

    def __init__(self, path: str | os.PathLike, write: bool = False):
        super().__init__(path, write)
        self._segments: dict[str, Segment] = {}
        try:
            self._refresh()
            if write:
                self._remove_unlisted()
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: str | os.PathLike, settings: GallerySettings) -> "ExactStore":
        """Make an empty gallery and open it for writing."""
        create_folder(
            Path(path).resolve(),
            cls.engine,
            settings,
            {"next_id": 0, "next_file": 0, "segments": []},
        )
        return cls(path, write=True)

    def add(self, people: People) -> np.ndarray:
        ids = self._ids_for(people)
        if len(people):
            with storage_errors(self.address, f"adding {len(people)} people to"):
                name = self._new_name("people")
                with self._kept_if_committed(name):
                    write_people(self._folder / name, ids, people)
                    entry = {"file": name, "rows": len(ids), "deleted": None}
                    self._commit([*self._entries, entry], next_id=int(ids[-1]) + 1)
            self._merge_small()
        return ids

    def search(self, queries: Any, topk: int = 10, where: Filter = EVERYBODY) -> list[Hits]:
        vectors = self.settings.checked_queries(queries, topk, where, self.address)
        self._refresh()
        parts = [
            (segment, rows)
            for segment in self._segments.values()
            if len(rows := _rows(segment, where))
        ]
        return _scanned(parts, vectors, topk)

    def find(self, where: Filter = EVERYBODY) -> np.ndarray:
        self._refresh()
        found = [segment.ids[segment.matching(where)] for segment in self._segments.values()]
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def count(self, where: Filter = EVERYBODY) -> int:
        self._refresh()
        if where.empty:
            return sum(len(s) - len(s.deleted) for s in self._segments.values())
        return sum(len(segment.matching(where)) for segment in self._segments.values())

    def fetch(self, ids: Any) -> People:
        ids = np.atleast_1d(np.asarray(ids, np.int64))
        self._refresh()
        place, parts = np.full(len(ids), -1), []
        found = 0
        for segment in self._segments.values():
            rows = np.searchsorted(segment.ids, ids).clip(max=len(segment) - 1)
            here = np.flatnonzero((segment.ids[rows] == ids) & segment.live()[rows])
            if len(here):
                parts.append(segment.people(rows[here]))
                place[here] = found + np.arange(len(here))
                found += len(here)
        check_all_found(ids, place >= 0, self.address)
        return concatenated(parts).rows(place) if parts else nobody(self.settings.dimension)

    def tracklets(self, ids: Any) -> np.ndarray:
        # Memory-mapped columns: reading all of them costs next to nothing.
        return self.fetch(ids).tracklets

    def delete(self, where: Filter) -> int:
        self._check_writes()
        check_deletes_some(where)
        entries, gone, written = [], 0, []
        with storage_errors(self.address, "deleting from"):
            try:
                for entry in self._entries:
                    rows = self._segments[entry["file"]].matching(where)
                    gone += len(rows)
                    if len(rows):
                        entry = {**entry, "deleted": self._write_deleted(entry, rows)}
                        written.append(entry["deleted"])
                    entries.append(entry)
                if gone:
                    self._commit(entries)
            except BaseException:
                self._unlink(written)
                raise
        return gone

    def compact(self) -> None:
        self._check_writes()
        with storage_errors(self.address, "compacting"):
            for group in self._groups():
                self._replace(group)

    def verify(self) -> None:
        """
        Read every segment once.

        Raises:
            GalleryError: a file is damaged.
        """
        self._refresh()
        for segment in self._segments.values():
            segment.check()

    def close(self) -> None:
        self._segments = {}
        super().close()

    # The manifest and the files it lists.

    @property
    def _folder(self) -> Path:
        return self._path / _SEGMENTS

    @property
    def _entries(self) -> list[dict]:
        return self._manifest["segments"]

    def _refresh(self) -> None:
        """See what another program committed since."""
        for attempt in range(10):
            manifest = read_manifest(self._path)
            if self._segments and manifest == self._manifest:
                return
            try:
                segments = {e["file"]: self._opened(e) for e in manifest["segments"]}
            except FileNotFoundError as error:
                # The writer put segments together meanwhile: its new manifest is there.
                if attempt == 9:
                    raise GalleryError(
                        f"The gallery {self.address} is damaged: {error.filename} is missing."
                    ) from error
                continue
            self._manifest, self._segments = manifest, segments
            return

    def _opened(self, entry: dict) -> Segment:
        """A segment; files that are open stay so."""
        segment = self._segments.get(entry["file"])
        name = entry["deleted"]
        if segment is None or segment.deleted_file != name:
            rows = None if name is None else np.load(self._folder / name)
            segment = Segment(self._folder / entry["file"], rows)
            segment.deleted_file = name
        return segment

    def _commit(self, entries: list[dict], **changes) -> None:
        manifest = {**self._manifest, **changes, "segments": entries}
        write_manifest(self._path, manifest)
        before = _files(self._manifest)
        self._manifest = manifest
        self._segments = {e["file"]: self._opened(e) for e in entries}
        self._unlink(before - _files(manifest))

    def _new_name(self, kind: str) -> str:
        """A file's name that was never used; the commit makes it known."""
        self._folder.mkdir(exist_ok=True)
        number = self._manifest["next_file"]
        self._manifest = {**self._manifest, "next_file": number + 1}
        return f"{number:08d}.{kind}"

    def _unlink(self, names) -> None:
        for name in names:
            (self._folder / name).unlink(missing_ok=True)

    def _remove_unlisted(self) -> None:
        if self._folder.is_dir():
            self._unlink({p.name for p in self._folder.iterdir()} - _files(self._manifest))
        for part in self._path.glob(f".{MANIFEST}.*"):
            part.unlink(missing_ok=True)

    def _write_deleted(self, entry: dict, rows: np.ndarray) -> str:
        segment = self._segments[entry["file"]]
        name = self._new_name("npy")
        write_durably(self._folder / name, _npy(np.union1d(segment.deleted, rows)))
        return name

    # Putting segments together.

    def _merge_small(self) -> None:
        """Put the last segments together when there are many of about one size."""
        try:
            while len(group := self._last_of_one_size()) >= _FAN:
                self._replace(group)
        except OSError:
            # Room is short; what was added is safe, and `compact` tells.
            pass

    def _last_of_one_size(self) -> list[dict]:
        group: list[dict] = []
        size = 0
        for entry in reversed(self._entries):
            own = _size_class(entry["rows"])
            size = max(size, own) if not group else size
            if own > size or entry["rows"] * _FAN > self._largest:
                break
            group.insert(0, entry)
        return group

    @property
    def _largest(self) -> int:
        return max(1, LARGEST_SEGMENT // (2 * self.settings.dimension))

    def _groups(self) -> list[list[dict]]:
        """Neighbours to put together, and segments with deleted rows."""
        groups: list[list[dict]] = []
        rows = 0
        for entry in list(self._entries):
            live = entry["rows"] - len(self._segments[entry["file"]].deleted)
            if not groups or rows + live > self._largest:
                groups.append([])
                rows = 0
            groups[-1].append(entry)
            rows += live
        return [g for g in groups if len(g) > 1 or g[0]["deleted"] is not None]

    def _replace(self, group: list[dict]) -> None:
        """One segment for several neighbours, without the rows that were deleted."""
        name = self._new_name("people")
        with self._kept_if_committed(name):
            rows = write_merged(
                self._folder / name, [self._segments[entry["file"]] for entry in group]
            )
            place = self._entries.index(group[0])
            merged = [{"file": name, "rows": rows, "deleted": None}] if rows else []
            rest = self._entries[place + len(group) :]
            self._commit([*self._entries[:place], *merged, *rest])

    @contextmanager
    def _kept_if_committed(self, name: str) -> Iterator[None]:
        """A new file goes when the change it belongs to failed."""
        try:
            yield
        finally:
            if name not in _files(self._manifest):
                self._unlink([name])


def _files(manifest: dict) -> set[str]:
    names = {entry["file"] for entry in manifest["segments"]}
    return names | {entry["deleted"] for entry in manifest["segments"] if entry["deleted"]}


def _size_class(rows: int) -> int:
    """Number of times eight fits in: 0 below 8, 1 below 64 ..."""
    return max(0, rows.bit_length() - 1) // 3


def _npy(rows: np.ndarray) -> bytes:
    file = BytesIO()
    np.save(file, rows.astype(np.int64))
    return file.getvalue()


# Rising numbers of rows.
_Rows: TypeAlias = np.ndarray | range


def _rows(segment: Segment, where: Filter) -> _Rows:
    """What :meth:`Segment.matching` gives; numbers of all rows are not worth writing down."""
    if where.empty and not len(segment.deleted):
        return range(len(segment))
    return segment.matching(where)


def _scanned(parts: list[tuple[Segment, _Rows]], queries: np.ndarray, topk: int) -> list[Hits]:
    """Scan pieces of the segments in threads (conversion and product let go of Python's lock)."""
    pieces = list(_split(parts))
    threads = min(len(pieces), _cores())
    if threads <= 1:
        return scan(_blocks(pieces), queries, topk)
    # Each takes the next piece when it is done with one: on a busy machine some are slower.
    left = iter(pieces)
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(lambda _: scan(_blocks(left), queries, topk), range(threads)))
    return [_best_of([hits[i] for hits in found], topk) for i in range(len(queries))]


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _split(parts) -> Iterator[tuple[Segment, _Rows]]:
    for segment, rows in parts:
        step = max(1, _CHUNK // (2 * segment.embeddings.shape[1]))
        for start in range(0, len(rows), step):
            yield segment, rows[start : start + step]


def _blocks(pieces) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for segment, rows in pieces:
        first, last = int(rows[0]), int(rows[-1]) + 1
        if len(rows) == last - first:
            yield segment.ids[first:last], segment.embeddings[first:last]
        else:
            yield segment.ids[rows], segment.embeddings[rows]


def _best_of(found: list[Hits], topk: int) -> Hits:
    ids = np.concatenate([hits.ids for hits in found])
    similarities = np.concatenate([hits.similarities for hits in found])
    order = np.lexsort([ids, -similarities])[:topk]
    return Hits(ids[order], similarities[order])
