"""Cosine similarities of queries with the boxes of their galleries, in bounded memory.

A similarity source is a function ``source(pool_of) -> iterator of (pool, similarities)``, one item
per query in the protocol's order, where ``pool_of(query)`` gives the numbers of the gallery boxes
to rank. Retrieval knows nothing else about embeddings, so any other similarity fits in as well.

Letters: Q queries, N gallery boxes, D embedding size.
"""

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from spnet_d2.evaluation.gallery import GalleryBoxes

PoolOf = Callable[[int], np.ndarray]
SimilaritySource = Callable[[PoolOf], Iterator[tuple[np.ndarray, np.ndarray]]]

# Similarities held at once (512 MiB in float32), and embeddings converted at once.
BLOCK_VALUES = 2**27
CHUNK_ROWS = 512
# Columns of small products: OpenBLAS takes half the time for a multiple of its kernels' width.
PRODUCT_WIDTH = 8
# Share of the boxes in an average gallery from which one large product beats many small ones.
DENSE_SHARE = 0.03


def unit_rows(embeddings: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows of ``embeddings`` as float32 unit vectors (n, D).

    A row that is zero or not finite becomes the zero vector: similarity 0 with everything.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        vectors = embeddings[rows].astype(np.float32, copy=False)
        squares = np.einsum("nd,nd->n", vectors, vectors)
        vectors /= np.sqrt(squares)[:, None]
    # The squares of very long and very short vectors leave float32's range.
    extreme = np.flatnonzero(~((squares > 1e-20) & (squares < 1e30)))
    if len(extreme):
        vectors[extreme] = _scaled_unit_rows(embeddings[rows[extreme]])
    return vectors


def _scaled_unit_rows(raw: np.ndarray) -> np.ndarray:
    """As :func:`unit_rows`, for vectors of any length; 0 for those without a direction."""
    wide = raw.astype(np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True, initial=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        wide /= largest
        wide /= np.sqrt(np.einsum("nd,nd->n", wide, wide))[:, None]
    wide[~(np.isfinite(largest[:, 0]) & (largest[:, 0] > 0))] = 0
    return wide.astype(np.float32)


@dataclass(frozen=True)
class RowKeys:
    """What is known of an array of embeddings before any is compared.

    Attributes:
        keys: (rows,) int64; the first row with the same content.
        unusable: rows that are not finite.
    """

    keys: np.ndarray
    unusable: int

    @classmethod
    def of(cls, embeddings: np.ndarray) -> "RowKeys":
        """Look at ``embeddings`` (rows, D), chunk by chunk."""
        hashes, unusable = np.zeros(len(embeddings), np.int64), 0
        for start in range(0, len(embeddings), CHUNK_ROWS):
            chunk = np.asarray(embeddings[start : start + CHUNK_ROWS])
            unusable += len(chunk) - int(np.isfinite(chunk).all(axis=1).sum())
            hashes[start : start + len(chunk)] = [hash(row.tobytes()) for row in chunk]
            release_pages(embeddings)
        return cls(_first_equal_rows(embeddings, hashes), unusable)


def _first_equal_rows(embeddings: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """(rows,) first row with the same hash; the row itself if their contents differ."""
    _, first, number = np.unique(hashes, return_index=True, return_inverse=True)
    firsts = first[number]
    copies = np.flatnonzero(firsts != np.arange(len(firsts)))
    for start in range(0, len(copies), CHUNK_ROWS):
        chunk = copies[start : start + CHUNK_ROWS]
        differ = (embeddings[chunk] != embeddings[firsts[chunk]]).any(axis=1)
        firsts[chunk[differ]] = chunk[differ]
        release_pages(embeddings)
    return firsts


def release_pages(array: np.ndarray) -> None:
    """Give back the memory that a memory-mapped array has filled; others stay as they are.

    The system keeps the file's pages as long as it has room for them, but a process that walks
    through a file larger than its allowance no longer holds all of it.
    """
    # Not on every system.
    if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)


def cosine_source(
    query_vectors: np.ndarray,
    embeddings: np.ndarray,
    keys: np.ndarray,
    boxes: GalleryBoxes,
    gallery_share: float,
) -> SimilaritySource:
    """Similarities for boxes that serve all queries.

    Args:
        query_vectors: (Q, D) float32 unit vectors.
        embeddings: (rows, D), of any length; ``boxes.rows`` points into it.
        keys: (rows,) of :class:`RowKeys`.
        boxes: N boxes.
        gallery_share: share of the images in an average gallery.
    """
    block = max(1, BLOCK_VALUES // max(1, len(boxes)))
    similarities = _dense_block if gallery_share >= DENSE_SHARE else _sparse_block
    _, first, key_of_box = np.unique(keys[boxes.rows], return_index=True, return_inverse=True)
    originals = first[key_of_box]

    def source(pool_of: PoolOf):
        for start in range(0, len(query_vectors), block):
            queries = np.arange(start, min(start + block, len(query_vectors)))
            yield from similarities(query_vectors, queries, embeddings, originals, boxes, pool_of)

    return source


def rowwise_cosine_source(
    query_vectors: np.ndarray, query_of_box: np.ndarray, embeddings: np.ndarray, boxes: GalleryBoxes
) -> SimilaritySource:
    """Similarities for boxes that serve one query each (query-centric models).

    Args:
        query_vectors: (Q, D) float32 unit vectors.
        query_of_box: (N,) query of each box; -1: none of the protocol's.
        embeddings, boxes: as in :func:`cosine_source`.
    """
    values = np.zeros(len(boxes), np.float32)
    queried = np.flatnonzero(query_of_box >= 0)
    values[queried] = _pair_cosines(
        query_vectors, query_of_box[queried], embeddings, boxes.rows[queried]
    )

    def source(pool_of: PoolOf):
        for query in range(len(query_vectors)):
            pool = pool_of(query)
            yield pool, values[pool]

    return source


def _pair_cosines(query_vectors, queries, embeddings, rows) -> np.ndarray:
    """(P,) cosines of one query with one row each; equal rows have equal ones."""
    values = np.zeros(len(rows), np.float32)
    for start in range(0, len(rows), CHUNK_ROWS):
        chunk = slice(start, start + CHUNK_ROWS)
        vectors = unit_rows(embeddings, rows[chunk])
        values[chunk] = np.sum(vectors * query_vectors[queries[chunk]], axis=1)
        release_pages(embeddings)
    return values


# Libraries compute a product's last bits differently at its edges. Boxes with the same embedding
# would differ by that, and a tie, which average precision counts as one step, would be broken. So
# they share one similarity; ``originals`` (N,) says with which box.


def _dense_block(query_vectors, queries, embeddings, originals, boxes, pool_of):
    """All queries with all boxes in one matrix."""
    matrix = np.empty((len(queries), len(boxes)), np.float32)
    vectors = query_vectors[queries]
    for start in range(0, len(boxes), CHUNK_ROWS):
        chunk = unit_rows(embeddings, boxes.rows[start : start + CHUNK_ROWS])
        matrix[:, start : start + CHUNK_ROWS] = vectors @ chunk.T
        release_pages(embeddings)
    copies = np.flatnonzero(originals != np.arange(len(boxes)))
    for row, query in zip(matrix, queries):
        row[copies] = row[originals[copies]]
        pool = pool_of(query)
        yield pool, row[pool]


def _sparse_block(query_vectors, queries, embeddings, originals, boxes, pool_of):
    """Image by image: the queries that search it with its boxes.

    A pool holds all boxes of an image, consecutive and in order, or none of them.
    """
    pools = [pool_of(query) for query in queries]
    flat = np.concatenate(pools)
    owner = np.repeat(queries, [len(pool) for pool in pools])

    images, starts, sizes = np.unique(boxes.image_index, return_index=True, return_counts=True)
    image_of_start = np.full(len(boxes), -1)
    image_of_start[starts] = np.arange(len(images))
    # Where in ``flat`` a (query, image) pair starts, ordered by image.
    image = image_of_start[flat]
    pair = np.flatnonzero(image >= 0)
    pair = pair[np.argsort(image[pair], kind="stable")]
    bounds = np.searchsorted(image[pair], np.arange(len(images) + 1))
    askers = owner[pair]

    # Products lie one after the other, and find their places in ``flat`` all at once. Each has a
    # multiple of PRODUCT_WIDTH columns; those too many show the boxes that follow.
    widths = -(-sizes // PRODUCT_WIDTH) * PRODUCT_WIDTH
    counts = np.diff(bounds)
    products = np.empty(np.sum(counts * widths), np.float32)
    asking = np.empty((counts.max(initial=0), query_vectors.shape[1]), np.float32)
    rows = np.pad(boxes.rows, (0, PRODUCT_WIDTH - 1))
    done = 0
    # On one thread: for each of these products BLAS would wait for its threads to meet, which takes
    # longer than the product, and many times longer where other programs have the cores.
    with threadpool_limits(limits=1, user_api="blas"):
        for first, last in _image_chunks(sizes):
            base = starts[first]
            end = starts[last - 1] + sizes[last - 1] + PRODUCT_WIDTH - 1
            chunk = unit_rows(embeddings, rows[base:end])
            for i in range(first, last):
                # Into one array, for memory that is new to the process costs as much as copying.
                here = query_vectors.take(
                    askers[bounds[i] : bounds[i + 1]], 0, asking[: counts[i]], "clip"
                )
                vectors = chunk[starts[i] - base : starts[i] - base + widths[i]]
                product = products[done : done + counts[i] * widths[i]]
                np.matmul(here, vectors.T, out=product.reshape(counts[i], widths[i]))
                done += len(product)
            release_pages(embeddings)
    values = np.empty(len(flat), np.float32)
    of_pair = np.repeat(np.arange(len(images)), counts)
    begins = np.cumsum(widths[of_pair]) - widths[of_pair]
    values[_spans(pair, sizes[of_pair])] = products[_spans(begins, sizes[of_pair])]
    repeated = np.bincount(originals, minlength=len(boxes))[originals] > 1
    again = np.flatnonzero(repeated[flat])
    values[again] = _pair_cosines(query_vectors, owner[again], embeddings, boxes.rows[flat[again]])

    ends = np.cumsum([len(pool) for pool in pools])
    yield from zip(pools, np.split(values, ends[:-1]))


def _spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """All numbers of the ranges that begin at ``starts``, range by range."""
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - before, lengths)


def _image_chunks(sizes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of consecutive images with about ``CHUNK_ROWS`` boxes together."""
    chunk = (np.cumsum(sizes) - 1) // CHUNK_ROWS
    bounds = np.unique(chunk, return_index=True)[1].tolist()
    yield from zip(bounds, [*bounds[1:], len(sizes)])
