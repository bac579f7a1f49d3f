"""What the page's API does, without HTTP: searches, scenes, uploads, sources of one gallery."""

import os
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from threading import BoundedSemaphore, Lock
from typing import Any

import cv2
import numpy as np

from spnet_d2.errors import UserError
from spnet_d2.gallery import Filter, GalleryError
from spnet_d2.gallery.calibration import RATES, Calibration
from spnet_d2.gallery.finding import Sighting, find_person, sighting
from spnet_d2.ingestion import GalleryHome, Source
from spnet_d2.ingestion.thumbnails import make_thumbnail
from spnet_d2.predictors.opened import OpenedPredictor, files_there
from spnet_d2.search.crop import scene_around
from spnet_d2.search.query import clip_query_box

from . import schemas
from .model_queue import ModelQueue
from .scene_index import SceneIndex
from .uploads import Uploads

# Widest side of a scene that is sent, pixels.
_SCENE_SIDE = 1600
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 85]
# The verdict's default.
FALSE_ALARMS = 0.1
_CACHED = 1000


class NotFoundError(UserError, LookupError):
    """A person, scene or source that the gallery does not have."""


class Service:
    """
    One gallery, open for reading.

    Args:
        home: the gallery.
        can_add: whether sources can be added and deleted.
    """

    def __init__(self, home: GalleryHome, can_add: bool = False):
        self.home = home
        self.can_add = can_add
        self.uploads = Uploads()
        self.model = ModelQueue(self._open_predictor)
        self.scenes = SceneIndex(home)
        self._embeddings: OrderedDict[tuple, np.ndarray] = OrderedDict()
        self._lock = Lock()
        # More searches at once than cores would only make each of them take longer.
        self._searches = BoundedSemaphore(os.cpu_count() or 1)

    def close(self) -> None:
        self.model.close()
        self.home.close()

    def _open_predictor(self) -> Any:
        return OpenedPredictor.again(self.home.model, self.home.settings.fingerprint).predictor

    @cached_property
    def _model_files_there(self) -> bool:
        return files_there(self.home.model)

    def info(self) -> schemas.GalleryInfo:
        """The gallery as a whole."""
        calibration = self.calibration()
        cameras = sorted({source.camera for source in self.home.sources().values()})
        store = self.home.store
        return schemas.GalleryInfo(
            people=store.count(),
            cameras=[self._camera(name) for name in cameras],
            thresholds=[
                schemas.Threshold(false_alarms=rate, similarity=calibration.threshold(rate))
                for rate in RATES
            ]
            if calibration
            else [],
            can_embed=self._model_files_there,
            can_add=self.can_add,
        )

    def _camera(self, name: str) -> schemas.Camera:
        times = self.scenes.times_of(name)
        return schemas.Camera(
            name=name,
            people=self.home.store.count(Filter(cameras=name)),
            first=times[0] if times else None,
            last=times[1] if times else None,
        )

    def calibration(self) -> Calibration | None:
        return Calibration.load(self.home.path, self.home.settings.fingerprint)

    def search(self, request: schemas.SearchRequest) -> schemas.SearchResponse:
        """
        Hits of a page of the ranking.

        Raises:
            NotFoundError, UserError: an example can't be used.
        """
        started = time.perf_counter()
        where = self._filter(request.where)
        positives = self.embeddings(request.positives)
        negatives = self.embeddings(request.negatives) if request.negatives else None
        calibration = self.calibration()
        with self._searches:
            hits, more = find_person(
                self.home.store,
                positives,
                negatives,
                where,
                request.offset + request.limit,
                request.min_similarity,
                request.grouped,
            )
            rows = None if calibration is None or where.empty else self.home.store.count(where)
        sources = self.home.sources()
        page = [self._hit(hit, calibration, rows, sources) for hit in hits[request.offset :]]
        return schemas.SearchResponse(
            hits=page,
            more=more and request.offset + request.limit < schemas.MAX_DEPTH,
            verdict=_verdict(hits, calibration, rows),
            seconds=time.perf_counter() - started,
        )

    def _filter(self, where: schemas.Where) -> Filter:
        floor = self.home.settings.score_floor
        # A lower score than was indexed is no condition.
        score = where.min_score if where.min_score and where.min_score > floor else None
        return Filter(
            cameras=where.cameras,
            sources=where.sources,
            since=where.since,
            before=where.before,
            min_score=score,
        )

    def _hit(self, hit: Sighting, calibration, rows, sources: Mapping[str, Source]) -> schemas.Hit:
        chance = None
        if calibration is not None:
            chance = float(calibration.probability(hit.similarity, rows))
        return schemas.Hit(
            **_person(hit, sources).model_dump(),
            similarity=hit.similarity,
            probability=chance,
            rows=hit.rows,
        )

    def embeddings(self, examples: Sequence[schemas.Example]) -> np.ndarray:
        """(n, D) of examples; those of the gallery need no model."""
        return np.stack([self._embedding(example) for example in examples])

    def _embedding(self, example: schemas.Example) -> np.ndarray:
        if example.person is not None:
            return self._fetched(example.person).embeddings[0].astype(np.float32)
        box = None if example.box is None else tuple(example.box)
        key = (example.upload, example.source, example.frame, box)
        with self._lock:
            if key in self._embeddings:
                self._embeddings.move_to_end(key)
                return self._embeddings[key]
        image = self.image_of(example)
        if example.box is None:
            image, place = scene_around(image)
        else:
            place = place_in(image, example.box)
        found = self.model.run(lambda predictor: predictor.embed(image, [place])[0])
        if not np.isfinite(found).all() or not found.any():
            raise UserError("The model can't embed this box; draw another one.")
        with self._lock:
            self._embeddings[key] = found
            while len(self._embeddings) > _CACHED:
                self._embeddings.popitem(last=False)
        return found

    def image_of(self, example: schemas.Example) -> np.ndarray:
        """The scene or upload of an example, (H, W, 3) uint8 BGR."""
        if example.upload is not None:
            return self.uploads.get(example.upload).image()
        assert example.source is not None and example.frame is not None
        return self.home.scene_image(example.source, example.frame)

    def crop_of(self, example: schemas.Example) -> bytes | None:
        """JPEG of an example; None where it was not kept."""
        if example.person is not None:
            return self.home.thumbnails.read(str(self._fetched(example.person).thumbnails[0]))
        image = self.image_of(example)
        return make_thumbnail(image, place_in(image, example.box))

    def person(self, person_id: int) -> schemas.Person:
        """A row of the gallery."""
        hit = sighting(self._fetched(person_id), 0, person_id, 1.0)
        return _person(hit, self.home.sources())

    def thumbnail(self, person_id: int) -> bytes:
        """
        Raises:
            NotFoundError: no such row, or its crop is not kept.
        """
        found = self.home.thumbnails.read(str(self._fetched(person_id).thumbnails[0]))
        if found is None:
            raise NotFoundError("This person's crop is not kept.")
        return found

    def _fetched(self, person_id: int):
        try:
            return self.home.store.fetch(np.array([person_id]))
        except GalleryError as error:
            raise NotFoundError(f"The gallery has no person {person_id}.") from error

    def scene(self, source: str, frame: int, offset: float) -> schemas.SceneView:
        """
        A frame of a source, or the one ``offset`` seconds from it, with its people.

        Raises:
            NotFoundError: the gallery has looked at no such frame.
        """
        entry = self.scenes.near(source, frame, offset)
        if entry is None:
            raise NotFoundError(f'The gallery has no frame {frame} of "{source}".')
        problem = None
        try:
            image = self.home.scene_image(source, entry.frame)
            entry = self.scenes.checked(entry, image)
        except GalleryError as error:
            problem = str(error)
        known = self.home.sources()[source]
        return schemas.SceneView(
            source=source,
            camera=known.camera,
            frame=entry.frame,
            time=entry.when,
            position=known.position(entry.frame),
            width=entry.size[0],
            height=entry.size[1],
            people=self._people_of(known, entry),
            problem=problem,
        )

    def _people_of(self, source: Source, entry) -> list[schemas.ScenePerson]:
        """Everybody found in a frame, with the row of those who have one."""
        rows = self.scenes.rows(source.name).get(entry.frame, [])
        people = self.home.store.fetch(np.array(rows)) if rows else None
        found = []
        for box, score in zip(entry.boxes, entry.scores):
            match, has_thumbnail = None, False
            if people is not None:
                far = np.abs(people.boxes - np.array(box)).max(axis=1)
                nearest = int(far.argmin())
                if far[nearest] < 0.2:
                    match, has_thumbnail = int(rows[nearest]), bool(people.thumbnails[nearest])
            x1, y1, x2, y2 = box
            found.append(
                schemas.ScenePerson(
                    id=match,
                    box=[x1, y1, x2 - x1, y2 - y1],
                    score=score,
                    camera=source.camera,
                    time=entry.when,
                    position=source.position(entry.frame),
                    has_thumbnail=has_thumbnail,
                )
            )
        return found

    def scene_jpeg(self, source: str, frame: int, box: Sequence[float] | None) -> bytes:
        """A frame, or a crop of it."""
        image = self.home.scene_image(source, frame)
        if box is not None:
            return make_thumbnail(image, place_in(image, box))
        scale = min(1.0, _SCENE_SIDE / max(image.shape[:2]))
        if scale < 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        return cv2.imencode(".jpg", image, _JPEG)[1].tobytes()

    def upload(self, data: bytes) -> schemas.UploadView:
        """Keep a picture for a while, and find its people."""
        kept = self.uploads.add(data)
        image = kept.image()
        found = self.model.run(lambda predictor: predictor.detect([image])[0])
        people = [
            schemas.ScoredBox(box=[x1, y1, x2 - x1, y2 - y1], score=float(score))
            for (x1, y1, x2, y2), score in zip(found.boxes.tolist(), found.scores)
        ]
        width, height = kept.size
        return schemas.UploadView(id=kept.id, width=width, height=height, people=people)

    def sources(self) -> list[schemas.SourceView]:
        return [
            schemas.SourceView(
                name=s.name,
                camera=s.camera,
                kind=s.kind,
                people=self.home.store.count(Filter(sources=s.name)),
                available=s.available,
            )
            for s in self.home.sources().values()
        ]

    def delete_source(self, name: str) -> None:
        """
        Raises:
            NotFoundError: there is none.
        """
        if name not in self.home.sources():
            raise NotFoundError(f'The gallery has no source "{name}".')
        self.home.delete_source(name)
        self.refresh()

    def refresh(self) -> None:
        """See what other processes changed."""
        self.home.close()
        self.scenes.forget()


