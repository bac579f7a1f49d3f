"""People as every predictor gives them; this needs neither PyTorch nor Detectron2."""

import os
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class PersonDetections:
    """
    People of one image, by falling score.

    Attributes:
        boxes: (N, 4) float32 xyxy, pixels of the image.
        scores: (N,) float32 in [0, 1].
        embeddings: (N, D_r) float32 re-id embeddings, compared by cosine similarity.
        scene: (D_r,) float32 embedding of the image, of a model with a gallery filter.
    """

    boxes: np.ndarray
    scores: np.ndarray
    embeddings: np.ndarray
    scene: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, min_score: float) -> "PersonDetections":
        """Those with ``score >= min_score``."""
        keep = self.scores >= min_score
        kept = {name: getattr(self, name)[keep] for name in ("boxes", "scores", "embeddings")}
        return replace(self, **kept)


@dataclass(frozen=True)
class PersonQuery:
    """
    A person to look for, as the model embedded their box in its scene.

    Attributes:
        reid: (D_r,) float32 re-id embedding, which ranks what is found.
        loc: (D,) float32 localisation embedding, which query-centric search finds people by.
        scene: (D_r,) float32 embedding of the scene, of a model with a gallery filter.
    """

    reid: np.ndarray
    loc: np.ndarray
    scene: np.ndarray | None = None


def check_image(image) -> None:
    """
    See that an image is one that predictors take.

    Raises:
        ValueError: it is not a non-empty (H, W, 3) uint8 array.
    """
    if not isinstance(image, np.ndarray):
        raise ValueError(
            "Expected an image as a non-empty (H, W, 3) uint8 array, found "
            f"{type(image).__name__}{_hint(image)}."
        )
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"Expected an image as a non-empty (H, W, 3) uint8 array, found {image.dtype} "
            f"{image.shape}."
        )


def check_image_format(image_format: str) -> None:
    """
    Raises:
        ValueError: no channel order of images.
    """
    if image_format not in ("BGR", "RGB"):
        raise ValueError(f'image_format must be "BGR" or "RGB", found {image_format!r}.')


def _hint(image) -> str:
    """What to do about an image that is no array."""
    if image is None:
        return ": cv2.imread gives None for a file that it can't read"
    if isinstance(image, str | os.PathLike):
        return f" ({os.fspath(image)!r}): read it with spnet_d2.search.read_image_bgr first"
    if type(image).__module__.startswith("PIL"):
        return (
            ": give np.asarray(image.convert('RGB')) to a predictor of image_format='RGB', or read "
            "the file with spnet_d2.search.read_image_bgr"
        )
    return ""
