"""Look at one unit of work: read its frames, find the people, link them, keep the best of each."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np

from spnet_d2.data.tracklets import LinkRules, link_boxes
from spnet_d2.errors import SearchInputError
from spnet_d2.gallery.people import NO_TRACKLET, People
from spnet_d2.search.frames import read_image_bgr
from spnet_d2.search.people import PersonDetections

from . import clips
from .findings import Findings, Scene
from .sources import Source
from .thumbnails import make_thumbnail
from .units import Unit

# Headers state lengths that are a little off.
_MISSING_SECONDS = 1.0
# Frames that are decoded while the model works.
_AHEAD = 4
# Who walks goes about 0.8 of their own height in a second, far more than their width: at one frame
# a second boxes of one person don't overlap, and the re-id embedding has to be surer. Of PETS09's
# and MOT15's people at one frame a second, with OSNet: 61 tracklets instead of 313, of which 99.8 %
# of the boxes are right (docs/gallery.md).
_REACH_PER_SECOND = 1.0
_LINKING = LinkRules(min_iou=0.1, min_similarity=0.7, max_gap=2)


@dataclass(frozen=True)
class Choices:
    """
    What is kept of what is found.

    Attributes:
        min_score: people the detector is less sure of are left out.
        per_tracklet: rows kept of each tracklet, see :func:`best_rows`; 0: every detection.
    """

    min_score: float
    per_tracklet: int = 3


@dataclass(frozen=True)
class Shot:
    """A frame: number, time in UTC or None, file in its folder ("": a video), (H, W, 3) BGR."""

    frame: int
    time: datetime | None
    file: str
    image: np.ndarray


def look(
    unit: Unit,
    source: Source,
    detect: Callable[[np.ndarray], PersonDetections],
    choices: Choices,
    on_frame: Callable[[int], None] = lambda people: None,
) -> Findings:
    """
    Everything about one unit.

    Args:
        unit: of ``source``.
        source: where it is read from.
        detect: people of an image (H, W, 3) uint8 BGR, with unit vectors or not.
        choices: what is kept.
        on_frame: called after each frame with the number of people in it.

    Raises:
        GalleryError: the footage can't be read.
    """
    skipped: list[str] = []
    shots = read_shots(unit, source, skipped)
    return summarise(unit, source, _looked(shots, detect, choices, on_frame), choices, skipped)


def _looked(shots, detect, choices, on_frame):
    for shot in ahead(shots):
        found = detect(shot.image).above(choices.min_score)
        thumbnails = [make_thumbnail(shot.image, box) for box in found.boxes]
        height, width = shot.image.shape[:2]
        on_frame(len(found))
        yield shot.frame, shot.time, shot.file, (width, height), found, thumbnails


def summarise(unit, source, looked, choices: Choices, skipped: list[str]) -> Findings:
    """Link people over the frames of a unit, and choose the rows to keep."""
    scenes, detections, crops = [], [], []
    for frame, time, file, size, found, thumbnails in looked:
        stamp = None if time is None else time.isoformat()
        boxes = np.asarray(found.boxes, np.float64).round(1).tolist()
        scores = np.asarray(found.scores, np.float64).round(4).tolist()
        scenes.append(Scene(frame, stamp, file, size, boxes, scores))
        detections.append(found)
        crops.append(thumbnails)
    frame_of = np.repeat(np.arange(len(scenes)), [len(d) for d in detections])
    tracklets = _tracklets(unit, detections, source.fps)
    scores = np.concatenate([np.zeros(0), *(d.scores for d in detections)])
    rows = best_rows(tracklets, scores, choices.per_tracklet)
    dimension = detections[0].embeddings.shape[1] if detections else 1
    embeddings = np.concatenate([np.zeros((0, dimension)), *(d.embeddings for d in detections)])
    boxes = np.concatenate([np.zeros((0, 4)), *(d.boxes for d in detections)])
    jpegs = [jpeg for of_frame in crops for jpeg in of_frame]
    # A vector of length 0 says nothing, and has no direction to compare.
    rows = rows[np.linalg.norm(embeddings[rows], axis=1) > 0]
    kept = frame_of[rows]
    people = People.of(
        embeddings[rows],
        boxes[rows],
        scores[rows].clip(0, 1),
        sources=source.name,
        cameras=source.camera,
        frames=[scenes[i].frame for i in kept],
        times=[_parsed(scenes[i].time) for i in kept],
        tracklets=tracklets[rows],
        thumbnails=[f"{unit.key}/{n}" for n in range(len(rows))],
        batches=unit.key,
    )
    return Findings(unit, people, [jpegs[r] for r in rows], scenes, len(scores), skipped)


def best_rows(tracklets: np.ndarray, scores: np.ndarray, count: int) -> np.ndarray:
    """
    Rows to keep of each tracklet, rising: the best of each of ``count`` parts of its time.

    Pictures of different moments show more of a person than the best ones, which are neighbours.

    Args:
        tracklets: (N,) numbers, -1 for none; rows of one are in the order of time.
        scores: (N,).
        count: 0: all rows; all rows are kept of those without a tracklet, too.
    """
    if count == 0 or not len(tracklets):
        return np.arange(len(tracklets))
    order = np.argsort(tracklets, kind="stable")
    starts = np.flatnonzero(np.diff(tracklets[order], prepend=np.iinfo(np.int64).min))
    sizes = np.diff([*starts, len(order)])
    place = np.arange(len(order)) - np.repeat(starts, sizes)
    part = place * count // np.maximum(np.repeat(sizes, sizes), count)
    by_score = np.lexsort((-scores[order], part, tracklets[order]))
    first = np.ones(len(order), bool)
    same = (np.diff(tracklets[order][by_score]) == 0) & (np.diff(part[by_score]) == 0)
    first[1:] = ~same
    kept = np.zeros(len(order), bool)
    kept[order[by_score[first]]] = True
    return np.flatnonzero(kept | (tracklets == NO_TRACKLET))


def link_rules(fps: float) -> LinkRules:
    """The rules for this frame rate."""
    # At a low frame rate, a box farther away than a person's height is not linked: it could be
    # anybody.
    return replace(_LINKING, reach=min(_REACH_PER_SECOND / fps, 1.0))


def _tracklets(unit: Unit, detections: list[PersonDetections], fps: float) -> np.ndarray:
    """(N,) numbers that no other unit has."""
    numbers = link_boxes(
        [d.boxes for d in detections], [d.embeddings for d in detections], link_rules(fps)
    )
    joined = np.concatenate([np.zeros(0, np.int64), *numbers])
    # 40 bits of the key; a unit has less than 2^22 tracklets.
    return joined + (int(unit.key[:10], 16) << 22)


def read_shots(unit: Unit, source: Source, skipped: list[str]) -> Iterator[Shot]:
    """The frames of a unit; images that can't be read are put into ``skipped``."""
    if source.kind == "folder":
        for picture in unit.pictures:
            path = Path(source.place, picture.file)
            try:
                image = read_image_bgr(path)
            except SearchInputError as error:
                skipped.append(str(error))
                continue
            seconds = picture.frame / source.fps
            yield Shot(picture.frame, _time(source, seconds), picture.file, image)
        return
    before = float("inf") if unit.before is None else unit.before
    last = unit.since
    for frame in clips.read_span(source.place, unit.since, before, source.fps):
        number, last = round(frame.time * 1000), frame.time
        yield Shot(number, _time(source, frame.time), "", frame.image)
    length = clips.duration(source.place) if unit.before is None else 0.0
    if length - last > max(_MISSING_SECONDS, 2 / source.fps):
        skipped.append(
            f"{source.place} breaks off at {last:.1f} s of {length:.1f} s: it is damaged or still "
            "being written; index it again when it is whole."
        )


def put(places: queue.Queue, item: object, stopped: threading.Event) -> bool:
    """Wait for a place, and take it; False: ``stopped`` was set, nobody wants the item."""
    while not stopped.is_set():
        try:
            places.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False


def ahead(shots: Iterator[Shot]) -> Iterator[Shot]:
    """The same, read by a thread of its own while the model works on earlier ones."""
    places: queue.Queue = queue.Queue(_AHEAD)
    stopped = threading.Event()
    end = object()

    def read() -> None:
        try:
            for shot in shots:
                if not put(places, shot, stopped):
                    return
            put(places, end, stopped)
        except Exception as error:  # it belongs to the one who waits for frames
            put(places, error, stopped)

    thread = threading.Thread(target=read, name="frames", daemon=True)
    thread.start()
    try:
        while (item := places.get()) is not end:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def _time(source: Source, seconds: float) -> datetime | None:
    if source.start is None:
        return None
    return (source.start + timedelta(seconds=seconds)).astimezone(timezone.utc)


def _parsed(stamp: str | None) -> datetime | None:
    return None if stamp is None else datetime.fromisoformat(stamp)