def _person(hit: Sighting, sources: Mapping[str, Source]) -> schemas.Person:
    """A hit's row, as the API has it."""
    x1, y1, x2, y2 = hit.box
    source = sources.get(hit.source)
    return schemas.Person(
        id=hit.id,
        source=hit.source,
        camera=hit.camera,
        frame=hit.frame,
        time=hit.time,
        position="" if source is None else source.position(hit.frame),
        box=[x1, y1, x2 - x1, y2 - y1],
        score=hit.score,
        tracklet=None if hit.tracklet is None else str(hit.tracklet),
        has_thumbnail=bool(hit.thumbnail),
    )


def place_in(image: np.ndarray, xywh: Sequence[float] | None) -> tuple[float, float, float, float]:
    """
    xyxy of a box in an image; the whole image for None.

    Raises:
        SearchInputError: it lies outside, or has no area.
    """
    height, width = image.shape[:2]
    if xywh is None:
        return 0.0, 0.0, float(width), float(height)
    x, y, w, h = xywh
    return clip_query_box((x, y, w, h), (height, width))


def _verdict(hits, calibration, rows) -> schemas.Verdict | None:
    if calibration is None:
        return None
    threshold = calibration.threshold(FALSE_ALARMS, rows)
    best = max((hit.similarity for hit in hits), default=-1.0)
    return schemas.Verdict(nobody=best < threshold, threshold=threshold, false_alarms=FALSE_ALARMS)
