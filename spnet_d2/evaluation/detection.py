"""Detection recall and AP@0.5 as person-search papers report them.

Not COCO AP: a score floor of 0.5, mutual-best matching instead of greedy matching, and average
precision over the detections' own positives times recall (the official CUHK-SYSU evaluation).
COCO's metrics: :mod:`.coco_metrics`.
"""

from dataclasses import dataclass

import numpy as np

from spnet_d2.data.paired_boxes import group_pairs, paired_ious
from spnet_d2.evaluation.gallery import GalleryBoxes
from spnet_d2.evaluation.ground_truth import GroundTruth
from spnet_d2.evaluation.protocols import RetrievalProtocol
from spnet_d2.evaluation.ranking import average_precision
from spnet_d2.evaluation.variants import ORIGINAL, ProtocolVariant

IOU_THRESHOLD = 0.5


@dataclass(frozen=True)
class DetectionScores:
    """Detection metrics; fractions in [0, 1].

    Attributes:
        num_gt: ground-truth boxes.
        num_detections: detections that count.
        num_matched: detections matched with a ground-truth box.
        ap: step-wise average precision over all detections, times recall ("AP@0.5").
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
        detection_groups: (N,) group (image) of each detection.
        detections: (N, 4) xyxy.
        gt_groups: (G,) group of each ground-truth box.
        gt_boxes: (G, 4) xyxy.

    Returns:
        (N,) bool.
    """
    d, g, iou = _near_pairs(detection_groups, detections, gt_groups, gt_boxes)
    best_of_both = _first_best(d, iou) & _first_best(g, iou)
    matched = np.zeros(len(detections), bool)
    matched[d[best_of_both]] = True
    return matched


def greedy_matches(
    detection_groups: np.ndarray,
    detections: np.ndarray,
    scores: np.ndarray,
    gt_groups: np.ndarray,
    gt_boxes: np.ndarray,
) -> np.ndarray:
    """Which detections are matched if they choose one after the other, by falling score.

    Each takes the ground-truth box of its group that it overlaps most among those still free, if
    IoU >= 0.5. Of equal scores the first detection chooses first, of equal IoUs the first box.

    Args:
        detection_groups, detections, gt_groups, gt_boxes: as in :func:`mutual_best_matches`.
        scores: (N,) finite.

    Returns:
        (N,) bool.
    """
    d, g, iou = _near_pairs(detection_groups, detections, gt_groups, gt_boxes)
    # The turn of each detection among those of its group that overlap anything.
    choosers = np.unique(d)
    choosers = choosers[np.lexsort((-scores[choosers], detection_groups[choosers]))]
    groups = detection_groups[choosers]
    turn = np.zeros(len(detections), np.int64)
    turn[choosers] = np.arange(len(choosers)) - np.searchsorted(groups, groups)

    matched, taken = np.zeros(len(detections), bool), np.zeros(len(gt_boxes), bool)
    order = np.argsort(turn[d], kind="stable")
    bounds = np.searchsorted(turn[d][order], np.arange(turn.max(initial=0) + 2))
    # All groups at once, one turn after the other: as many rounds as people in a crowd.
    for start, end in zip(bounds[:-1], bounds[1:]):
        pairs = order[start:end]
        pairs = pairs[~taken[g[pairs]]]
        chosen = pairs[_first_best(d[pairs], iou[pairs])]
        matched[d[chosen]] = True
        taken[g[chosen]] = True
    return matched


