"""A detector and a re-id model with the interface of ``PersonSearchPredictor``."""

import hashlib
import json
import os
from collections.abc import Iterable
from functools import cached_property

import numpy as np

from spnet_d2.search.people import PersonDetections, PersonQuery, check_image, check_image_format

from .detector import NetworkDetector, PersonDetector
from .reid import ReidModel
from .settings import ModelFileError


class TwoStagePredictor:
    """
    Detect people, then embed each one's crop: what a user would build without an end-to-end model.

    It takes the place of a :class:`~spnet_d2.search.PersonSearchPredictor` in ``Gallery.build``,
    search and evaluation. Neither PyTorch nor Detectron2 is needed::

        predictor = TwoStagePredictor.from_yaml("yolox_nano.yaml", "osnet_x0_25.yaml")
        people = predictor.detect([image])[0]

    Attributes:
        image_format: channel order of the images given, "BGR" (OpenCV) or "RGB".
        embedding_dim: length of the embeddings, 0 without a re-id model.
        settings: plain values that boxes and embeddings depend on, weights included.
        query_centric: False: its detections serve every query.
    """

    query_centric = False

    def __init__(self, detector: PersonDetector, reid: ReidModel | None, image_format: str = "BGR"):
        """
        Args:
            detector: finds people.
            reid: embeds them; None: only boxes are wanted, the embeddings are (N, 0).
            image_format: see above.

        Raises:
            ValueError: another channel order.
        """
        check_image_format(image_format)
        self.detector, self.reid, self.image_format = detector, reid, image_format
        self.embedding_dim = reid.embedding_dim if reid else 0
        self.settings = {f"detector.{key}": value for key, value in detector.settings.items()}
        if reid:
            self.settings |= {f"reid.{key}": value for key, value in reid.settings.items()}

    @classmethod
    def from_yaml(
        cls,
        detector: str | os.PathLike,
        reid: str | os.PathLike | None,
        min_score: float | None = None,
        image_format: str = "BGR",
    ):
        """
        Args:
            detector, reid: YAML files, see :mod:`.settings`.
            min_score: instead of the detector file's.
            image_format: see above.

        Raises:
            ModelFileError: a file can't be used.
            ImportError: a runtime is not installed.
        """
        found = NetworkDetector.from_yaml(detector, min_score)
        return cls(found, ReidModel.from_yaml(reid) if reid else None, image_format)

    @property
    def min_score(self) -> float:
        """What it finds has this score at least."""
        return self.detector.min_score

    def detect(
        self, images: Iterable[np.ndarray], query: PersonQuery | None = None
    ) -> list[PersonDetections]:
        """
        Find the people of each image.

        Args:
            images: (H, W, 3) uint8 arrays; an iterator is consumed one image at a time.
            query: must be None: a detector finds everyone.

        Raises:
            ValueError: a query was given, or no image.
        """
        if query is not None:
            raise ValueError(
                "A two-stage predictor detects everyone, not one query; leave the query out."
            )
        return [self._detect(image) for image in images]

    def _detect(self, image: np.ndarray) -> PersonDetections:
        check_image(image)
        boxes, scores = self.detector.detect(image, self.image_format)
        embeddings = np.zeros((len(boxes), 0), np.float32)
        if self.reid:
            embeddings = self.reid.embed(image, boxes, self.image_format)
        return PersonDetections(boxes, scores, embeddings)

    def embed(self, image: np.ndarray, boxes) -> np.ndarray:
        """
        Embed given people by their crops.

        Args:
            image: (H, W, 3) uint8.
            boxes: (N, 4) xyxy, pixels of ``image``; clip them first.

        Returns:
            (N, embedding_dim) float32, in the order of ``boxes``.

        Raises:
            ModelFileError: there is no re-id model.
        """
        check_image(image)
        if self.reid is None:
            raise ModelFileError("This predictor has no re-id model, so it can't embed: give one.")
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        return self.reid.embed(image, boxes, self.image_format)

    def query(self, image: np.ndarray, box) -> PersonQuery:
        """
        Embed one person to search for.

        Args:
            image: (H, W, 3) uint8, the scene that shows the person.
            box: xyxy, pixels of ``image``; clip it first.

        Returns:
            A query without a localisation embedding, which only query-centric search needs.
        """
        return PersonQuery(self.embed(image, box)[0], np.zeros(0, np.float32))

    @cached_property
    def fingerprint(self) -> str:
        """Text that is equal where boxes and embeddings can be compared: of both files' content
        and of ``settings``. The least score does not change it."""
        text = json.dumps(self.settings, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
