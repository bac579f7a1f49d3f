"""The augmentations ``wrs``, ``rrc2``, ...: random numbers in, a :class:`View` out.

* ``wrs``, window resize: shorter side to 900, longer side at most 1500.
* ``rrc2``, fine-tuning: wrs, centre pad to at least 3R x 3R, then RFC2 or RSC, then flip.
* ``rrc_scale``, pre-training: scale by a random factor, pad to at least 4R x 4R, then the same.
* ``rrc``, older, in no published run: wrs, pad to at least R x R only, then RFC or RSC, then flip.

RFC2 (random focused crop) cuts an R x R square that contains one randomly chosen person (RFC: only
if one is known, otherwise any square, and never a larger one); RSC
(random sized bbox-safe crop) cuts a rectangle around all people and squeezes it to R x R. Padding,
erosion and the 50/50 mix are those of the authors' code. Pre-training scales by 0.5 to 2 in the
paper; the authors' code trained with 1.5 to 3.0, because its scale operator adds 1 to both ends.
``INPUT.SCALE_RANGE`` reaches either.
"""

import math

import numpy as np

from spnet_d2.data.geometry import Crop, Size, View, boxes_on_canvas

# Share of its width and height cut off each side of every box before RSC takes their union, as in
# the authors' code.
EROSION = 0.1


def window_size(size: Size, min_size: int, max_size: int) -> Size:
    """Size of an image whose shorter side becomes ``min_size`` unless the longer one exceeds
    ``max_size``; halves are rounded to even. (480, 640) -> (900, 1200) for 900 and 1500."""
    factor = min_size / min(size)
    if factor * max(size) > max_size:
        factor = max_size / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def focused_crop(
    boxes: np.ndarray, known: np.ndarray, canvas: Size, side: int, rng: np.random.Generator
) -> Crop:
    """RFC2: a square that contains one person, chosen among the known ones if there are any.

    Args:
        boxes: ``(N, 4)`` xyxy on the canvas.
        known: ``(N,)`` bool, the identity is known.
        canvas: size of the canvas.
        side: R; the square is larger only if the chosen person is.

    Returns:
        The crop, which holds the chosen box up to a pixel; the whole canvas without boxes.
    """
    if len(boxes) == 0:
        return 0, 0, canvas[1], canvas[0]
    candidates = np.flatnonzero(known) if np.any(known) else np.arange(len(boxes))
    x1, y1, x2, y2 = boxes[candidates[rng.integers(len(candidates))]]
    side = math.floor(max(side, x2 - x1, y2 - y1))
    x = _focused_start(x1, x2, side, canvas[1], rng)
    y = _focused_start(y1, y2, side, canvas[0], rng)
    # A person longer than the other side of a narrow canvas: the square ends at the canvas.
    return x, y, min(side, canvas[1] - x), min(side, canvas[0] - y)


def focused_crop_of_known(
    boxes: np.ndarray, known: np.ndarray, canvas: Size, side: int, rng: np.random.Generator
) -> Crop:
    """RFC: a square that contains one known person; without any, a square anywhere.

    Arguments as for :func:`focused_crop`.

    Returns:
        The crop, R x R in any case: of a larger person it holds the upper left part.
    """
    if not np.any(known):
        x, y = (int(rng.integers(0, limit - side + 1)) for limit in canvas[::-1])
        return x, y, side, side
    candidates = np.flatnonzero(known)
    x1, y1, x2, y2 = boxes[candidates[rng.integers(len(candidates))]]
    x = _focused_start(x1, x2, side, canvas[1], rng)
    y = _focused_start(y1, y2, side, canvas[0], rng)
    return x, y, side, side


def _focused_start(low: float, high: float, side: int, limit: int, rng: np.random.Generator) -> int:
    """Uniform integer start of an interval of length ``side`` that contains [low, high]."""
    first = min(math.floor(low), math.floor(max(0, high - side)))
    last = max(first, math.floor(min(limit - side, low)))
    return int(rng.integers(first, last + 1))


