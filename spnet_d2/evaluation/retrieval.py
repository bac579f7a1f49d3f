"""Retrieval mAP and top-k: the algorithm papers report for CUHK-SYSU and PRW.

Per query: the boxes of its gallery are ranked by similarity. In each gallery image that shows the
person, the most similar box that overlaps the person enough is the hit; a person without one is
missed. The score is step-wise average precision times (hits / images that show the person).

Quirks of the official evaluations, kept because published metrics contain them (the first three
are undone by the corrected rules, see :mod:`.variants`):

* An image listed twice counts twice as "shows the person", but its boxes are ranked once.
* A person annotated twice in an image counts once, by the first box.
* A query without any match scores 0 and stays in the mean.
* IoU threshold per person, smaller for small boxes, from the unclipped annotation.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from spnet_d2.data.paired_boxes import group_pairs, paired_ious
from spnet_d2.evaluation.gallery import GalleryBoxes
from spnet_d2.evaluation.ground_truth import GroundTruth
from spnet_d2.evaluation.protocols import RetrievalProtocol
from spnet_d2.evaluation.ranking import average_precision, first_hit_rank
from spnet_d2.evaluation.similarity import SimilaritySource
from spnet_d2.evaluation.variants import ORIGINAL, ProtocolVariant

# (query, (N,) numbers of the ranked boxes, (N,) their similarities) -> (N,) new similarities, a new
# array of finite values.
Rescoring = Callable[[int, np.ndarray, np.ndarray], np.ndarray]

# Name of the ranking by the similarities as they are.
PLAIN = ""


@dataclass(frozen=True)
class Ranking:
    """What one query of a protocol found, for those who look at more than its scores.

    Attributes:
        query: the query's place in the protocol.
        boxes: all boxes that take part.
        pool: (N,) numbers of the boxes that were ranked, in the gallery's order.
        similarities: (N,) of them; it is not to be changed, and good for the call only.
        hits: (P,) indices into ``pool``.
        present: gallery entries that show the person.
    """

    query: int
    boxes: GalleryBoxes
    pool: np.ndarray
    similarities: np.ndarray
    hits: np.ndarray
    present: int


Observer = Callable[[Ranking], None]


@dataclass(frozen=True)
class RetrievalScores:
    """Scores of every query of a protocol, in its order.

    Attributes:
        annotation_ids: (Q,) the queries.
        ap: (Q,) average precision times recall, in [0, 1].
        first_hit_rank: (Q,) boxes ranked before the first hit; -1 if nothing is hit.
        present: (Q,) gallery entries that show the person.
        hits: (Q,) images where the person was hit.
        pool_size: (Q,) boxes ranked.
        counted: (Q,) bool, queries that enter the means.
        best_similarity: (Q,) of all boxes ranked; NaN without any.
        best_hit_similarity: (Q,) of the hits; NaN without any.
        best_absent_similarity: (Q,) of the boxes of images that do not show the person:
            what the best match would be if the person were not in this gallery. NaN without any.
    """

    annotation_ids: np.ndarray
    ap: np.ndarray
    first_hit_rank: np.ndarray
    present: np.ndarray
    hits: np.ndarray
    pool_size: np.ndarray
    counted: np.ndarray
    best_similarity: np.ndarray
    best_hit_similarity: np.ndarray
    best_absent_similarity: np.ndarray

    @classmethod
    def empty(cls, annotation_ids: np.ndarray) -> "RetrievalScores":
        """Scores of queries (Q,) whose galleries have nothing in them, to be filled in."""
        count = len(annotation_ids)
        return cls(
            annotation_ids,
            ap=np.zeros(count),
            first_hit_rank=np.full(count, -1),
            present=np.zeros(count, np.int64),
            hits=np.zeros(count, np.int64),
            pool_size=np.zeros(count, np.int64),
            counted=np.ones(count, bool),
            best_similarity=np.full(count, np.nan),
            best_hit_similarity=np.full(count, np.nan),
            best_absent_similarity=np.full(count, np.nan),
        )

    def fill_in(
        self, q: int, values: np.ndarray, positives: np.ndarray, shown: np.ndarray, present: int
    ) -> None:
        """
        Score one query.

        Args:
            q: its place.
            values: (P,) similarities of the boxes ranked.
            positives: the hits among them.
            shown: those in images that show the person.
            present: gallery entries that show the person.
        """
        self.present[q] = present
        self.hits[q] = len(positives)
        self.pool_size[q] = len(values)
        if len(positives):
            recall = len(positives) / present
            self.ap[q] = average_precision(values, positives) * recall
            self.first_hit_rank[q] = first_hit_rank(values, positives)
            self.best_hit_similarity[q] = values[positives].max()
        if len(values):
            self.best_similarity[q] = values.max()
        if len(shown) < len(values):
            self.best_absent_similarity[q] = _highest_without(values, shown)

    @property
    def mean_ap(self) -> float:
        return float(self.ap[self.counted].mean()) if self.counted.any() else 0.0

    def top(self, k: int) -> float:
        """Share of queries with a hit among the first ``k`` boxes."""
        found = self.found_within(k)[self.counted]
        return float(found.mean()) if len(found) else 0.0

    def found_within(self, k: int) -> np.ndarray:
        """(Q,) bool: queries with a hit among the first ``k`` boxes."""
        return (self.first_hit_rank >= 0) & (self.first_hit_rank < k)


def score_retrieval(
    truth: GroundTruth,
    protocol: RetrievalProtocol,
    boxes: GalleryBoxes,
    similarities: SimilaritySource,
    variant: ProtocolVariant = ORIGINAL,
) -> RetrievalScores:
    """Score every query of a protocol; arguments as in :func:`score_rankings`."""
    return score_rankings(truth, protocol, boxes, similarities, {}, variant)[PLAIN]


def score_rankings(
    truth: GroundTruth,
    protocol: RetrievalProtocol,
    boxes: GalleryBoxes,
    similarities: SimilaritySource,
    rescorings: Mapping[str, Rescoring],
    variant: ProtocolVariant = ORIGINAL,
    observe: Observer | None = None,
) -> dict[str, RetrievalScores]:
    """Score every query of a protocol under several rankings, from one pass over the embeddings.

    Args:
        truth: the data set.
        protocol: queries and galleries.
        boxes: what is ranked: detections, or ground-truth boxes for GT metrics.
        similarities: see :mod:`.similarity`; finite values, an array for each
            query that may be written to.
        rescorings: further rankings by name.
        variant: see :mod:`.variants`; own frames are the protocol's business.
        observe: is shown the plain ranking of every query.

    Returns:
        ``PLAIN`` and one for each of ``rescorings``.

    Similarity ties are one step of average precision. Top-k takes them in the gallery's order,
    and so does the choice of the hit among an image's boxes.
    """
    ids = truth.annotation_ids[protocol.queries]
    scores = {name: RetrievalScores.empty(ids) for name in (PLAIN, *rescorings)}
    pools = _Pools(protocol, truth.num_images, boxes)
    candidates = _HitCandidates(truth, boxes, variant)
    place = np.full(len(boxes), -1)
    for q, (pool, plain) in enumerate(similarities(pools.of)):
        person = truth.person_index[protocol.queries[q]]
        first = truth.first_boxes[truth.person_starts[person] : truth.person_starts[person + 1]]
        images = truth.image_index[first]
        present = pools.listings(q, images, variant.repeats_count)
        place[pool] = np.arange(len(pool))
        at, at_images = candidates.in_pool(person, place)
        shown = place[pools.boxes_of(images)]
        shown = shown[shown >= 0]
        place[pool] = -1

        for name, result in scores.items():
            values = rescorings[name](q, pool, plain) if name != PLAIN else plain
            # A ranking may leave out boxes: they are no hits, but the person stays to be found.
            there = values[at] > -np.inf
            positives = _most_similar(at[there], at_images[there], values)
            result.counted[q] = present > 0 or variant.unmatchable_count
            result.fill_in(q, values, positives, shown, present)
            if name == PLAIN and observe is not None:
                observe(Ranking(q, boxes, pool, values, positives, present))
    return scores


def _highest_without(values: np.ndarray, left_out: np.ndarray) -> float:
    """The highest of ``values`` but for some indices; they are back in place afterwards."""
    kept = values[left_out]
    values[left_out] = -np.inf
    highest = values.max()
    values[left_out] = kept
    return highest


def _most_similar(at: np.ndarray, images: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The hit of each image, as indices into the pool.

    Args:
        at: (C,) indices of candidates.
        images: (C,) their images.
        values: similarities of the pool.
    """
    # Stable, so the first of equals leads its image.
    order = np.lexsort((at, -values[at], images))
    at, images = at[order], images[order]
    leads = np.ones(len(at), bool)
    leads[1:] = images[1:] != images[:-1]
    return at[leads]


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
                self._shared_pool = self.boxes_of(images[once])
                # Where in the pool each image's boxes are, which follow each other.
                self._shared_starts = np.zeros(num_images, np.int64)
                counts = np.bincount(boxes.image_index[self._shared_pool], minlength=num_images)
                ends = np.cumsum(counts[images[once]])
                self._shared_starts[images[once]] = ends - counts[images[once]]
                self._shared_counts = counts
        else:
            order = np.argsort(boxes.query_index, kind="stable")
            bounds = boxes.query_index[order]
            left = np.searchsorted(bounds, protocol.queries, side="left")
            right = np.searchsorted(bounds, protocol.queries, side="right")
            self._own_boxes = [order[a:b] for a, b in zip(left, right)]

    def of(self, query: int) -> np.ndarray:
        """Numbers of the boxes to rank; an image listed twice gives its boxes once."""
        if self._shared_pool is not None:
            own = self._protocol.query_images[query]
            start = self._shared_starts[own]
            end = start + self._shared_counts[own]
            return np.concatenate([self._shared_pool[:start], self._shared_pool[end:]])
        gallery = self._protocol.gallery(query)
        # Assigned backwards, so that the first listing stays.
        self._listed_at[gallery[::-1]] = np.arange(len(gallery))[::-1]
        if self._own_boxes is None:
            once = self._listed_at[gallery] == np.arange(len(gallery))
            pool = self.boxes_of(gallery[once])
        else:
            own = self._own_boxes[query]
            listed_at = self._listed_at[self._image_index[own]]
            own, listed_at = own[listed_at >= 0], listed_at[listed_at >= 0]
            pool = own[np.argsort(listed_at, kind="stable")]
        self._listed_at[gallery] = -1
        return pool

    def boxes_of(self, images: np.ndarray) -> np.ndarray:
        """Numbers of the boxes of images, image by image in the order given."""
        count = self._starts[images + 1] - self._starts[images]
        before = np.cumsum(count) - count
        return np.arange(count.sum()) + np.repeat(self._starts[images] - before, count)

    def listings(self, query: int, images: np.ndarray, repeats: bool) -> int:
        """How many entries of the query's gallery are among ``images``; each once or as listed."""
        gallery = self._protocol.gallery(query)
        if repeats:
            self._listed_at[images] = 1
            count = np.count_nonzero(self._listed_at[gallery] > 0)
            self._listed_at[images] = -1
        else:
            self._listed_at[gallery] = 1
            count = np.count_nonzero(self._listed_at[images] > 0)
            self._listed_at[gallery] = -1
        return int(count)


