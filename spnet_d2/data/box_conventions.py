"""Annotated boxes whose numbers show another unit or convention than pixels x, y, w, h.

Corner coordinates, fractions of the image, and boxes of a resized image are valid numbers: training
would go on with nonsense. What nearly all boxes show is an error, what some show a warning. Real
annotations pass: of seven public corpora none has more than a tenth of its boxes cut by the image's
border by more than a tenth of their area, and none more than a third that could be corners.
"""

import logging
from collections.abc import Sequence

import numpy as np

from spnet_d2.data.person_search_schema import HELP, PersonSearchFormatError
from spnet_d2.utils.warn_once import warn_once

logger = logging.getLogger(__name__)

# Share of its area that a box loses at the image's border before it counts as clipped.
_CUT = 0.1
# Share of clipped boxes that no careful annotation has.
_MANY = 0.15
# Boxes from which the place of all of them tells something.
_ENOUGH = 20


def check_boxes(boxes: np.ndarray, sizes: np.ndarray, ids: Sequence[int], where: str) -> None:
    """Compare boxes with their images; a warning is logged once.

    Args:
        boxes: (n, 4) as annotated: x, y, w, h in pixels.
        sizes: (n, 2) width, height of each box's image.
        ids: (n,) annotation ids, for messages.
        where: the file.

    Raises:
        PersonSearchFormatError: (nearly) all boxes are in another unit or convention.
    """
    if len(boxes) == 0:
        return
    report = _Report(boxes, sizes, ids, where)
    _check_fractions(report)
    _check_extents(report)
    _check_clipping(report)
    _check_spread(report)


class _Report:
    """What all checks look at, and the form of their messages."""

    def __init__(self, boxes: np.ndarray, sizes: np.ndarray, ids: Sequence[int], where: str):
        self.boxes, self.sizes, self.ids, self.where = boxes, sizes, ids, where

    def message(self, odd: np.ndarray | np.bool_, what: str, advice: str) -> str:
        """``odd`` (n,) marks the boxes that are meant."""
        first = int(np.argmax(odd))
        box = [float(f"{value:.6g}") for value in self.boxes[first]]
        width, height = self.sizes[first].astype(int)
        return (
            f"{self.where}: {np.count_nonzero(odd)} of {odd.size} boxes {what}, first: annotations "
            f"id {self.ids[first]} with bbox {box} in an image of {width}x{height}. {advice} "
            f"bbox is [x, y, w, h] in pixels. {HELP}"
        )

    def fail(self, odd: np.ndarray | np.bool_, what: str, advice: str) -> None:
        raise PersonSearchFormatError(self.message(odd, what, advice))

    def warn(self, odd: np.ndarray | np.bool_, what: str, advice: str) -> None:
        warn_once(logger, self.message(odd, what, advice))


def _check_fractions(report: _Report) -> None:
    """Boxes below one pixel: fractions of the image."""
    extents = report.boxes[:, 2:]
    # In an image of a few pixels they may be meant.
    large = (report.sizes > 8).all(axis=1)
    tiny = (extents > 0).all(axis=1) & (extents <= 1).all(axis=1) & large
    at_origin = tiny & (np.abs(report.boxes) <= 1).all(axis=1)
    # A person beyond the border may be larger than the image.
    fractions = (np.abs(report.boxes) <= 2).all(axis=1) & large
    what = "are at most one pixel wide and high"
    advice = "Coordinates look relative (0 to 1): multiply them by the image's width and height;"
    if tiny.all() or (tiny.mean() > 0.9 and fractions.all()):
        report.fail(tiny, what, advice)
    elif at_origin.any() or tiny.mean() > 0.01:
        report.warn(tiny, what, advice)


def _check_extents(report: _Report) -> None:
    """Boxes without, or with less than no, width or height."""
    extents = report.boxes[:, 2:]
    negative = (extents < 0).any(axis=1)
    what = "have a negative width or height"
    advice = "Corners in another order, or x2, y2 lost against x, y? They are left out;"
    if negative.mean() > 0.5:
        report.fail(negative, what, advice)
    elif negative.any():
        report.warn(negative, what, advice)
    empty = (extents == 0).any(axis=1) & ~negative
    if empty.any():
        report.warn(empty, "have no width or no height", "They are left out;")


def _check_clipping(report: _Report) -> None:
    """Boxes that mostly leave the image."""
    clipped = cut_share(report.boxes, report.sizes) > _CUT
    what = f"reach beyond the image with more than {_CUT:.0%} of their area"
    count = np.count_nonzero(clipped)
    if clipped.mean() >= _CUT and _fit(report.boxes - _corner(report.boxes), report):
        advice = "They would fit as corners [x1, y1, x2, y2]: convert them;"
        (report.fail if count >= 3 else report.warn)(clipped, what, advice)
    elif clipped.mean() > _MANY and count > 1:
        report.warn(clipped, what, f"{_likely_cause(report)};")


def _corner(boxes: np.ndarray) -> np.ndarray:
    """(n, 4): 0, 0, x, y; what corners have too much in place of w, h."""
    return np.concatenate([np.zeros_like(boxes[:, :2]), boxes[:, :2]], axis=1)


def cut_share(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(n,) share of each box x, y, w, h outside its image; 0 for boxes without area."""
    start = np.clip(boxes[:, :2], 0, sizes)
    end = np.clip(boxes[:, :2] + boxes[:, 2:], start, sizes)
    extents = np.maximum(boxes[:, 2:], 0)
    # Sides one by one: the area of a huge box is no number.
    inside = np.divide(end - start, extents, where=extents > 0, out=np.ones_like(extents))
    return np.where((extents > 0).all(axis=1), 1 - inside.prod(axis=1), 0)


def _likely_cause(report: _Report) -> str:
    boxes, turned = report.boxes, report.sizes[:, ::-1]
    centred = boxes - np.concatenate([boxes[:, 2:] / 2, np.zeros_like(boxes[:, :2])], axis=1)
    if _fit(centred, report):
        return "They would fit if x, y were their centres"
    if (turned != report.sizes).any() and _fit(boxes, report, turned):
        return "They would fit if width and height of the images were swapped"
    return "They may be of another image size, or of another convention"


def _fit(boxes: np.ndarray, report: _Report, sizes: np.ndarray | None = None) -> bool:
    """Whether nearly all are boxes, and most of them inside their images but for a few pixels.

    Most: annotations may show people beyond the border.
    """
    sizes = report.sizes if sizes is None else sizes
    slack = np.maximum(5, 0.02 * sizes)
    inside = (boxes[:, :2] >= -slack) & (boxes[:, :2] + boxes[:, 2:] <= sizes + slack)
    some = (boxes[:, 2:] > 0).all(axis=1)
    return bool(some.mean() >= 0.98 and inside.all(axis=1).mean() >= 0.85)


def _check_spread(report: _Report) -> None:
    """Boxes that all lie in one corner of their images."""
    ends = ((report.boxes[:, :2] + report.boxes[:, 2:]) / report.sizes).max(axis=0)
    if len(report.boxes) >= _ENOUGH and (ends < 0.5).all():
        what = f"end before {ends[0]:.0%} of the image's width and {ends[1]:.0%} of its height"
        everything = np.ones(len(report.boxes), dtype=bool)
        report.warn(everything, what, "They may be percent, or of a smaller copy of the images;")
