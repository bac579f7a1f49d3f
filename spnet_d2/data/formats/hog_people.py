"""A classical people detector: no network, nothing learned from the corpora of this project.

Histograms of oriented gradients with a linear classifier (Dalal and Triggs, CVPR 2005), as OpenCV 4
ships it with its weights of the INRIA pedestrians. It makes weak labels where nobody annotated.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision.ops import box_iou, nms
from tqdm import tqdm

from spnet_d2.data.image_reader import read_image_bgr

# The window's 128 rows hold a person of 96 and a margin all around.
_PERSON_SHARE = np.array([0.55, 0.76])


@dataclass(frozen=True)
class HogSettings:
    """How the detector looks. The defaults were chosen on the training part of PETS09.

    Attributes:
        upscale: the image is enlarged this much first; people need 96 pixels, so 2 finds those
            from about 48.
        pyramid_step: ratio of neighbouring scales.
        min_score: distance from the classifier's plane; higher is surer.
        nms_thresh: of two boxes that overlap more than this, the surer one stays.
    """

    upscale: float = 2.0
    pyramid_step: float = 1.2
    min_score: float = 0.4
    nms_thresh: float = 0.3


def detect_people(
    paths: Sequence[Path], settings: HogSettings | None = None, workers: int = 2
) -> list[np.ndarray]:
    """Look for people in images; the same images always give the same boxes.

    Args:
        paths: image files.
        settings: see :class:`HogSettings`.
        workers: threads, an image each.

    Returns:
        One array (n, 5) for each image: x, y, w, h in its pixels, inside it, and the score;
        surest first.

    Raises:
        RuntimeError: if this OpenCV has no such detector.
        ValueError: if a file is no image.
    """
    settings = settings or HogSettings()
    _require_hog()
    threads = cv2.getNumThreads()
    # OpenCV would share one image's scales between threads, of which the first is half the work.
    cv2.setNumThreads(1)
    pool = ThreadPoolExecutor(max_workers=workers)
    try:
        found = pool.map(lambda path: _detect(path, settings), paths)
        return list(tqdm(found, total=len(paths), desc="people (HOG)", disable=None))
    finally:
        pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(threads)


def _require_hog() -> None:
    if not hasattr(cv2, "HOGDescriptor"):
        raise RuntimeError(
            f"OpenCV {cv2.__version__} has no HOG people detector (version 5 dropped it). Install "
            "a version 4 in its place: pip install 'opencv-python-headless>=4.8.1.78,<5'"
        )


def _detect(path: Path, settings: HogSettings) -> np.ndarray:
    try:
        image = read_image_bgr(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{error} Delete it and prepare again.") from error
    height, width = image.shape[:2]
    size = round(width * settings.upscale), round(height * settings.upscale)
    hog = cv2.HOGDescriptor()
    hog.setSVMDetector(np.asarray(cv2.HOGDescriptor.getDefaultPeopleDetector()))
    windows, scores = hog.detectMultiScale(
        cv2.resize(image, size, interpolation=cv2.INTER_LINEAR),
        hitThreshold=settings.min_score,
        winStride=(8, 8),
        padding=(16, 16),
        scale=settings.pyramid_step,
        # 0: all windows, each with its own score. OpenCV's grouping would average them.
        groupThreshold=0,
    )
    boxes = np.asarray(windows, np.float64).reshape(-1, 4)
    boxes *= np.tile((width / size[0], height / size[1]), 2)
    return _people(boxes, np.asarray(scores, np.float64).reshape(-1), (width, height), settings)


def _people(
    windows: np.ndarray, scores: np.ndarray, size: tuple[int, int], settings: HogSettings
) -> np.ndarray:
    """Windows (n, 4) x, y, w, h with scores (n,) to rows as :func:`detect_people` returns them."""
    # Scales come in the order in which they were searched, so ties need an order of their own.
    order = np.lexsort((*windows.T, -scores))
    windows, scores = windows[order], scores[order]
    centre, half = windows[:, :2] + windows[:, 2:] / 2, windows[:, 2:] * _PERSON_SHARE / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    kept = nms(torch.from_numpy(boxes), torch.from_numpy(scores), settings.nms_thresh).numpy()
    boxes = np.clip(boxes[kept], 0, np.tile(size, 2))
    extent = boxes[:, 2:] - boxes[:, :2]
    rows = np.concatenate([boxes[:, :2], extent, scores[kept, None]], axis=1)
    return rows[(extent > 0).all(axis=1)]


def precision_recall(
    found: Iterable[np.ndarray],
    annotated: Iterable[np.ndarray],
    ignored: Iterable[np.ndarray],
    iou_thresh: float = 0.5,
) -> tuple[float, float]:
    """Compare detections with annotations, one entry of each list for one image.

    The surest detection takes the annotation it overlaps most of those left, if by at least
    ``iou_thresh``. Others with half of their area in an ignore region don't count.

    Args:
        found: (n, 4 or more) x, y, w, h ..., surest first.
        annotated, ignored: (m, 4) x, y, w, h.

    Returns:
        (precision, recall); 0 where there is nothing to divide by.
    """
    hits = wrong = total = 0
    for entries in zip(found, annotated, ignored, strict=True):
        boxes, truth, regions = map(_xyxy, entries)
        total += len(truth)
        overlap = box_iou(boxes, truth).numpy()
        covered = _covered(boxes, regions)
        for row in range(len(boxes)):
            best = int(overlap[row].argmax()) if len(truth) else -1
            if best >= 0 and overlap[row, best] >= iou_thresh:
                hits += 1
                overlap[:, best] = 0
            elif not covered[row]:
                wrong += 1
    return hits / max(1, hits + wrong), hits / max(1, total)


def _xyxy(boxes: np.ndarray) -> torch.Tensor:
    boxes = np.asarray(boxes, np.float64)
    boxes = boxes[:, :4] if boxes.size else np.zeros((0, 4))
    return torch.from_numpy(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1))


def _covered(boxes: torch.Tensor, regions: torch.Tensor) -> np.ndarray:
    """(n,) bool: half of the box or more lies in one region."""
    start = torch.maximum(boxes[:, None, :2], regions[None, :, :2])
    end = torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    inside = (end - start).clamp(min=0).prod(dim=2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    return (inside >= area[:, None] / 2).any(dim=1).numpy()
