"""Settings that the footage decides: the size of images, and the least score of a detection."""

from dataclasses import dataclass

import numpy as np

from spnet_d2.data.formats.splits import Partition

# What the starter weights know best, pixels of a person's height.
PERSON_HEIGHT = 130
_SCALES = (0.5, 2.0)
# Of a tested image: what costs no more than 1536 x 864.
_MOST_PIXELS = 1536 * 864


def input_settings(partition: Partition) -> list[str]:
    """
    KEY VALUE settings with which people have about the height that the starter weights know.

    Args:
        partition: images with boxes.
    """
    heights = [a["bbox"][3] for a in partition["annotations"]]
    sides = np.array([sorted((i["width"], i["height"])) for i in partition["images"]])
    short, long = np.median(sides, axis=0)
    scale = np.clip(PERSON_HEIGHT / max(1.0, float(np.median(heights))), *_SCALES)
    scale = min(float(scale), (_MOST_PIXELS / (short * long)) ** 0.5)
    low, high = round(0.8 * scale, 3), round(1.33 * scale, 3)
    return [
        *("INPUT.MIN_SIZE_TEST", str(round(scale * short))),
        *("INPUT.MAX_SIZE_TEST", str(round(scale * long))),
        *("INPUT.SCALE_RANGE", f"({low}, {high})"),
    ]


@dataclass(frozen=True)
class Floor:
    """A least score, and precision and recall of the detections from it on."""

    score: float
    precision: float
    recall: float


def best_floor(scores: np.ndarray, right: np.ndarray, wanted: int) -> Floor:
    """
    The least score with the best F1.

    Args:
        scores: (N,) of detections.
        right: (N,) bool, whether each is somebody.
        wanted: how many people there are.

    Returns:
        It lies between two detections, so that it does not depend on the last digit of one; 0.5
        where nobody was found.
    """
    if not len(scores) or not right.any():
        return Floor(0.5, 0.0, 0.0)
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order].astype(np.float64), np.cumsum(right[order])
    precision, recall = hits / np.arange(1, len(scores) + 1), hits / max(1, wanted)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    # Equal scores stand or fall together.
    f1[:-1][scores[:-1] == scores[1:]] = -1
    best = int(f1.argmax())
    following = scores[best + 1] if best + 1 < len(scores) else scores[best]
    score = (scores[best] + following) / 2
    return Floor(float(score), float(precision[best]), float(recall[best]))
