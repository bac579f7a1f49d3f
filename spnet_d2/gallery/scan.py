"""
The most similar rows by looking at every one of them, a block at a time.

Similarities of a block are rough: of numkong's product, where it is installed (extra ``[index]``),
which multiplies float16 numbers as they are read, else of a matrix product in float32, whose last
digits depend on the block. So whatever could be among the best is computed again, by a sum of its
own in float64: equal rows get equal similarities, and the order depends neither on how rows lie in
blocks nor on who multiplied.
"""

from collections.abc import Iterable
from importlib import import_module
from typing import Any, Protocol

import cv2
import numpy as np

from .store import Hits

try:
    numkong: Any = import_module("numkong")
except ImportError:
    numkong = None

# Bytes of a block as float32: fits a core's second-level cache beside the float16 rows.
_BLOCK = 2**19
# Bytes of a block as float16 that are multiplied at once where nothing is kept in the cache.
_STREAMED = 2**24
# For more queries, one conversion to float32 for all of them is faster.
_MOST_STREAMED = 4
_REDONE = 2**22


class _Product(Protocol):
    """
    Rough similarities of a block.

    Attributes:
        rows: of a block, at most.
        error: how far off a similarity is, at most.
    """

    rows: int
    error: float

    def __call__(self, half: np.ndarray) -> np.ndarray:
        """(B, Q) float32 of rows (B, D) float16."""


class _Streamed:
    """Float16 rows with queries rounded to float16, summed in float32."""

    def __init__(self, queries: np.ndarray):
        dimension = queries.shape[1]
        self.rows = max(1, _STREAMED // (2 * dimension))
        # The queries' rounding: half a unit of the last of 11 bits, or of the least float16.
        rounding = 2.0**-11 + dimension**0.5 * 2.0**-25
        self.error = 1.01 * rounding + dimension * 2.0**-23
        self._queries = numkong.dots_pack(np.ascontiguousarray(queries, np.float16))

    def __call__(self, half: np.ndarray) -> np.ndarray:
        return np.asarray(numkong.dots_packed(np.ascontiguousarray(half), self._queries))


class _Widened:
    """Rows as float32, in the processor's cache."""

    def __init__(self, queries: np.ndarray):
        dimension = queries.shape[1]
        self.rows = max(1, _BLOCK // (4 * dimension))
        # Two unit vectors' product in float32 is off by D roundings at most.
        self.error = dimension * 2.0**-23
        self._queries = np.ascontiguousarray(queries.T)
        self._wide = np.empty((self.rows, dimension), np.float32)

    def __call__(self, half: np.ndarray) -> np.ndarray:
        return widened(half, self._wide[: len(half)]) @ self._queries


def _product(queries: np.ndarray) -> _Product:
    streamed = numkong is not None and len(queries) <= _MOST_STREAMED
    return _Streamed(queries) if streamed else _Widened(queries)


def scan(
    blocks: Iterable[tuple[np.ndarray, np.ndarray]], queries: np.ndarray, topk: int
) -> list[Hits]:
    """
    Args:
        blocks: ids (B,) and embeddings (B, D) float16, any B.
        queries: (Q, D) float32 unit vectors.
        topk: rows per query.
    """
    product = _product(queries)
    best = [_Best(query, topk, product.error) for query in queries]
    for ids, embeddings in blocks:
        for start in range(0, len(ids), product.rows):
            half = embeddings[start : start + product.rows]
            similarities = product(half)
            for number, one in enumerate(best):
                one.offer(ids[start : start + product.rows], half, similarities[:, number])
    return [Hits(one.ids, one.similarities) for one in best]


class _Best:
    """The ``topk`` best rows so far of one query; ``error``: how far off rough similarities are."""

    def __init__(self, query: np.ndarray, topk: int, error: float):
        self._query = query
        self._topk = topk
        self._error = error
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
