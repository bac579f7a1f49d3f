"""A person detector in an ONNX or OpenVINO file."""

import os
from dataclasses import asdict, replace
from typing import Protocol

import numpy as np

from spnet_d2.data.paired_boxes import paired_ious

from .layouts import DECODERS
from .networks import content_hash, open_network
from .pixels import Placement, place, to_input
from .settings import DetectorSettings, ModelFileError, read_settings


class PersonDetector(Protocol):
    """
    What finds people in an image.

    Attributes:
        settings: plain values that boxes depend on, weights included, but not the least score.
        min_score: least score of what it finds.
    """

    settings: dict[str, object]
    min_score: float

    def detect(self, image: np.ndarray, image_format: str) -> tuple[np.ndarray, np.ndarray]:
        """
        Args:
            image: (H, W, 3) uint8.
            image_format: "BGR" or "RGB".

        Returns:
            (N, 4) float32 boxes xyxy inside the image, and (N,) float32 scores, falling.
        """


class NetworkDetector:
    """``NetworkDetector.from_yaml("yolox_nano.yaml").detect(image, "BGR")``."""

    def __init__(self, settings: DetectorSettings):
        """
        Raises:
            ModelFileError: the network can't be used with these settings.
            ImportError: its runtime is not installed.
        """
        self.config, self.min_score = settings, settings.min_score
        self._network = open_network(settings.network, settings.size)
        known = self._network.output_shapes
        self._outputs = settings.outputs or tuple(known)
        if unknown := set(self._outputs) - set(known):
            raise ModelFileError(
                f"{settings.network} has no output {', '.join(sorted(unknown))}; it has "
                f"{', '.join(known)}."
            )
        self.settings = plain_settings(settings)

    @classmethod
    def from_yaml(cls, file: str | os.PathLike, min_score: float | None = None):
        """
        Args:
            file: see :mod:`.settings`.
            min_score: instead of the file's.
        """
        settings = read_settings(file, DetectorSettings)
        if min_score is not None:
            settings = replace(settings, min_score=min_score)
        return cls(settings)

    def detect(self, image: np.ndarray, image_format: str) -> tuple[np.ndarray, np.ndarray]:
        """As :class:`PersonDetector` says."""
        config = self.config
        placement = Placement.of(image.shape[:2], config.size, config.fit)
        pixels = place(image, config.size, placement, config.padding)
        batch = to_input(pixels, config, image_format)[None]
        outputs = self._network.run(batch, self._outputs)
        boxes, scores = DECODERS[config.layout](outputs, config)
        boxes = placement.boxes_in_image(boxes)
        return keep_best(
            boxes, scores, image.shape[:2], config.min_score, config.nms, config.max_people
        )


def keep_best(
    boxes: np.ndarray,
    scores: np.ndarray,
    size: tuple[int, int],
    min_score: float,
    nms: float,
    most: int,
) -> tuple[np.ndarray, np.ndarray]:
    """
    Boxes that are sure enough, clipped to the image, and no two of one person.

    Args:
        boxes: (N, 4) xyxy, pixels of the image.
        scores: (N,)
        size: (height, width) of the image.
        min_score: least score.
        nms: IoU above which the less sure box is dropped.
        most: boxes at most.

    Returns:
        (n, 4) float32 and (n,) float32, by falling score.
    """
    finite = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
    keep = np.flatnonzero(finite & (scores >= min_score))
    keep = keep[np.argsort(-scores[keep], kind="stable")]
    boxes, scores = boxes[keep], np.clip(scores[keep], 0, 1)
    kept = non_maximum_suppression(boxes, nms)[:most]
    boxes = np.clip(boxes[kept], 0, [size[1], size[0], size[1], size[0]])
    # Less than a pixel is nothing to look at.
    visible = (boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1)
    return boxes[visible].astype(np.float32), scores[kept][visible].astype(np.float32)


def non_maximum_suppression(boxes: np.ndarray, nms: float) -> np.ndarray:
    """Greedy NMS of (N, 4) boxes that come by falling score: numbers of those that stay."""
    if nms >= 1:
        return np.arange(len(boxes))
    left, kept = np.arange(len(boxes)), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        repeated = np.broadcast_to(boxes[best], (len(left), 4))
        left = left[paired_ious(repeated, boxes[left]) <= nms]
    return np.array(kept, np.int64)


def plain_settings(settings) -> dict[str, object]:
    """What boxes or embeddings depend on, for fingerprints: the network by its content."""
    values = asdict(settings) | {"network": content_hash(settings.network)}
    values = {k: v for k, v in values.items() if k not in ("licence", "min_score")}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
