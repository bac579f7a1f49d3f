"""Box geometry over pairs that share a group (an image, or a person in an image).

All boxes are xyxy, pixels. A corpus holds thousands of small groups, so pairs of all groups are
laid out in one flat list instead of one small matrix per image.
"""

import numpy as np


def group_pairs(groups_a: np.ndarray, groups_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair every element of A with every element of B that is in the same group.

    Args:
        groups_a: (A,) group number of each element of A.
        groups_b: (B,) group number of each element of B.

    Returns:
        Indices into A and into B, (P,) each, ordered by A, then by B.
    """
    order = np.argsort(groups_b, kind="stable")
    sorted_b = groups_b[order]
    first = np.searchsorted(sorted_b, groups_a, side="left")
    count = np.searchsorted(sorted_b, groups_a, side="right") - first
    index_a = np.repeat(np.arange(len(groups_a)), count)
    nth_of_group = np.arange(len(index_a)) - np.repeat(np.cumsum(count) - count, count)
    return index_a, order[np.repeat(first, count) + nth_of_group]


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Areas (N,) of boxes (N, 4); 0 for boxes turned inside out."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)


def paired_intersections(boxes_a: np.ndarray, boxes_b: np.ndarray) -> np.ndarray:
    """Intersection areas (P,) of box i of A with box i of B, both (P, 4)."""
    low = np.maximum(boxes_a[:, :2], boxes_b[:, :2])
    high = np.minimum(boxes_a[:, 2:], boxes_b[:, 2:])
    with np.errstate(invalid="ignore", over="ignore"):
        return np.prod(np.maximum(high - low, 0), axis=1)


def paired_ious(boxes_a: np.ndarray, boxes_b: np.ndarray) -> np.ndarray:
    """IoU (P,) of box i of A with box i of B, both (P, 4); 0 where a box is empty or not finite."""
    with np.errstate(invalid="ignore", divide="ignore"):
        intersection = paired_intersections(boxes_a, boxes_b)
        union = box_areas(boxes_a) + box_areas(boxes_b) - intersection
        ious = intersection / union
    return np.where(np.isfinite(ious), ious, 0.0)