def bbox_safe_crop(
    boxes: np.ndarray, canvas: Size, erosion: float, rng: np.random.Generator
) -> Crop:
    """RSC: a rectangle of random extent around the union of all boxes.

    Args:
        boxes: ``(N, 4)`` xyxy on the canvas.
        canvas: size of the canvas.
        erosion: e, share of its width and height cut off each side of every box before the union;
            a box therefore keeps at least (1 - 2e)^2 of its area.

    Returns:
        The crop; without boxes, one of 1 - e to 1 times the canvas.
    """
    height, width = canvas
    if len(boxes) == 0:
        crop_h = int(rng.integers(int((1 - erosion) * height), height + 1))
        crop_w = max(1, int(crop_h * width / height))
        start_x, start_y = rng.random(2)
    else:
        margin = erosion * (boxes[:, 2:] - boxes[:, :2])
        lower = (boxes[:, :2] + margin).min(axis=0) / (width, height)
        upper = (boxes[:, 2:] - margin).max(axis=0) / (width, height)
        lower = lower * rng.random(2)
        upper = upper + (1 - upper) * rng.random(2)
        extent_x, extent_y = upper - lower
        crop_w = width if extent_x >= 1 else max(1, int(width * extent_x))
        crop_h = height if extent_y >= 1 else max(1, int(height * extent_y))
        start_x = 0.0 if extent_x >= 1 else min(max(lower[0] / (1 - extent_x), 0), 1)
        start_y = 0.0 if extent_y >= 1 else min(max(lower[1] / (1 - extent_y), 0), 1)
    # A start of exactly 1 would end one pixel beyond the canvas.
    x = min(int((width - crop_w + 1) * start_x), width - crop_w)
    y = min(int((height - crop_h + 1) * start_y), height - crop_h)
    return x, y, crop_w, crop_h


class NativeSize:
    """``none``: the image as it is."""

    def __call__(self, size: Size, boxes, known, rng=None) -> View:
        return View.resize(size, size)


class WindowResize:
    """``wrs``: resize as :func:`window_size` says; in training flipped half of the time.

    Args:
        min_size, max_size: limits of the shorter and of the longer side, pixels.
        flip_prob: probability of mirroring.
    """

    def __init__(self, min_size: int = 900, max_size: int = 1500, flip_prob: float = 0.0):
        self.min_size, self.max_size, self.flip_prob = min_size, max_size, flip_prob

    def __call__(self, size: Size, boxes, known, rng: np.random.Generator | None = None) -> View:
        """Sample a view; ``rng`` is not used without flips."""
        flip = self.flip_prob > 0 and (rng or np.random.default_rng()).random() < self.flip_prob
        return View.resize(size, window_size(size, self.min_size, self.max_size), flip)


class PadAndCrop:
    """``rrc``, ``rrc2`` and ``rrc_scale``: resize, centre pad, RFC(2) or RSC to R x R, flip.

    Args:
        resize: maps ``(size, rng)`` to the size before padding.
        crop_size: R, pixels.
        canvas_factor: the canvas is at least ``canvas_factor * R`` wide and high.
        safe_odds: of RSC, those of RFC2 being 1.
        flip_prob: probability of mirroring.
        focus: :func:`focused_crop` (RFC2) or :func:`focused_crop_of_known` (RFC).
    """

    def __init__(
        self,
        resize,
        crop_size: int = 512,
        canvas_factor: int = 3,
        safe_odds: float = 1.0,
        flip_prob: float = 0.5,
        focus=focused_crop,
    ):
        if crop_size < 1:
            raise ValueError(
                f"crop_size (INPUT.CROP_SIZE) must be 1 pixel or more, found {crop_size}."
            )
        if not safe_odds >= 0:
            raise ValueError(f"safe_odds (INPUT.RSC_PROB) must be 0 or more, found {safe_odds}.")
        self.resize = resize
        self.crop_size = crop_size
        self.canvas_factor = canvas_factor
        self.focused_prob = 1 / (1 + safe_odds)
        self.flip_prob = flip_prob
        self.focus = focus

    def __call__(
        self, size: Size, boxes: np.ndarray, known: np.ndarray, rng: np.random.Generator
    ) -> View:
        """Sample a view.

        Args:
            size: (height, width) of the source image.
            boxes: ``(N, 4)`` xyxy in the source image.
            known: ``(N,)`` bool, the identity is known.
            rng: all randomness comes from here.
        """
        resized = self.resize(size, rng)
        side = self.canvas_factor * self.crop_size
        canvas = max(resized[0], side), max(resized[1], side)
        output = self.crop_size, self.crop_size
        boxes = boxes_on_canvas(boxes, size, resized, canvas)
        if rng.random() < self.focused_prob:
            crop = self.focus(boxes, known, canvas, self.crop_size, rng)
        else:
            crop = bbox_safe_crop(boxes, canvas, EROSION, rng)
        return View(size, resized, canvas, crop, output, bool(rng.random() < self.flip_prob))


