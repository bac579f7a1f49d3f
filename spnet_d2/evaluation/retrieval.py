"""Retrieval mAP and top-k: the algorithm papers report for CUHK-SYSU and PRW.

Per query: the boxes of its gallery are ranked by similarity. In each gallery image that shows the
person, the most similar box that overlaps the person enough is the hit; a person without one is
missed. The score is step-wise average precision times (hits / images that show the person).

Quirks of the official evaluations, kept because published figures contain them:

* IoU threshold per person, smaller for small boxes, from the unclipped annotation.
* An image listed twice counts twice as "shows the person", but its boxes are ranked once.
* A person annotated twice in an image counts once, by the first box.
* A query without any match scores 0 and stays in the mean.
"""

from dataclasses import dataclass

import numpy as np

from spnet_d2.evaluation.boxes import group_pairs, paired_ious
from spnet_d2.evaluation.gallery import GalleryBoxes
from spnet_d2.evaluation.ground_truth import GroundTruth
from spnet_d2.evaluation.protocols import RetrievalProtocol
from spnet_d2.evaluation.ranking import average_precision, first_hit_rank
from spnet_d2.evaluation.similarity import SimilaritySource


@dataclass(frozen=True)
class RetrievalScores:
    """Scores of every query of a protocol, in its order.

    Attributes:
        annotation_ids (ndarray): (Q,) the queries.
        ap (ndarray): (Q,) average precision times recall, in [0, 1].
        first_hit_rank (ndarray): (Q,) boxes ranked before the first hit; -1 if nothing is hit.
        present (ndarray): (Q,) gallery entries that show the person.
        hits (ndarray): (Q,) images where the person was hit.
        pool_size (ndarray): (Q,) boxes ranked.
    """

    annotation_ids: np.ndarray
    ap: np.ndarray
    first_hit_rank: np.ndarray
    present: np.ndarray
    hits: np.ndarray
    pool_size: np.ndarray

    @property
    def mean_ap(self) -> float:
        return float(self.ap.mean())

    def top(self, k: int) -> float:
        """Share of queries with a hit among the first ``k`` boxes."""
        return float(np.mean((self.first_hit_rank >= 0) & (self.first_hit_rank < k)))


def score_retrieval(
    truth: GroundTruth,
    protocol: RetrievalProtocol,
    boxes: GalleryBoxes,
    similarities: SimilaritySource,
) -> RetrievalScores:
    """Score every query of a protocol.

    Args:
        truth (GroundTruth): the data set.
        protocol (RetrievalProtocol): queries and galleries.
        boxes (GalleryBoxes): what is ranked: detections, or ground-truth boxes for GT figures.
        similarities (SimilaritySource): see :mod:`.similarity`; values must be finite.

    Similarity ties are one step of average precision. Top-k takes them in the gallery's order,
    and so does the choice of the hit among an image's boxes.
    """
    num_queries = len(protocol.queries)
    ap = np.zeros(num_queries)
    rank = np.full(num_queries, -1)
    present, hits, pool_size = (np.zeros(num_queries, np.int64) for _ in range(3))

    pools = _Pools(protocol, truth.num_images, boxes)
    candidates = _HitCandidates(truth, boxes)
    place = np.full(len(boxes), -1)
    for q, (pool, values) in enumerate(similarities(pools.of)):
        person = truth.person_index[protocol.queries[q]]
        place[pool] = np.arange(len(pool))
        positives = candidates.most_similar(person, place, values)
        place[pool] = -1

        first = truth.first_boxes[truth.person_starts[person] : truth.person_starts[person + 1]]
        present[q] = pools.listings(q, truth.image_index[first])
        hits[q] = len(positives)
        pool_size[q] = len(pool)
        if len(positives):
            ap[q] = average_precision(values, positives) * (hits[q] / present[q])
            rank[q] = first_hit_rank(values, positives)
    return RetrievalScores(
        truth.annotation_ids[protocol.queries], ap, rank, present, hits, pool_size
    )


