"""The boxes that take part: detections over the score floor, or ground-truth boxes.

Two rules decide which detections count, before any metric is computed:

* Score floor: score >= 0.5, as in the official CUHK-SYSU and PRW evaluations. Scores that are
  not finite count as 0.
* Ignore regions (only in data sets that have them): a detection that is no possible hit (its IoU
  stays below ``iou_thresh`` with every ground-truth box of the image) and has at least half of
  its own area inside one ignore region is left out. It is neither a false positive of detection
  nor a distractor of retrieval. A second detection of an annotated person is still a false
  positive, wherever it lies.
"""

import logging
from dataclasses import dataclass

import numpy as np

from spnet_d2.data.paired_boxes import box_areas, group_pairs, paired_intersections, paired_ious
from spnet_d2.evaluation.ground_truth import GroundTruth
from spnet_d2.evaluation.predictions import Predictions

logger = logging.getLogger(__name__)

SCORE_FLOOR = 0.5
# Share of a detection's own area inside an ignore region.
IGNORE_OVERLAP = 0.5


@dataclass(frozen=True)
class GalleryBoxes:
    """Boxes that take part in an evaluation, ordered by image.

    Attributes:
        image_index: (N,) number of each box's image, ascending.
        boxes: (N, 4) float64 xyxy.
        scores: (N,) float64.
        rows: (N,) row of each box in the array of embeddings it came with.
        query_index: (N,) number of the ground-truth box each detection was
            found for (query-centric models); None: boxes serve all queries.
    """

    image_index: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    rows: np.ndarray
    query_index: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: np.ndarray) -> "GalleryBoxes":
        """The boxes at ``index`` (numbers or a mask)."""
        return GalleryBoxes(
            image_index=self.image_index[index],
            boxes=self.boxes[index],
            scores=self.scores[index],
            rows=self.rows[index],
            query_index=None if self.query_index is None else self.query_index[index],
        )


def detected_boxes(truth: GroundTruth, predictions: Predictions) -> GalleryBoxes:
    """Detections that count, by the rules above.

    Raises:
        ValueError: a detection names an image or a query that the data set lacks.
    """
    image_index = truth.find_images(predictions.image_ids, "predictions")
    query_index, counts = None, np.ones(len(image_index), bool)
    if predictions.is_query_centric:
        ids = np.asarray(predictions.query_annotation_ids)
        counts = truth.not_empty(ids, "predictions: queries")
        query_index = np.zeros(len(ids), np.int64)
        query_index[counts] = truth.find_annotations(ids[counts], "predictions")
    scores = np.array(predictions.scores, np.float64)
    boxes = np.array(predictions.boxes, np.float64)
    for what, broken, meaning in (
        ("scores", ~np.isfinite(scores), "they count as 0"),
        ("boxes", ~np.isfinite(boxes).all(axis=1), "they overlap nothing"),
    ):
        if broken.any():
            logger.warning("%d detections have non-finite %s: %s.", broken.sum(), what, meaning)
    scores[~np.isfinite(scores)] = 0.0

    over_floor = np.flatnonzero((scores >= SCORE_FLOOR) & counts)
    rows = over_floor[np.argsort(image_index[over_floor], kind="stable")]
    everything = GalleryBoxes(image_index, boxes, scores, np.arange(len(scores)), query_index)
    kept = everything.take(rows)
    ignored = in_ignore_regions(truth, kept)
    return kept.take(~ignored) if ignored.any() else kept


def in_ignore_regions(truth: GroundTruth, detections: GalleryBoxes) -> np.ndarray:
    """(N,) bool: which detections the ignore rule leaves out."""
    ignored = np.zeros(len(detections), bool)
    d, r = group_pairs(detections.image_index, truth.ignore_image_index)
    if len(d) == 0:
        return ignored
    boxes = detections.boxes
    inside = paired_intersections(boxes[d], truth.ignore_boxes[r])
    area = box_areas(boxes)
    ignored[d[(inside >= IGNORE_OVERLAP * area[d]) & (area[d] > 0)]] = True

    candidates = np.flatnonzero(ignored)
    d, g = group_pairs(detections.image_index[candidates], truth.image_index)
    d = candidates[d]
    possible_hit = paired_ious(boxes[d], truth.boxes[g]) >= truth.iou_thresh[g]
    ignored[d[possible_hit]] = False
    return ignored


def ground_truth_boxes(
    truth: GroundTruth, predictions: Predictions, images: np.ndarray
) -> GalleryBoxes | None:
    """Ground-truth boxes of some images as perfect detections (score 1) for the GT metrics.

    Args:
        truth: the data set.
        predictions: their embeddings.
        images: (J,) numbers of the images that are searched.

    Returns:
        GalleryBoxes | None: None unless every box of the images has an embedding.
    """
    rows = predictions.gt_rows(truth)
    searched = np.zeros(truth.num_images, bool)
    searched[images] = True
    wanted = np.flatnonzero(searched[truth.image_index])
    missing = np.count_nonzero(rows[wanted] < 0)
    if missing:
        logger.warning(
            "GT metrics are left out: %d of the %d ground-truth boxes of the images that are "
            "searched have no embedding.",
            missing,
            len(wanted),
        )
        return None
    return GalleryBoxes(
        image_index=truth.image_index[wanted],
        boxes=truth.boxes[wanted],
        scores=np.ones(len(wanted)),
        rows=rows[wanted],
    )
