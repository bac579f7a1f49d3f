"""The frames of a gallery in memory: lists by camera and time, neighbours, people of a frame."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from threading import Lock

import numpy as np

from spnet_d2.gallery import Filter
from spnet_d2.ingestion import GalleryHome

# Rows whose columns are fetched at a time: embeddings come with them.
_BLOCK = 20_000


@dataclass(frozen=True)
class Entry:
    """
    A frame that was looked at.

    Attributes:
        source, camera: names.
        frame: number in the source.
        when: UTC, or None.
        size: (width, height).
        boxes: xyxy of everybody.
        scores: of each.
    """

    source: str
    camera: str
    frame: int
    when: datetime | None
    size: tuple[int, int]
    boxes: list[list[float]]
    scores: list[float]


class SceneIndex:
    """
    Read at first use, kept until :meth:`forget`.

    Args:
        home: the gallery.
    """

    def __init__(self, home: GalleryHome):
        self._home = home
        self._lock = Lock()
        self._entries: dict[str, list[Entry]] | None = None
        self._rows: dict[str, dict[int, list[int]]] = {}

    def forget(self) -> None:
        with self._lock:
            self._entries = None
            self._rows = {}

    def listed(
        self, camera: str | None, since: datetime | None, offset: int, limit: int
    ) -> tuple[list[Entry], bool]:
        """Frames with people, by time, then source and frame; and whether there are more."""
        found = [
            entry
            for entries in self._all().values()
            for entry in entries
            if entry.boxes
            and (camera is None or entry.camera == camera)
            and (since is None or (entry.when is not None and entry.when >= since))
        ]
        found.sort(key=lambda e: (e.when is None, e.when and e.when.timestamp(), e.source, e.frame))
        return found[offset : offset + limit], offset + limit < len(found)

    def times_of(self, camera: str) -> tuple[datetime, datetime] | None:
        """First and last time of a camera's frames; None where they are unknown."""
        times = [
            entry.when
            for entries in self._all().values()
            for entry in entries
            if entry.camera == camera and entry.when is not None
        ]
        return (min(times), max(times)) if times else None

    def near(self, source: str, frame: int, offset: float) -> Entry | None:
        """
        The frame of a source that is nearest to ``offset`` seconds from one; None: no such frame.

        Folders' frames are counted: one of them is ``1 / fps`` seconds.
        """
        entries = self._all().get(source, [])
        numbers = [entry.frame for entry in entries]
        place = bisect_left(numbers, frame)
        if place == len(entries) or numbers[place] != frame:
            return None
        if not offset:
            return entries[place]
        known = self._home.sources()[source]
        step = known.fps if known.kind == "folder" else 1000.0
        wanted = frame + offset * step
        return min(entries, key=lambda entry: abs(entry.frame - wanted))

    def checked(self, entry: Entry, image: np.ndarray) -> Entry:
        """With the size of the image as it is now: boxes are drawn over that one."""
        height, width = image.shape[:2]
        return replace(entry, size=(width, height))

    def rows(self, source: str) -> dict[int, list[int]]:
        """Rows of each frame of a source."""
        with self._lock:
            known = self._rows.get(source)
        if known is None:
            known = {}
            for ids in self._blocks(source):
                for row, frame in zip(ids.tolist(), self._home.store.fetch(ids).frames.tolist()):
                    known.setdefault(frame, []).append(row)
            with self._lock:
                self._rows[source] = known
        return known

    def _blocks(self, source: str) -> Iterator[np.ndarray]:
        ids = self._home.store.find(Filter(sources=source))
        for start in range(0, len(ids), _BLOCK):
            yield ids[start : start + _BLOCK]

    def _all(self) -> dict[str, list[Entry]]:
        with self._lock:
            if self._entries is None:
                self._entries = {s.name: self._read(s) for s in self._home.sources().values()}
            return self._entries

    def _read(self, source) -> list[Entry]:
        return [
            Entry(
                source.name,
                source.camera,
                scene.frame,
                None if scene.time is None else datetime.fromisoformat(scene.time),
                scene.size,
                scene.boxes,
                scene.scores,
            )
            for scene in self._home.scenes(source.name)
        ]