class _Pools:
    """Which boxes a query ranks, in the order of its gallery."""

    def __init__(self, protocol: RetrievalProtocol, num_images: int, boxes: GalleryBoxes):
        self._protocol = protocol
        self._image_index = boxes.image_index
        self._starts = np.searchsorted(boxes.image_index, np.arange(num_images + 1))
        # Scratch: first listing of every image in the gallery at hand.
        self._listed_at = np.full(num_images, -1)
        self._own_boxes = None
        self._shared_pool = None
        if boxes.query_index is None:
            if protocol.galleries is None:
                images = protocol.images
                once = np.sort(np.unique(images, return_index=True)[1])
                self._shared_pool = self._boxes_of(images[once])
                self._shared_images = boxes.image_index[self._shared_pool]
        else:
            order = np.argsort(boxes.query_index, kind="stable")
            bounds = boxes.query_index[order]
            left = np.searchsorted(bounds, protocol.queries, side="left")
            right = np.searchsorted(bounds, protocol.queries, side="right")
            self._own_boxes = [order[a:b] for a, b in zip(left, right)]

    def of(self, query: int) -> np.ndarray:
        """Numbers of the boxes to rank; an image listed twice gives its boxes once."""
        if self._shared_pool is not None:
            return self._shared_pool[self._shared_images != self._protocol.query_images[query]]
        gallery = self._protocol.gallery(query)
        # Assigned backwards, so that the first listing stays.
        self._listed_at[gallery[::-1]] = np.arange(len(gallery))[::-1]
        if self._own_boxes is None:
            once = self._listed_at[gallery] == np.arange(len(gallery))
            pool = self._boxes_of(gallery[once])
        else:
            own = self._own_boxes[query]
            listed_at = self._listed_at[self._image_index[own]]
            own, listed_at = own[listed_at >= 0], listed_at[listed_at >= 0]
            pool = own[np.argsort(listed_at, kind="stable")]
        self._listed_at[gallery] = -1
        return pool

    def _boxes_of(self, images: np.ndarray) -> np.ndarray:
        """Numbers of the boxes of images, image by image in the order given."""
        count = self._starts[images + 1] - self._starts[images]
        before = np.cumsum(count) - count
        return np.arange(count.sum()) + np.repeat(self._starts[images] - before, count)

    def listings(self, query: int, images: np.ndarray) -> int:
        """How many entries of the query's gallery, repeats counted, are among ``images``."""
        self._listed_at[images] = 1
        count = np.count_nonzero(self._listed_at[self._protocol.gallery(query)] > 0)
        self._listed_at[images] = -1
        return count


class _HitCandidates:
    """Boxes that overlap a person enough to be a hit, for all persons at once."""

    def __init__(self, truth: GroundTruth, boxes: GalleryBoxes):
        first = truth.first_boxes
        person, image = truth.person_index[first], truth.image_index[first]
        if boxes.query_index is None:
            near, box = group_pairs(image, boxes.image_index)
        else:
            # A box found for one person is no candidate for another.
            wanted = truth.person_index[boxes.query_index]
            near, box = group_pairs(
                person * truth.num_images + image, wanted * truth.num_images + boxes.image_index
            )
        ious = paired_ious(truth.boxes[first[near]], boxes.boxes[box])
        enough = ious >= truth.iou_thresh[first[near]]
        # Ordered by person, then image, then box.
        self._boxes = box[enough]
        self._images = image[near[enough]]
        self._starts = np.searchsorted(person[near[enough]], np.arange(truth.num_persons + 1))

    def most_similar(self, person: int, place: np.ndarray, values: np.ndarray) -> np.ndarray:
        """The hit of each image, as indices into the pool.

        Args:
            person (int): number of the query's person.
            place (ndarray): (N,) index of each box in the pool, -1 if it is not ranked.
            values (ndarray): similarities of the pool.
        """
        span = slice(self._starts[person], self._starts[person + 1])
        at = place[self._boxes[span]]
        ranked = at >= 0
        at, images = at[ranked], self._images[span][ranked]
        # Stable, so the first of equals leads its image.
        at = at[np.lexsort((-values[at], images))]
        leads = np.ones(len(at), bool)
        leads[1:] = images[1:] != images[:-1]
        return at[leads]