class _HitCandidates:
    """Boxes that overlap a person enough to be a hit, for all persons at once."""

    def __init__(self, truth: GroundTruth, boxes: GalleryBoxes, variant: ProtocolVariant):
        targets = truth.first_boxes if variant.first_box_only else np.arange(len(truth.boxes))
        person, image = truth.person_index[targets], truth.image_index[targets]
        if boxes.query_index is None:
            near, box = group_pairs(image, boxes.image_index)
        else:
            # A box found for one person is no candidate for another.
            wanted = truth.person_index[boxes.query_index]
            near, box = group_pairs(
                person * truth.num_images + image, wanted * truth.num_images + boxes.image_index
            )
        ious = paired_ious(truth.boxes[targets[near]], boxes.boxes[box])
        enough = ious >= truth.iou_thresh[targets[near]]
        near, box = near[enough], box[enough]
        order = np.argsort(person[near], kind="stable")
        self._boxes = box[order]
        self._images = image[near[order]]
        self._starts = np.searchsorted(person[near[order]], np.arange(truth.num_persons + 1))

    def in_pool(self, person: int, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A person's candidates that are ranked: indices into the pool, and their images.

        Args:
            person: number of the query's person.
            place: (N,) index of each box in the pool, -1 if it is not ranked.
        """
        span = slice(self._starts[person], self._starts[person + 1])
        at = place[self._boxes[span]]
        ranked = at >= 0
        return at[ranked], self._images[span][ranked]