def _near_pairs(
    detection_groups: np.ndarray,
    detections: np.ndarray,
    gt_groups: np.ndarray,
    gt_boxes: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of a group with IoU >= 0.5: detections, ground-truth boxes, IoUs."""
    d, g = group_pairs(detection_groups, gt_groups)
    iou = paired_ious(detections[d], gt_boxes[g])
    near = iou >= IOU_THRESHOLD
    return d[near], g[near], iou[near]


def _first_best(groups: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(P,) bool: entries with their group's highest value, of equals the first."""
    order = np.lexsort((-values, groups))
    best = np.zeros(len(values), bool)
    best[order[np.unique(groups[order], return_index=True)[1]]] = True
    return best


def score_detections(
    truth: GroundTruth,
    images: np.ndarray,
    detections: GalleryBoxes,
    variant: ProtocolVariant = ORIGINAL,
) -> DetectionScores:
    """Detection metrics over some images, of known and unknown people.

    Args:
        truth: the data set.
        images: (J,) numbers of the images that count.
        detections: detections of :func:`.gallery.detected_boxes`.
        variant: how detections are matched.
    """
    counts = np.zeros(truth.num_images, bool)
    counts[images] = True
    gt = np.flatnonzero(counts[truth.image_index])
    detections = detections.take(counts[detections.image_index])
    matched = _matches(
        variant, detections.image_index, detections, truth.image_index[gt], truth.boxes[gt]
    )
    return _summary(len(gt), detections.scores, matched)


def score_query_centric_detections(
    truth: GroundTruth,
    protocol: RetrievalProtocol,
    detections: GalleryBoxes,
    variant: ProtocolVariant = ORIGINAL,
) -> DetectionScores:
    """Detection metrics of a query-centric model, over all (gallery image, query) pairs.

    A pair's ground truth is the query's person. By the original rules detections of pairs without
    that person are not counted at all. Under either rule this AP is not comparable with
    :func:`score_detections`'s.

    Args:
        truth: the data set.
        protocol: its galleries say which pairs exist.
        detections: with ``query_index``.
        variant: which pairs count, and how detections are matched.
    """
    num_queries = len(protocol.queries)
    query_of = np.full(len(truth.boxes), -1)
    query_of[protocol.queries] = np.arange(num_queries)
    detections = detections.take(query_of[detections.query_index] >= 0)
    found_for = query_of[detections.query_index]
    by_query = np.argsort(found_for, kind="stable")
    query_starts = np.searchsorted(found_for[by_query], np.arange(num_queries + 1))

    query, box = group_pairs(truth.person_index[protocol.queries], truth.person_index)
    starts = np.searchsorted(query, np.arange(num_queries + 1))
    person_in_gallery = np.zeros(len(query), bool)
    counts = np.zeros(len(detections), bool)
    listed = np.zeros(truth.num_images, bool)
    for q in range(num_queries):
        gallery = protocol.gallery(q)
        listed[gallery] = True
        of_person = slice(starts[q], starts[q + 1])
        person_in_gallery[of_person] = listed[truth.image_index[box[of_person]]]
        found = by_query[query_starts[q] : query_starts[q + 1]]
        counts[found] = listed[detections.image_index[found]]
        listed[gallery] = False
    query, box = query[person_in_gallery], box[person_in_gallery]
    pairs = query * truth.num_images + truth.image_index[box]
    detected = found_for * truth.num_images + detections.image_index
    if variant.absent_ignored:
        counts &= np.isin(detected, pairs)
    detected, detections = detected[counts], detections.take(counts)
    matched = _matches(variant, detected, detections, pairs, truth.boxes[box])
    return _summary(len(box), detections.scores, matched)


def _matches(variant, groups, detections: GalleryBoxes, gt_groups, gt_boxes) -> np.ndarray:
    if variant.mutual_best_only:
        return mutual_best_matches(groups, detections.boxes, gt_groups, gt_boxes)
    return greedy_matches(groups, detections.boxes, detections.scores, gt_groups, gt_boxes)


def _summary(num_gt: int, scores: np.ndarray, matched: np.ndarray) -> DetectionScores:
    num_matched = int(matched.sum())
    recall = num_matched / num_gt if num_gt else 0.0
    ap = average_precision(scores, np.flatnonzero(matched)) * recall
    return DetectionScores(num_gt, len(scores), num_matched, ap)
