"""k-reciprocal re-ranking: boxes that share their neighbours with the query move up.

Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017. It is
done anew for each query among the boxes of its own gallery, so no query learns from another one.
Only the most similar boxes are re-ranked (all, where a gallery has no more than the shortlist);
the others follow in their old order. That bounds memory and time for any size of gallery.

Letters: n = 1 + (boxes of the shortlist); element 0 is the query.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spnet_d2.evaluation.gallery import GalleryBoxes
from spnet_d2.evaluation.ranking import top_indices
from spnet_d2.evaluation.similarity import unit_rows

# SciPy is imported where it is used: it takes longer to start than all other scoring.
if TYPE_CHECKING:
    from scipy.sparse import csr_array

SHORTLIST = 1000


@dataclass(frozen=True)
class KReciprocal:
    """Parameters, the paper's values by default.

    Attributes:
        k1: neighbours that may be reciprocal (with the element itself one more).
        k2: nearest elements whose encodings are averaged ("local query expansion").
        weight: lambda, share of the original distance in the final one.
        shortlist: boxes per query that are re-ranked.

    Raises:
        ValueError: a parameter out of range.
    """

    k1: int = 20
    k2: int = 6
    weight: float = 0.3
    shortlist: int = SHORTLIST

    def __post_init__(self):
        if min(self.k1, self.k2, self.shortlist) < 1 or not 0 <= self.weight <= 1:
            raise ValueError(
                "k-reciprocal re-ranking needs k1, k2 and shortlist of 1 or more and a weight in "
                f"[0, 1], found {self}."
            )


class Reranking:
    """The re-scoring of one protocol (:data:`.retrieval.Rescoring`).

    The new similarities are 1 - (final distance), in [0, 1], for the shortlist, and below 0 for
    the other boxes.
    """

    def __init__(
        self,
        boxes: GalleryBoxes,
        query_vectors: np.ndarray,
        embeddings: np.ndarray,
        parameters: KReciprocal,
    ):
        """
        Args:
            boxes: what is ranked.
            query_vectors: (Q, D) float32 unit vectors.
            embeddings: (rows, D); ``boxes.rows`` points into it.
            parameters: see there.
        """
        self._rows = boxes.rows
        self._query_vectors = query_vectors
        self._embeddings = embeddings
        self._parameters = parameters

    def __call__(self, query: int, pool: np.ndarray, values: np.ndarray) -> np.ndarray:
        # Cosines are at least -1, so these stay below everything that is re-ranked.
        revised = values.astype(np.float64) - 4
        if len(pool) == 0:
            return revised
        best = top_indices(values, self._parameters.shortlist)
        gallery = unit_rows(self._embeddings, self._rows[pool[best]])
        vectors = np.concatenate([self._query_vectors[query : query + 1], gallery])
        revised[best] = 1 - final_distances(vectors, self._parameters)
        return revised


def final_distances(vectors: np.ndarray, parameters: KReciprocal) -> np.ndarray:
    """Distances of element 0 to all others: Jaccard distance mixed with the original one.

    Args:
        vectors: (n, D) float32 unit vectors.
        parameters: ``shortlist`` is not used.

    Returns:
        (n - 1,) in [0, 1].
    """
    from scipy.sparse import csr_array

    n = len(vectors)
    distances = np.maximum(2 - 2 * (vectors @ vectors.T), 0)  # squared Euclidean
    nearest = _nearest(distances, max(parameters.k1 + 1, parameters.k2))
    # As in the method's published code: relative to the farthest element.
    farthest = distances.max(axis=1).astype(np.float64)
    farthest[farthest == 0] = 1

    neighbours = _reciprocal(nearest[:, : parameters.k1 + 1])
    close = _reciprocal(nearest[:, : int(np.around(parameters.k1 / 2)) + 1])
    # A neighbour's own close neighbours join if more than two thirds of them are in already.
    shared = neighbours.multiply(neighbours @ close.T).tocoo()
    joins = 3 * shared.data > 2 * close.sum(axis=1)[shared.col]
    joining = csr_array(
        (np.ones(joins.sum()), (shared.row[joins], shared.col[joins])), shape=(n, n)
    )
    expanded = (neighbours + joining @ close).tocoo()
    expanded.sum_duplicates()

    # "k-reciprocal encoding": Gaussian weights that sum to 1.
    weights = np.exp(-distances[expanded.row, expanded.col] / farthest[expanded.row])
    weights /= np.bincount(expanded.row, weights, n)[expanded.row]
    encodings = csr_array((weights, (expanded.row, expanded.col)), shape=(n, n))
    if parameters.k2 > 1:
        mean_of = nearest[:, : parameters.k2]
        encodings = _indicator(mean_of) @ encodings / mean_of.shape[1]

    support = encodings[[0]].tocoo().col
    encodings = encodings.tocsc()[:, support].toarray()
    overlap = np.minimum(encodings, encodings[0]).sum(axis=1)
    jaccard = 1 - overlap / (2 - overlap)
    # By a scalar, NumPy 1 would divide in float32.
    original = distances[0].astype(np.float64) / farthest[0]
    return ((1 - parameters.weight) * jaccard + parameters.weight * original)[1:]


def _nearest(distances: np.ndarray, count: int) -> np.ndarray:
    """(n, count or n) nearest elements of each, itself among them; of equals the first leads."""
    n = len(distances)
    # Bits of floats that are not negative rise with their values; the element breaks ties.
    keys = np.ascontiguousarray(distances, np.float32).view(np.uint32).astype(np.int64) << 32
    keys |= np.arange(n)
    if count < n:
        keys = np.partition(keys, count - 1, axis=1)[:, :count]
    return np.sort(keys, axis=1) & 0xFFFFFFFF


def _indicator(lists: np.ndarray) -> "csr_array":
    """(n, n) with 1 where an element is in a row's list (n, k)."""
    from scipy.sparse import csr_array

    n, k = lists.shape
    return csr_array((np.ones(n * k), (np.repeat(np.arange(n), k), lists.ravel())), (n, n))


def _reciprocal(lists: np.ndarray) -> "csr_array":
    """(n, n) with 1 where two elements are in each other's lists."""
    listed = _indicator(lists)
    return listed.multiply(listed.T).tocsr()