def build_augmentation(cfg, is_train: bool):
    """Build the augmentation that ``INPUT.AUG_TRAIN`` or ``INPUT.AUG_TEST`` names.

    Raises:
        ValueError: if there is no such augmentation, or its numbers make no sense.
    """
    inputs = cfg.INPUT
    sides = (inputs.MIN_SIZE_TEST, inputs.MAX_SIZE_TEST, inputs.MAX_SIZE_TRAIN)
    if min(sides) < 1:
        raise ValueError(
            "INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST and MAX_SIZE_TRAIN are sides in pixels of 1 or "
            f"more, found {sides}."
        )
    return _train_augmentation(inputs) if is_train else _test_augmentation(inputs)


def _test_augmentation(inputs):
    if inputs.AUG_TEST == "none":
        return NativeSize()
    if inputs.AUG_TEST == "wrs":
        return WindowResize(inputs.MIN_SIZE_TEST, inputs.MAX_SIZE_TEST)
    raise ValueError(f'INPUT.AUG_TEST must be "wrs" or "none", found "{inputs.AUG_TEST}".')


def _train_augmentation(inputs):
    if inputs.RANDOM_FLIP not in ("horizontal", "none"):
        raise ValueError(
            f'INPUT.RANDOM_FLIP must be "horizontal" or "none", found "{inputs.RANDOM_FLIP}".'
        )
    if len(inputs.MIN_SIZE_TRAIN) != 1 or not inputs.MIN_SIZE_TRAIN[0] >= 1:
        raise ValueError(
            f"INPUT.MIN_SIZE_TRAIN must hold one size, found {tuple(inputs.MIN_SIZE_TRAIN)}; "
            "the crops of rrc2 and rrc_scale give the variety of sizes."
        )
    flip_prob = 0.5 if inputs.RANDOM_FLIP == "horizontal" else 0.0
    (min_size,), max_size = inputs.MIN_SIZE_TRAIN, inputs.MAX_SIZE_TRAIN
    if inputs.AUG_TRAIN == "wrs":
        return WindowResize(min_size, max_size, flip_prob)
    crops = {
        "rrc": (1, focused_crop_of_known),
        "rrc2": (3, focused_crop),
        "rrc_scale": (4, focused_crop),
    }
    if inputs.AUG_TRAIN not in crops:
        raise ValueError(
            'INPUT.AUG_TRAIN must be "wrs", "rrc", "rrc2" or "rrc_scale", found '
            f'"{inputs.AUG_TRAIN}".'
        )
    by_factor = inputs.AUG_TRAIN == "rrc_scale"
    resize = _by_factor(inputs.SCALE_RANGE) if by_factor else _to_window(min_size, max_size)
    canvas_factor, focus = crops[inputs.AUG_TRAIN]
    return PadAndCrop(
        resize,
        crop_size=inputs.CROP_SIZE,
        canvas_factor=canvas_factor,
        safe_odds=inputs.RSC_PROB,
        flip_prob=flip_prob,
        focus=focus,
    )


def _to_window(min_size: int, max_size: int):
    def resize(size: Size, rng: np.random.Generator) -> Size:
        return window_size(size, min_size, max_size)

    return resize


def _by_factor(scale_range: tuple[float, float]):
    low, high = scale_range
    if not 0 < low <= high:
        raise ValueError(f"INPUT.SCALE_RANGE must be 0 < low <= high, found {low}, {high}.")

    def resize(size: Size, rng: np.random.Generator) -> Size:
        factor = rng.uniform(low, high)
        return max(1, int(size[0] * factor)), max(1, int(size[1] * factor))

    return resize
