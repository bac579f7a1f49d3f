"""Detection recall and AP@0.5 as person-search papers report them.

Not COCO AP: a score floor of 0.5, mutual-best matching instead of greedy matching, and average
precision times recall, so that missed people cost twice (the official CUHK-SYSU evaluation).
"""

from dataclasses import dataclass

import numpy as np

from spnet_d2.evaluation.boxes import group_pairs, paired_ious
from spnet_d2.evaluation.gallery import GalleryBoxes
from spnet_d2.evaluation.ground_truth import GroundTruth
from spnet_d2.evaluation.protocols import RetrievalProtocol
from spnet_d2.evaluation.ranking import average_precision

IOU_THRESHOLD = 0.5


@dataclass(frozen=True)
class DetectionScores:
    """Detection figures; fractions in [0, 1].

    Attributes:
        num_gt (int): ground-truth boxes.
        num_detections (int): detections that count.
        num_matched (int): detections matched with a ground-truth box.
        ap (float): step-wise average precision over all detections, times recall ("AP@0.5").
    """

    num_gt: int
    num_detections: int
    num_matched: int
    ap: float

    @property
    def recall(self) -> float:
        return self.num_matched / self.num_gt if self.num_gt else 0.0

    @property
    def rap(self) -> float:
        """AP times the share of detections that are matched."""
        return self.ap * self.num_matched / self.num_detections if self.num_detections else 0.0


def mutual_best_matches(
    detection_groups: np.ndarray,
    detections: np.ndarray,
    gt_groups: np.ndarray,
    gt_boxes: np.ndarray,
) -> np.ndarray:
    """Which detections are matched: mutual best choice within a group, no second choice.

    A detection matches the ground-truth box it overlaps most if no other detection overlaps that
    box more, and IoU >= 0.5. A detection whose box is taken stays unmatched even if it overlaps
    another one. Of equal IoUs the first counts.

    Args:
        detection_groups (ndarray): (N,) group (image) of each detection.
        detections (ndarray): (N, 4) xyxy.
        gt_groups (ndarray): (G,) group of each ground-truth box.
        gt_boxes (ndarray): (G, 4) xyxy.

    Returns:
        ndarray: (N,) bool.
    """
    d, g = group_pairs(detection_groups, gt_groups)
    iou = paired_ious(detections[d], gt_boxes[g])
    near = iou >= IOU_THRESHOLD
    d, g, iou = d[near], g[near], iou[near]
    best_of_both = _first_best(d, iou) & _first_best(g, iou)
    matched = np.zeros(len(detections), bool)
    matched[d[best_of_both]] = True
    return matched


def _first_best(groups: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(P,) bool: entries with their group's highest value, of equals the first."""
    order = np.lexsort((-values, groups))
    best = np.zeros(len(values), bool)
    best[order[np.unique(groups[order], return_index=True)[1]]] = True
    return best


def score_detections(
    truth: GroundTruth, images: np.ndarray, detections: GalleryBoxes
) -> DetectionScores:
    """Detection figures over some images, known and unknown people alike.

    Args:
        truth (GroundTruth): the data set.
        images (ndarray): (J,) numbers of the images that count.
        detections (GalleryBoxes): detections of :func:`.gallery.detected_boxes`.
    """
    counts = np.zeros(truth.num_images, bool)
    counts[images] = True
    gt = np.flatnonzero(counts[truth.image_index])
    detections = detections.take(counts[detections.image_index])
    matched = mutual_best_matches(
        detections.image_index, detections.boxes, truth.image_index[gt], truth.boxes[gt]
    )
    return _summary(len(gt), detections.scores, matched)


def score_query_centric_detections(
    truth: GroundTruth, protocol: RetrievalProtocol, detections: GalleryBoxes
) -> DetectionScores:
    """Detection figures of a query-centric model, over all (gallery image, query) pairs.

    A pair's ground truth is the query's person. Detections of pairs without that person are not
    counted at all, so this AP does not compare with the one of :func:`score_detections`.

    Args:
        truth (GroundTruth): the data set.
        protocol (RetrievalProtocol): its galleries say which pairs exist.
        detections (GalleryBoxes): with ``query_index``.
    """
    asked = np.full(len(truth.boxes), -1)
    asked[protocol.queries] = np.arange(len(protocol.queries))
    query, box = group_pairs(truth.person_index[protocol.queries], truth.person_index)
    in_gallery = np.zeros(len(query), bool)
    starts = np.searchsorted(query, np.arange(len(protocol.queries) + 1))
    for q, (start, end) in enumerate(zip(starts[:-1], starts[1:])):
        images = truth.image_index[box[start:end]]
        in_gallery[start:end] = np.isin(images, protocol.gallery(q))
    query, box = query[in_gallery], box[in_gallery]
    pairs = query * truth.num_images + truth.image_index[box]

    detections = detections.take(asked[detections.query_index] >= 0)
    detected = asked[detections.query_index] * truth.num_images + detections.image_index
    with_person = np.isin(detected, pairs)
    detected, detections = detected[with_person], detections.take(with_person)
    matched = mutual_best_matches(detected, detections.boxes, pairs, truth.boxes[box])
    return _summary(len(box), detections.scores, matched)


def _summary(num_gt: int, scores: np.ndarray, matched: np.ndarray) -> DetectionScores:
    num_matched = int(matched.sum())
    recall = num_matched / num_gt if num_gt else 0.0
    ap = average_precision(scores, np.flatnonzero(matched)) * recall
    return DetectionScores(num_gt, len(scores), num_matched, ap)
