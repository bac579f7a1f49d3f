"""Average precision and first-hit rank of one ranking, ties included.

The step-wise average precision of scikit-learn >= 0.19: every positive counts the precision at
its score, where all entries of that very score are counted together. So it is a sum over the
positives only, and nothing below the lowest positive needs sorting.
"""

import numpy as np


def average_precision(scores: np.ndarray, positives: np.ndarray) -> float:
    """Step-wise average precision with equal scores counted as one step.

    Args:
        scores: (N,) finite scores of all entries.
        positives: (P,) indices of the entries labelled 1.

    Returns:
        In [0, 1]; 0 without positives.
    """
    if len(positives) == 0:
        return 0.0
    return float(np.mean(precision_at_positives(scores, positives)))


def precision_at_positives(scores: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Precision (P,) at every positive, by rising score; arguments of :func:`average_precision`,
    with one positive at least."""
    hits = np.sort(scores[positives])
    reached = np.sort(scores[scores >= hits[0]])
    entries_at_least = len(reached) - np.searchsorted(reached, hits, side="left")
    hits_at_least = len(hits) - np.searchsorted(hits, hits, side="left")
    return hits_at_least / entries_at_least


def first_hit_rank(scores: np.ndarray, positives: np.ndarray) -> int:
    """How many entries stand before the first hit, by falling score; of equals the first leads.

    Args:
        scores: (N,) finite scores.
        positives: (P,) indices of the entries labelled 1.

    Returns:
        0 if the top entry is a hit; -1 without positives.
    """
    if len(positives) == 0:
        return -1
    hits = scores[positives]
    best = hits.max()
    first = positives[hits == best].min()
    return int(np.count_nonzero(scores > best) + np.count_nonzero(scores[:first] == best))


def top_indices(values: np.ndarray, count: int) -> np.ndarray:
    """Indices of the ``count`` highest values, or of all: falling; of equals the first leads.

    Args:
        values: (N,) finite.
        count: 1 or more.
    """
    if count < len(values):
        least = np.partition(values, len(values) - count)[len(values) - count]
        above, equal = np.flatnonzero(values > least), np.flatnonzero(values == least)
        chosen = np.concatenate([above, equal[: count - len(above)]])
    else:
        chosen = np.arange(len(values))
    return chosen[np.lexsort((chosen, -values[chosen]))]
