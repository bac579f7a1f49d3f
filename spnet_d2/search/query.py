"""The query box, and its matches: people of a gallery by similarity."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from spnet_d2.errors import SearchInputError


@dataclass(frozen=True)
class Match:
    """
    A person of the gallery.

    Attributes:
        rank: 1 is the most similar.
        similarity: cosine of the embeddings, -1..1.
        score: of the detection, 0..1.
        box: xyxy, pixels of the frame.
        frame: number of the frame in the folder or video, from 0.
        file: of the image or video.
        time: seconds from the start of the video; None for images.
    """

    rank: int
    similarity: float
    score: float
    box: tuple[float, float, float, float]
    frame: int
    file: str
    time: float | None

    def to_json(self) -> dict:
        """Plain values; the box both as ``box_xywh`` and ``box_xyxy``, in 1/100 pixels."""
        return {
            "rank": self.rank,
            "file": self.file,
            "frame": self.frame,
            "time": None if self.time is None else round(self.time, 3),
            **box_to_json(self.box),
            "score": round(self.score, 6),
            "similarity": round(self.similarity, 6),
        }


def box_to_json(box) -> dict:
    """``{"box_xywh", "box_xyxy"}`` of an xyxy box."""
    x1, y1, x2, y2 = (float(v) for v in box)
    return {
        "box_xywh": [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)],
        "box_xyxy": [round(v, 2) for v in (x1, y1, x2, y2)],
    }


class GalleryStore(Protocol):
    """Any index of people that can rank them; :class:`~.gallery.Gallery` is one in memory."""

    def rank(self, embedding: np.ndarray, topk: int, min_similarity: float) -> list[Match]:
        """The people most similar to ``embedding`` (D_r,), as :meth:`.gallery.Gallery.rank`."""


def search(
    gallery: GalleryStore,
    query_embedding: np.ndarray,
    topk: int = 10,
    min_similarity: float = -1.0,
) -> list[Match]:
    """
    The people of a gallery, or of any other store, most similar to the query.

    Arguments, result and errors are those of :meth:`.gallery.Gallery.rank`.
    """
    return gallery.rank(query_embedding, topk, min_similarity)


def box_warnings(xywh: tuple[float, float, float, float], size: tuple[int, int]) -> list[str]:
    """
    What is odd about a query box that can be used: one sentence each, [] for a usual one.

    Args:
        xywh: left, top, width, height in pixels, as the user gave it.
        size: (height, width) of the image.
    """
    x1, y1, x2, y2 = clip_query_box(xywh, size)
    inside = (x2 - x1) * (y2 - y1) / (xywh[2] * xywh[3])
    warnings = []
    if inside < 0.9:
        warnings.append(
            f"{1 - inside:.0%} of the box lies outside the image of {size[1]} x {size[0]} pixels "
            "and was cut off; note that the box is x,y,w,h, with its size, not its other corner."
        )
    elif (x2 - x1) >= 0.95 * size[1] and (y2 - y1) >= 0.95 * size[0]:
        warnings.append(
            "the box is as large as its image. The model compares people as they look within "
            "their scene: a whole scene with the person's box in it finds more than a crop."
        )
    return warnings


def cosine_similarities(embeddings: np.ndarray, query: np.ndarray) -> np.ndarray:
    """(N,) cosines of (N, D) embeddings with (D,); 0 where a vector is zero or not finite."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        query = query / np.linalg.norm(query)
        similarities = embeddings @ query / np.linalg.norm(embeddings, axis=1)
    # Rounding can leave the range by an ulp.
    return np.clip(np.where(np.isfinite(similarities), similarities, 0.0), -1.0, 1.0)


def clip_query_box(
    xywh: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """
    Check a user's box and clip it to the image.

    Args:
        xywh: left, top, width, height in pixels.
        size: (height, width) of the image.

    Returns:
        xyxy.

    Raises:
        SearchInputError: not finite, no area, or nothing of it (less than a pixel each way) in
            the image.
    """
    x, y, w, h = xywh
    where = f"the box x,y,w,h = {x:g},{y:g},{w:g},{h:g}"
    if not all(math.isfinite(v) for v in xywh) or w <= 0 or h <= 0:
        raise SearchInputError(f"Expected a box of positive width and height, found {where}.")
    height, width = size
    x1, x2 = (min(max(v, 0.0), float(width)) for v in (x, x + w))
    y1, y2 = (min(max(v, 0.0), float(height)) for v in (y, y + h))
    if x2 - x1 < 1 or y2 - y1 < 1:
        raise SearchInputError(
            f"Nothing of {where} lies inside the image of {width} x {height} pixels; note that "
            "w,h is the size of the box, not its other corner."
        )
    return x1, y1, x2, y2
