"""Index sources: plan units of work, look at each, put what was found into the gallery."""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spnet_d2.gallery import Filter, GalleryError
from spnet_d2.gallery.errors import storage_errors
from spnet_d2.search.people import PersonDetections

from .home import GalleryHome
from .leases import Leases
from .look import Choices, Shot, look, summarise
from .plans import file_lock
from .sources import Source, check_there
from .streams import live, together
from .thumbnails import make_thumbnail
from .units import Picture, Unit, plan_folder, plan_video

logger = logging.getLogger(__name__)

SEGMENT_SECONDS = 120.0
Detect = Callable[[np.ndarray], PersonDetections]


@dataclass
class Progress:
    """
    How far it is; :attr:`show` is called after each frame and each unit.

    Attributes:
        units, done: of the units planned, those that are finished.
        frames, found, rows: frames looked at, people in them, rows added.
        seconds: since the start.
    """

    units: int = 0
    done: int = 0
    frames: int = 0
    found: int = 0
    rows: int = 0
    started: float = field(default_factory=time.monotonic)
    show: Callable[["Progress"], None] = lambda progress: None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def seconds_left(self) -> float | None:
        """By the units done so far; None before the first one."""
        if not self.done:
            return None
        return self.seconds / self.done * (self.units - self.done)

    def add_frame(self, people: int) -> None:
        self.frames += 1
        self.found += people
        self.show(self)


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        per_tracklet: see :class:`~.look.Choices`.
        segment_seconds: of a video's units.
        drop_removed: forget people of images that are gone from their folder.
    """

    per_tracklet: int = 3
    segment_seconds: float = SEGMENT_SECONDS
    drop_removed: bool = False

    def __post_init__(self):
        if not 1 <= self.segment_seconds <= 86400:
            raise GalleryError(f"A segment has 1 to 86400 seconds, found {self.segment_seconds:g}.")
        if self.per_tracklet < 0:
            raise GalleryError(f"Rows per tracklet can't be negative, found {self.per_tracklet}.")


def index_sources(
    home: GalleryHome,
    sources: Iterable[Source],
    detect: Detect,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Progress:
    """
    Index what is not indexed yet.

    Several processes may do this at once for one gallery: each unit is looked at by one of them,
    and whoever finishes one while nobody writes puts all finished ones into the store.

    Args:
        home: the gallery; made for the model behind ``detect``.
        sources: footage; the gallery knows them from then on.
        detect: people of an image (H, W, 3) uint8 BGR.
        options: None: the default ones.
        progress: None: nothing is shown.

    Returns:
        ``progress``.

    Raises:
        GalleryError: a source is not there or can't be read; what was finished stays.
    """
    options, progress = options or Options(), progress or Progress()
    sources = list(sources)
    for source in sources:
        check_there(source)
        home.add_source(source)
    leases = Leases(home.path / "leases")
    job = _Job(home, detect, options, progress, leases)
    try:
        work = [(s, u) for s in sources if s.kind != "stream" for u in job.plan(s)]
        progress.units = len(work)
        for source, unit in work:
            job.do(unit, source)
        job.forget_plans(work)
        job.follow([source for source in sources if source.kind == "stream"])
    finally:
        leases.close()
        job.commit(wait=True)
    return progress


@dataclass
class _Job:
    home: GalleryHome
    detect: Detect
    options: Options
    progress: Progress
    leases: Leases

    def plan(self, source: Source) -> list[Unit]:
        """Units that aren't done; earlier rows of changed and of removed images go."""
        if source.kind == "video":
            units = plan_video(source, self._settings, self.options.segment_seconds)
            self._replace(source, units)
            return [u for u in units if not self.home.is_done(u.key)]
        with file_lock(self.home.path / ".plans.lock"):
            # Read before what is done: a unit that is finished meanwhile is then in both.
            planned = self.home.plans.read(source.name)
            done = self.home.units(source.name)
            units, changed, gone = plan_folder(source, self._settings, done, planned)
            self.home.plans.write(source.name, units)
        if gone and not self.options.drop_removed:
            logger.warning(
                '%d images of "%s" are gone; their people stay in the gallery (--drop-removed '
                "forgets them).",
                len(gone),
                source.name,
            )
        drop = [*changed, *(gone if self.options.drop_removed else [])]
        if drop:
            self._drop(source, drop)
        return units

    def _replace(self, source: Source, units: list[Unit]) -> None:
        """What came of other contents of a video, or of other settings, goes: no frame twice."""
        old = {unit.key for unit in self.home.units(source.name)} - {unit.key for unit in units}
        if not old:
            return
        self.commit(wait=True)
        count = self.home.delete_units(old)
        logger.warning(
            '"%s" or the settings have changed since it was indexed: its %d pictures of people '
            "are replaced.",
            source.name,
            count,
        )

    @property
    def _settings(self) -> str:
        made_with = [self.home.settings.fingerprint, self.home.settings.score_floor]
        return json.dumps([*made_with, self.options.per_tracklet, self.options.segment_seconds])

    @property
    def _choices(self) -> Choices:
        return Choices(self.home.settings.score_floor, self.options.per_tracklet)

    def _drop(self, source: Source, pictures: list[Picture]) -> None:
        frames = np.array([picture.frame for picture in pictures])
        self.commit(wait=True)
        with self.home.writing() as store:
            ids = store.find(Filter(sources=source.name))
            gone = ids[np.isin(store.fetch(ids).frames, frames)]
        if len(gone):
            self.home.delete(Filter(ids=gone))

    def do(self, unit: Unit, source: Source) -> None:
        """One unit, if nobody else has done it or is doing it."""
        if self.home.is_done(unit.key) or not self.leases.take(unit.key):
            self.progress.done += 1
            return
        try:
            if not self.home.is_done(unit.key):
                findings = look(unit, source, self.detect, self._choices, self.progress.add_frame)
                self._keep(findings)
        finally:
            self.leases.release(unit.key)
        self.commit()
        self.progress.done += 1
        self.progress.show(self.progress)

    def forget_plans(self, work: list[tuple[Source, Unit]]) -> None:
        """Of sources of which nothing is left to do, by this process or another."""
        open_ones = {s.name for s, u in work if not self.home.is_done(u.key)}
        with file_lock(self.home.path / ".plans.lock"):
            for name in {s.name for s, _ in work} - open_ones:
                if all(self.home.is_done(unit.key) for unit in self.home.plans.read(name)):
                    self.home.plans.remove(name)

    def _keep(self, findings) -> None:
        for reason in findings.skipped:
            logger.warning("Skipped: %s", reason)
        with storage_errors(self.home.path, "adding people to"):
            findings.save(self.home.ready_file(findings.unit.key))
        self.progress.rows += len(findings.people)

    def commit(self, wait: bool = False) -> None:
        """Put finished units into the store, if nobody else writes; else the writer does it."""
        while any((self.home.path / "ready").glob("*.npz")):
            try:
                with self.home.writing() as store:
                    self.home.commit(store)
                return
            except GalleryError as error:
                if "Another program writes" not in str(error):
                    raise
                if not wait:
                    return
                time.sleep(0.2)

    def follow(self, sources: list[Source]) -> None:
        """
        Streams, until they end or the program is stopped; every segment is kept.

        Raises:
            GalleryError: one could not be read; the others were followed to their end.
        """
        watches = {s.name: _Watch(s) for s in sources if self.leases.take(_stream_key(s))}
        for source in sources:
            if source.name not in watches:
                logger.warning('Another process follows the stream "%s".', source.name)
        stopped, failed = threading.Event(), None
        shots = {name: live(watch.source, stopped) for name, watch in watches.items()}
        try:
            for name, shot in together(shots, stopped):
                watch = watches[name]
                if not isinstance(shot, Shot):
                    self._finish(watch)
                    if shot is not None:
                        logger.warning('The stream "%s" ended: %s', name, shot)
                        failed = shot
                    continue
                if watch.lasts(shot) >= self.options.segment_seconds:
                    self._finish(watch)
                self._look(watch, shot)
        finally:
            stopped.set()
            for watch in watches.values():
                self._finish(watch)
        if failed is not None:
            raise failed

    def _look(self, watch: "_Watch", shot: Shot) -> None:
        found = self.detect(shot.image).above(self._choices.min_score)
        crops = [make_thumbnail(shot.image, box) for box in found.boxes]
        height, width = shot.image.shape[:2]
        watch.looked.append((shot.frame, shot.time, "", (width, height), found, crops))
        self.progress.add_frame(len(found))

    def _finish(self, watch: "_Watch") -> None:
        """Keep what was seen since the last time."""
        if watch.looked:
            unit, looked = watch.unit(), watch.looked
            watch.looked = []
            self._keep(summarise(unit, watch.source, looked, self._choices, []))
            self.commit()


@dataclass
class _Watch:
    """
    A stream's segment that goes on.

    Attributes:
        source: the stream.
        looked: frames of the segment, as :func:`~.look.summarise` takes them.
    """

    source: Source
    looked: list[Any] = field(default_factory=list)

    def lasts(self, shot: Shot) -> float:
        """Seconds from the segment's first frame to this one."""
        return (shot.frame - self.looked[0][0]) / 1000 if self.looked else 0.0

    def unit(self) -> Unit:
        first, last = (self.looked[i][0] for i in (0, -1))
        key = hashlib.sha256(f"{self.source.name} {first}".encode()).hexdigest()[:24]
        return Unit(key, self.source.name, first / 1000, (last + 1) / 1000)


def _stream_key(source: Source) -> str:
    return "stream-" + hashlib.sha256(source.name.encode()).hexdigest()[:24]
