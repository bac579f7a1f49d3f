"""Curves of rankings, as pure functions of arrays.

Letters: Q queries, N ranked boxes of a query, P hits among them.
"""

import numpy as np

from spnet_d2.evaluation.ranking import (
    average_precision,
    first_hit_rank,
    precision_at_positives,
)


def precision_at_recalls(
    similarities: np.ndarray, hits: np.ndarray, present: int, recalls: np.ndarray
) -> np.ndarray:
    """Precision with which one query reaches each recall.

    It is the precision at the first hit whose recall is high enough, equal similarities counted
    as one step, and 0 beyond the last hit. So the area under the curve is the query's score:
    average precision times the share of gallery entries that were hit.

    Args:
        similarities: (N,) finite.
        hits: (P,) indices of the hits.
        present: gallery entries that show the person, P or more.
        recalls: (L,) in (0, 1].

    Returns:
        (L,) in [0, 1].
    """
    if len(hits) == 0:
        return np.zeros(len(recalls))
    falling = precision_at_positives(similarities, hits)[::-1]
    # Recall 2/3 of 3 entries is the second one, whatever its binary digits.
    needed = np.maximum(np.ceil(np.round(recalls * present, 9)).astype(np.int64), 1)
    return np.where(needed <= len(hits), falling[np.minimum(needed, len(hits)) - 1], 0.0)


def cumulative_matches(first_hit_ranks: np.ndarray, length: int) -> np.ndarray:
    """CMC: share of queries with a hit among the first 1, 2, ... ``length`` boxes.

    Args:
        first_hit_ranks: (Q,) boxes before the first hit; -1: nothing was hit.
        length: 1 or more.

    Returns:
        (length,) in [0, 1], rising; 0 without queries.
    """
    found = first_hit_ranks[(first_hit_ranks >= 0) & (first_hit_ranks < length)]
    return np.cumsum(np.bincount(found, minlength=length)) / max(1, len(first_hit_ranks))


def gallery_sizes(largest: int) -> np.ndarray:
    """1, 2, 5, 10, 20, 50, ... below ``largest``, and ``largest``; empty if that is 0."""
    steps = [f * 10**e for e in range(len(str(largest))) for f in (1, 2, 5)]
    return np.array([s for s in steps if s < largest] + [largest] * (largest > 0), np.int64)


def scores_by_gallery_size(
    similarities: np.ndarray,
    hits: np.ndarray,
    present: int,
    turns: np.ndarray,
    sizes: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Score and top-1 of one query in smaller galleries.

    The images that show the person stay in every gallery; the others join one after the other.

    Args:
        similarities: (N,) finite.
        hits: (P,) indices of the hits.
        present: gallery entries that show the person, P or more.
        turns: (N,) when each box's image joins: 1 is the first image without the
            person, 0 an image that shows it.
        sizes: (S,) images without the person in each gallery.

    Returns:
        (S,) average precision times recall, and (S,) 1 where a hit leads.
    """
    scores, leads = np.zeros(len(sizes)), np.zeros(len(sizes))
    if len(hits) == 0:
        return scores, leads
    # Nothing below the last hit counts.
    is_hit = np.zeros(len(similarities), bool)
    is_hit[hits] = True
    reached = similarities >= similarities[hits].min()
    similarities, is_hit, turns = similarities[reached], is_hit[reached], turns[reached]
    for i, size in enumerate(sizes):
        there = turns <= size
        values, positives = similarities[there], np.flatnonzero(is_hit[there])
        scores[i] = average_precision(values, positives) * len(hits) / present
        leads[i] = first_hit_rank(values, positives) == 0
    return scores, leads


def representative_queries(
    scores: np.ndarray, among: np.ndarray, count: int
) -> dict[str, np.ndarray]:
    """Which queries to show: the best, those around the median and the worst, none of them twice.

    Args:
        scores: (Q,) average precisions.
        among: (Q,) bool, queries to choose from.
        count: how many of each at most; less if that is more than a third of them.

    Returns:
        Numbers of queries under "best" (falling), "median" (falling) and
        "worst" (rising scores); of equals the first leads. Groups may be empty.
    """
    candidates = np.flatnonzero(among)
    order = candidates[np.argsort(-scores[candidates], kind="stable")]
    count = min(count, -(-len(order) // 3))
    best, rest = order[:count], order[count:]
    # Of few queries the best and the worst say more than the one between.
    rest, worst = rest[: max(0, len(rest) - count)], rest[max(0, len(rest) - count) :]
    start = max(0, (len(rest) - count) // 2)
    worst = worst[np.argsort(scores[worst], kind="stable")]
    return {"best": best, "median": rest[start : start + count], "worst": worst}
