"""
The most similar rows by looking at every one of them, a block at a time.

Similarities of a block come from a matrix product in float32, whose last digits depend on the
block. So whatever could be among the best is computed again, by a sum of its own in float64: equal
rows get equal similarities, and the order does not depend on how rows lie in blocks.
"""

from collections.abc import Iterable

import cv2
import numpy as np

from .store import Hits

# Bytes of a block as float32: fits a core's second-level cache beside the float16 rows.
_BLOCK = 2**19
_REDONE = 2**22


def block_rows(dimension: int) -> int:
    """Rows per block."""
    return max(1, _BLOCK // (4 * dimension))


def scan(
    blocks: Iterable[tuple[np.ndarray, np.ndarray]], queries: np.ndarray, topk: int
) -> list[Hits]:
    """
    Args:
        blocks: ids (B,) and embeddings (B, D) float16, any B.
        queries: (Q, D) float32 unit vectors.
        topk: rows per query.
    """
    best = [_Best(query, topk) for query in queries]
    rows = block_rows(queries.shape[1])
    wide = np.empty((rows, queries.shape[1]), np.float32)
    for ids, embeddings in blocks:
        for start in range(0, len(ids), rows):
            half = embeddings[start : start + rows]
            similarities = widened(half, wide[: len(half)]) @ queries.T
            for number, one in enumerate(best):
                one.offer(ids[start : start + rows], half, similarities[:, number])
    return [Hits(one.ids, one.similarities) for one in best]


class _Best:
    """The ``topk`` best rows so far of one query."""

    def __init__(self, query: np.ndarray, topk: int):
        self._query = query
        self._topk = topk
        # Two unit vectors' product in float32 is off by D roundings at most.
        self._error = len(query) * 2.0**-23
        self.ids = np.zeros(0, np.int64)
        self.similarities = np.zeros(0, np.float32)

    def offer(self, ids: np.ndarray, half: np.ndarray, rough: np.ndarray) -> None:
        """Keep what is better than what was kept; ``rough`` similarities are nearly right."""
        rows = np.flatnonzero(rough >= self._bound(rough))
        if not len(rows):
            return
        exact = exact_similarities(half[rows], self._query)
        ids = np.concatenate([self.ids, ids[rows]])
        similarities = np.concatenate([self.similarities, exact])
        order = np.lexsort([ids, -similarities])[: self._topk]
        self.ids, self.similarities = ids[order], similarities[order]

    def _bound(self, rough: np.ndarray) -> float:
        if len(self.ids) == self._topk:
            return self.similarities[-1] - self._error
        if len(rough) > self._topk:
            return np.partition(rough, -self._topk)[-self._topk] - 2 * self._error
        return -np.inf


def exact_similarities(half: np.ndarray, query: np.ndarray) -> np.ndarray:
    """(B,) float32 cosine of float16 rows (B, D), each by itself, summed in float64."""
    result = np.empty(len(half), np.float32)
    step = max(1, _REDONE // (8 * len(query)))
    for start in range(0, len(half), step):
        rows = half[start : start + step].astype(np.float64)
        result[start : start + step] = (rows * query).sum(axis=1)
    return result


def widened(half: np.ndarray, out: np.ndarray) -> np.ndarray:
    """
    (B, D) float16 as float32, in ``out``.

    OpenCV uses the processor's instruction for it: four times as fast as numpy. OpenCV 5 has it no
    more.
    """
    if hasattr(cv2, "convertFp16"):
        return cv2.convertFp16(np.ascontiguousarray(half).view(np.int16), out)
    np.copyto(out, half)
    return out


def best_first(ids: np.ndarray, half: np.ndarray, query: np.ndarray, topk: int) -> Hits:
    """The best of some candidates, however another engine ranked them."""
    similarities = exact_similarities(half, query)
    order = np.lexsort([ids, -similarities])[:topk]
    return Hits(ids[order], similarities[order])
