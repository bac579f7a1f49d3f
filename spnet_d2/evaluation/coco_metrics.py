"""Standard COCO detection metrics, for comparison with detectors outside person search.

They have no score floor, no factor of recall and COCO's greedy matching, so they are no
replacement for AP@0.5 of :mod:`.detection`, and their names start with ``coco_``.
"""

import logging

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from spnet_d2.evaluation.ground_truth import GroundTruth
from spnet_d2.evaluation.predictions import Predictions
from spnet_d2.utils.garbage_collection import garbage_collection_paused

_NAMES = ("coco_AP", "coco_AP50", "coco_AP75", "coco_AR100")
_EVERY_SIZE = [0, 1e10]
_MAX_DETECTIONS = 100


@garbage_collection_paused()
def coco_metrics(
    truth: GroundTruth, images: np.ndarray, predictions: Predictions
) -> dict[str, float]:
    """``coco_AP`` (mean over IoU 0.50:0.95), ``coco_AP50``, ``coco_AP75`` and ``coco_AR100``.

    At most 100 detections per image count, by score, as COCO has it. Ignore regions are crowd
    boxes. Scores that are not finite count as 0, boxes that are not finite overlap nothing.

    Args:
        truth: the data set.
        images: (J,) numbers of the images that count.
        predictions: detections that serve all queries, of any score.

    Returns:
        Fractions; all 0 without ground truth or detections.
    """
    counts = np.zeros(truth.num_images, bool)
    counts[images] = True
    detection_images = truth.find_images(predictions.image_ids, "predictions")
    rows = np.flatnonzero(counts[detection_images])
    boxes = np.asarray(predictions.boxes[rows], np.float64)
    boxes[~np.isfinite(boxes).all(axis=1)] = 0
    scores = np.asarray(predictions.scores[rows], np.float64)
    scores = np.where(np.isfinite(scores), scores, 0)

    targets = [
        *_entries(truth.image_index, truth.boxes, counts, iscrowd=0),
        *_entries(truth.ignore_image_index, truth.ignore_boxes, counts, iscrowd=1),
    ]
    if len(rows) == 0 or not any(target["iscrowd"] == 0 for target in targets):
        return dict.fromkeys(_NAMES, 0.0)
    found = _entries(detection_images[rows], boxes, counts, iscrowd=0)
    for entry, score in zip(found, scores.tolist()):
        entry["score"] = score
    numbers = np.flatnonzero(counts).tolist()
    evaluation = COCOeval_faster(
        _coco(numbers, targets), _coco(numbers, found), "bbox", print_function=_silent
    )
    # No metrics by size of people, nor for fewer detections: that takes a quarter of the time.
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [_EVERY_SIZE], ["all"]
    evaluation.params.maxDets = [_MAX_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    # (IoU thresholds, recalls, 1, 1, 1) and (IoU thresholds, 1, 1, 1).
    precision = evaluation.eval["precision"].reshape(len(evaluation.params.iouThrs), -1)
    recall = evaluation.eval["recall"]
    at = {round(100 * t): place for place, t in enumerate(evaluation.params.iouThrs)}
    metrics = (precision, precision[at[50]], precision[at[75]], recall)
    return {name: float(np.mean(values)) for name, values in zip(_NAMES, metrics)}


_silent = logging.getLogger(f"{__name__}.library").debug


def _coco(images: list[int], entries: list[dict]) -> COCO:
    for number, entry in enumerate(entries):
        entry["id"] = number + 1  # 0 would mean "unmatched"
    coco = COCO(print_function=_silent)
    coco.dataset = {
        "images": [{"id": image} for image in images],
        "annotations": entries,
        "categories": [{"id": 1, "name": "person"}],
    }
    coco.createIndex()
    return coco


def _entries(image_index, boxes, counts, iscrowd: int) -> list[dict]:
    kept = counts[image_index]
    return [
        {
            "image_id": image,
            "category_id": 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": iscrowd,
        }
        for image, (x1, y1, x2, y2) in zip(image_index[kept].tolist(), boxes[kept].tolist())
    ]
