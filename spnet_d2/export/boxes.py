"""Boxes of an exported model between its graphs, in NumPy: least scores and NMS.

Equal to what :class:`~spnet_d2.modeling.SPNet` does with tensors.
"""

import numpy as np


def nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """
    Non-maximum suppression, in the precision of ``boxes``.

    Args:
        boxes: (n, 4) xyxy, float.
        scores: (n,).
        threshold: IoU above which the less sure of two boxes goes.

    Returns:
        Indices of the boxes kept, best score first.
    """
    order = np.argsort(-scores, kind="stable")
    overlaps = _overlap(boxes[order], threshold)
    gone = np.zeros(len(order), bool)
    kept = []
    for i in range(len(order)):
        if not gone[i]:
            kept.append(i)
            gone |= overlaps[i]
    return order[kept]


def nms_per_query(
    boxes: np.ndarray, scores: np.ndarray, query: np.ndarray, threshold: float
) -> np.ndarray:
    """
    Suppress overlapping boxes of the same query, in float64.

    Args:
        boxes: (n, 4), scores: (n,).
        query: (n,) which query each was found for, ascending.
        threshold: IoU.

    Returns:
        Indices of the boxes kept: query by query, best score first.
    """
    wide, scores = boxes.astype(np.float64), scores.astype(np.float64)
    rows = [np.flatnonzero(query == q) for q in np.unique(query)]
    kept = [own[nms(wide[own], scores[own], threshold)] for own in rows]
    return np.concatenate([np.zeros(0, np.int64), *kept])


def _overlap(boxes: np.ndarray, threshold: float) -> np.ndarray:
    """(n, n) whether IoU exceeds the threshold."""
    sides = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - np.maximum(
        boxes[:, None, :2], boxes[None, :, :2]
    )
    shared = np.prod(np.maximum(sides, 0), axis=2)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        # Two empty boxes give NaN, which exceeds nothing.
        ious = shared / (areas[:, None] + areas[None] - shared)
    # In float64, as torchvision compares.
    return ious.astype(np.float64) > threshold


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Scores of logits, without overflow."""
    z = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + z), z / (1 + z)).astype(logits.dtype)
