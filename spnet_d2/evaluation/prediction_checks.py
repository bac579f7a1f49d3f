"""Predicted boxes that show another convention than the format's.

Other people's models write x, y, w, h, fractions of the image, boxes of the resized image. All of
these can be scored, to wrong metrics. What is evident is an error, what is odd a warning.
"""

import logging

import numpy as np

from spnet_d2.data.box_conventions import cut_share
from spnet_d2.data.geometry import xywh_to_xyxy, xyxy_to_xywh
from spnet_d2.data.paired_boxes import group_pairs, paired_ious
from spnet_d2.evaluation.ground_truth import GroundTruth
from spnet_d2.evaluation.prediction_values import count_of
from spnet_d2.evaluation.predictions import Predictions

logger = logging.getLogger(__name__)

# Images of boxes that are looked at.
_IMAGES = 200
# Annotated boxes and detections from which their overlap tells something.
_ENOUGH = 20


def check_boxes(
    predictions: Predictions, truth: GroundTruth, sizes: np.ndarray, where: str
) -> None:
    """Boxes against their images and the annotated people; odd ones are warnings.

    Args:
        predictions: x1, y1, x2, y2 is expected.
        truth: the data set.
        sizes: (I, 2) of :func:`image_sizes`, by ascending id as in ``truth``.
        where: the file.

    Raises:
        ValueError: boxes are x, y, w, h or fractions of the image, or an image is unknown.
    """
    image_index = truth.find_images(predictions.image_ids, f"{where}: predictions")
    boxes = np.asarray(predictions.boxes, np.float64)
    finite = np.isfinite(boxes).all(axis=1)
    if not finite.all():
        logger.warning("%s: %s boxes are not finite and find nobody.", where, count_of(~finite))
    boxes, image_index = boxes[finite], image_index[finite]
    if len(boxes) == 0:
        return
    report = _Report(boxes, sizes[image_index], predictions.image_ids[finite], where)
    _check_fractions(report)
    _check_corners(report)
    _check_border(report)
    _check_overlap(report, truth, image_index)


def image_sizes(images: list[dict]) -> np.ndarray:
    """(I, 2) width, height of images (dataset dicts or entries of the JSON), in their order."""
    sizes = [(entry["width"], entry["height"]) for entry in images]
    return np.array(sizes, np.float64).reshape(-1, 2)


class _Report:
    """Detections with the sizes of their images, and the form of messages about them."""

    def __init__(self, boxes: np.ndarray, sizes: np.ndarray, image_ids: np.ndarray, where: str):
        self.boxes, self.sizes, self.image_ids, self.where = boxes, sizes, image_ids, where

    def message(self, odd: np.ndarray | np.bool_, what: str, advice: str) -> str:
        """``odd`` (n,) marks the boxes that are meant."""
        first = int(np.argmax(odd))
        box = [float(f"{value:.6g}") for value in self.boxes[first]]
        width, height = self.sizes[first].astype(int)
        return (
            f"{self.where}: {count_of(odd)} boxes {what}, first: {box} in image id "
            f"{self.image_ids[first]} of {width}x{height}. {advice}; boxes must be x1, y1, x2, y2 "
            "in pixels of the original image."
        )


def _check_fractions(report: _Report) -> None:
    tiny = (np.abs(report.boxes) <= 1).all(axis=1) & (report.sizes > 8).all(axis=1)
    if not tiny.any():
        return
    advice = "Relative coordinates (0 to 1)? Multiply them by the image's width and height"
    message = report.message(tiny, "lie within one pixel", advice)
    if tiny.mean() > 0.9 and (np.abs(report.boxes) <= 2).all():
        raise ValueError(message)
    logger.warning("%s", message)


def _check_corners(report: _Report) -> None:
    inverted = (report.boxes[:, 2:] < report.boxes[:, :2]).any(axis=1)
    if not inverted.any():
        return
    advice = "x, y, w, h instead of corners? Add x to w and y to h"
    message = report.message(inverted, "have x2 < x1 or y2 < y1", advice)
    if inverted.mean() > 0.25:
        raise ValueError(message)
    logger.warning("%s", message)


def _check_border(report: _Report) -> None:
    clipped = cut_share(xyxy_to_xywh(report.boxes), report.sizes) > 0.1
    if clipped.mean() > 0.15 and np.count_nonzero(clipped) > 1:
        what = "reach beyond the image with more than 10% of their area"
        advice = "Boxes of a resized image? Divide them by its scale"
        logger.warning("%s", report.message(clipped, what, advice))


def _check_overlap(report: _Report, truth: GroundTruth, image_index: np.ndarray) -> None:
    """Hardly anybody is found, or many more would be if the boxes meant something else."""
    images = np.unique(image_index)[:_IMAGES]
    wanted = np.isin(truth.image_index, images)
    used = np.isin(image_index, images)
    people, boxes, sizes = truth.boxes[wanted], report.boxes[used], report.sizes[used]
    if min(len(people), len(boxes)) < _ENOUGH:
        return
    groups = truth.image_index[wanted], image_index[used]
    found = _found(people, boxes, *groups)
    scale = _spread(people, _sizes_of(groups[0], image_index[used], sizes)) / _spread(boxes, sizes)
    meanings = {
        "they were x, y, w, h": xywh_to_xyxy(boxes),
        "they were y1, x1, y2, x2": boxes[:, [1, 0, 3, 2]],
    }
    if np.abs(np.log(scale)).max() > 0.1:
        scaled = f"multiplied by {scale[0]:.3g} in x and {scale[1]:.3g} in y (a resized image?)"
        meanings[f"they were {scaled}"] = boxes * np.tile(scale, 2)
    best = max(meanings, key=lambda name: _found(people, meanings[name], *groups))
    better = _found(people, meanings[best], *groups)
    if found >= 0.02 and better < 2 * found + 0.1:
        return
    advice = f"; {better:.0%} would, if {best}" if better > 2 * found + 0.1 else ""
    logger.warning(
        "%s: %.0f%% of the annotated people overlap a predicted box by an IoU of 0.3 (%d people in "
        "%d images looked at)%s. Boxes must be x1, y1, x2, y2 in pixels of the original image.",
        *(report.where, 100 * found, len(people), len(images), advice),
    )


def _sizes_of(groups: np.ndarray, others: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(n, 2) image sizes of ``groups``, all of which are among ``others`` with ``sizes``."""
    values, first = np.unique(others, return_index=True)
    return sizes[first[np.searchsorted(values, groups)]]


def _spread(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(2,) how far right and down boxes end, as a share of the image."""
    return np.maximum(np.percentile(boxes[:, 2:] / sizes, 98, axis=0), 1e-6)


def _found(
    people: np.ndarray, boxes: np.ndarray, person_images: np.ndarray, box_images: np.ndarray
) -> float:
    """Share of the people that some box overlaps."""
    person, box = group_pairs(person_images, box_images)
    hits = paired_ious(people[person], boxes[box]) >= 0.3
    return len(np.unique(person[hits])) / len(people)
