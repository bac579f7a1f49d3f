"""Self-supervised pre-training: random boxes in the place of annotated people.

The authors' code has this as ``use_ssl``, though no published run turns it on. Every epoch each
image gets new boxes, each a person of its own. All views of an image in an epoch have the same
boxes, so there is something to find again. Boxes are float64 ``(N, 4)`` x, y, w, h in pixels.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from detectron2.structures import BoxMode

from spnet_d2.data.image_reader import read_image

WIDTHS = (8, 128)
ASPECT_RATIOS = (1 / 3, 3)
MAX_IOU = 0.1
VARIATION_IOU = 0.6
# Candidates looked at for an image before it is left with fewer boxes.
MAX_CANDIDATES = 1000
# A plain patch's 8 x 8 grey values span less than this; those of two equal ones differ by less.
MIN_RANGE = 16
MIN_DISTANCE = 512

Size = tuple[int, int]


def basic_boxes(size: Size, count: int, rng: np.random.Generator) -> np.ndarray:
    """Boxes anywhere inside an image, at real positions.

    Args:
        size: (height, width) of the image.
        count: N.
        rng: all randomness comes from here.
    """
    extent = _extents(size, count, rng)
    start = rng.random((count, 2)) * (np.array(size[::-1]) - extent)
    return np.concatenate([start, extent], axis=1)


def apart_boxes(
    size: Size,
    count: int,
    rng: np.random.Generator,
    accept: Callable[[np.ndarray], bool] | None = None,
) -> np.ndarray:
    """Boxes at whole pixels that hardly overlap (``iou``): IoU below 0.1 with every earlier one.

    Args:
        size, count, rng: as for :func:`basic_boxes`.
        accept: has the last word on a candidate (4,).

    Returns:
        ``count`` boxes, or fewer where no more were found.
    """
    kept = np.zeros((0, 4))
    for _ in range(MAX_CANDIDATES // 100):
        # Candidates are drawn in hundreds for speed and still looked at one after the other.
        extent = _extents(size, 100, rng)
        start = rng.integers(0, (np.array(size[::-1]) - extent).astype(np.int64) + 1)
        for box in np.concatenate([start, extent], axis=1):
            if len(kept) == count:
                return kept
            if (_iou(box, kept) < MAX_IOU).all() and (accept is None or accept(box)):
                kept = np.concatenate([kept, box[None]])
    return kept


def overlapping_boxes(size: Size, count: int, rng: np.random.Generator) -> np.ndarray:
    """Half of the boxes anywhere, then a variation of each (``overlap``).

    A variation has the same centre and an IoU of 0.6: wider, narrower, taller, shorter, larger or
    smaller, each as often. It is then clipped to the image.

    Args:
        size, count, rng: as for :func:`basic_boxes`. Of an odd number one box has no variation.
    """
    boxes = basic_boxes(size, count - count // 2, rng)
    part, side = VARIATION_IOU, VARIATION_IOU**0.5
    factors = np.array(
        [(1 / part, 1), (part, 1), (1, 1 / part), (1, part), (1 / side, 1 / side), (side, side)]
    )
    varied = boxes[: count // 2]
    centre = varied[:, :2] + varied[:, 2:] / 2
    half = varied[:, 2:] * factors[rng.integers(len(factors), size=len(varied))] / 2
    start, end = np.maximum(centre - half, 0), np.minimum(centre + half, size[::-1])
    return np.concatenate([boxes, np.concatenate([start, end - start], axis=1)])


MODES = {
    "basic": basic_boxes,
    "iou": apart_boxes,
    "distinctive": apart_boxes,
    "overlap": overlapping_boxes,
}
# Of an image, as in the authors' code.
NUM_BOXES = 10


class RandomBoxes:
    """Replace the annotations of a dataset dict by random boxes.

    Args:
        mode: one of ``MODES``. ``distinctive`` is ``iou`` without patches that are plain or look
            like an earlier one of the same image. (The authors' code compares with patches of other
            images too, which would tie the boxes to the order in which images are read.)
        num_boxes: boxes per image.
        num_images: images of the training set, for numbers that never repeat.
        seed: at least 0.

    Raises:
        ValueError: an unknown mode, or no boxes.
    """

    def __init__(
        self,
        mode: str,
        num_boxes: int,
        num_images: int,
        seed: int = 0,
    ):
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}, expected one of {', '.join(MODES)}.")
        if num_boxes < 1:
            raise ValueError(f"num_boxes must be 1 or more, found {num_boxes}.")
        self.mode = mode
        self.num_boxes = num_boxes
        self.num_images = num_images
        self.seed = seed

    def __call__(self, record: dict[str, Any], index: int, epoch: int) -> dict[str, Any]:
        """Copy of a dataset dict with other annotations.

        Args:
            record: as ``load_person_search_json`` gives it.
            index: its place in the training set.
            epoch: from 0 on; seed, epoch and index alone decide on the boxes.

        Returns:
            The copy. ``person_id`` and ``annotation_id`` are the same number, used in no other
            image or epoch; ``identity`` is -1, for such people have no row in a look-up table.
        """
        rng = np.random.default_rng((self.seed, epoch, index, 1))
        size = record["height"], record["width"]
        if self.mode == "distinctive":
            accept = DistinctivePatches(read_image(record["file_name"]))
            boxes = apart_boxes(size, self.num_boxes, rng, accept)
        else:
            boxes = MODES[self.mode](size, self.num_boxes, rng)
        first = (epoch * self.num_images + index) * self.num_boxes
        annotations = [
            {
                "annotation_id": number,
                "bbox": box,
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 0,
                "iscrowd": 0,
                "person_id": number,
                "identity": -1,
                "is_known": False,
                "iou_thresh": 0.5,
            }
            for number, box in enumerate(boxes.tolist(), start=first)
        ]
        return {**record, "annotations": annotations, "ignore_regions": []}


class DistinctivePatches:
    """Accept patches of one image that are neither plain nor like one accepted before.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
    """

    def __init__(self, image: np.ndarray):
        self.grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        self.code_book = np.zeros((0, 64), np.int64)

    def __call__(self, box: np.ndarray) -> bool:
        """Look at the patch of a box (4,) at whole pixels, and remember it if it is accepted."""
        x, y, w, h = box.astype(np.int64)
        patch = cv2.resize(self.grey[y : y + h, x : x + w], (8, 8), interpolation=cv2.INTER_AREA)
        code = patch.reshape(-1).astype(np.int64)
        if np.ptp(code) < MIN_RANGE:
            return False
        if (np.abs(self.code_book - code).sum(axis=1) < MIN_DISTANCE).any():
            return False
        self.code_book = np.concatenate([self.code_book, code[None]])
        return True


def build_random_boxes(cfg, num_images: int, seed: int) -> RandomBoxes | None:
    """Of ``INPUT.SSL_BOXES``; None if it is empty."""
    if not cfg.INPUT.SSL_BOXES:
        return None
    return RandomBoxes(cfg.INPUT.SSL_BOXES, NUM_BOXES, num_images, seed)


def _extents(size: Size, count: int, rng: np.random.Generator) -> np.ndarray:
    """(N, 2) whole widths and heights; width and aspect ratio are uniform in their logarithm."""
    height, width = size
    lowest, highest = np.minimum(WIDTHS, width)
    widths = np.ceil(np.exp(rng.uniform(np.log(lowest), np.log(highest), count)))
    # exp(log(128)) is a little more than 128.
    widths = np.minimum(widths, highest)
    least, most = np.log(ASPECT_RATIOS)
    ratios = np.exp(rng.uniform(least, most, count))
    return np.stack([widths, np.minimum(np.ceil(widths / ratios), height)], axis=1)


def _iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(N,) IoU of one box (4,) with (N, 4) boxes."""
    start = np.maximum(box[:2], boxes[:, :2])
    end = np.minimum(box[:2] + box[2:], boxes[:, :2] + boxes[:, 2:])
    inside = np.clip(end - start, 0, None).prod(axis=1)
    return inside / (box[2:].prod() + boxes[:, 2:].prod(axis=1) - inside)
