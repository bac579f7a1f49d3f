"""Standard COCO detection figures, for comparison with detectors outside person search.

They have no score floor, no factor of recall and COCO's greedy matching, so they are no
replacement for AP@0.5 of :mod:`.detection`, and their names start with ``coco_``.
"""

import logging

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from spnet_d2.evaluation.ground_truth import GroundTruth
from spnet_d2.evaluation.predictions import Predictions

# Place of each figure among the summary numbers of COCO's evaluation.
_STATS = {"coco_AP": 0, "coco_AP50": 1, "coco_AP75": 2, "coco_AR100": 8}


def coco_metrics(
    truth: GroundTruth, images: np.ndarray, predictions: Predictions
) -> dict[str, float]:
    """``coco_AP`` (mean over IoU 0.50:0.95), ``coco_AP50``, ``coco_AP75`` and ``coco_AR100``.

    At most 100 detections per image count, by score, as COCO has it. Ignore regions are crowd
    boxes. Scores that are not finite count as 0, boxes that are not finite overlap nothing.

    Args:
        truth (GroundTruth): the data set.
        images (ndarray): (J,) numbers of the images that count.
        predictions (Predictions): detections that serve all queries, of any score.

    Returns:
        dict[str, float]: fractions; all 0 without ground truth or detections.
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
        return dict.fromkeys(_STATS, 0.0)
    for number, target in enumerate(targets):
        target["id"] = number + 1  # 0 would mean "unmatched"
    silent = logging.getLogger(f"{__name__}.library").debug
    expected = COCO(print_function=silent)
    expected.dataset = {
        "images": [{"id": int(image)} for image in np.flatnonzero(counts)],
        "annotations": targets,
        "categories": [{"id": 1, "name": "person"}],
    }
    expected.createIndex()
    found = expected.loadRes(
        np.column_stack(
            [detection_images[rows], boxes[:, :2], boxes[:, 2:] - boxes[:, :2], scores]
            + [np.ones(len(rows))]
        )
    )
    evaluation = COCOeval_faster(expected, found, "bbox", print_function=silent)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return {name: float(evaluation.stats[place]) for name, place in _STATS.items()}


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
