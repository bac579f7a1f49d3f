"""Context bipartite graph matching (CBGM): people who walk together are found together.

The idea is Li and Miao's, "Sequential End-to-end Network for Efficient Person Search", AAAI 2021.
For each gallery image among a query's best matches, the query and the people around it in its own
scene are assigned to the image's detections so that the sum of edges is highest; the detection
assigned to the query gets a new similarity. There are two forms, which give different metrics:

======================  =========================  =====================================
.                       :data:`SUM_OF_COSINES`     :data:`SEQNET`, as its authors released it
======================  =========================  =====================================
edge                    cosine                     cosine times the detection's score
new similarity          sum of all chosen edges    largest chosen edge, whoever's it is
other similarities      cosines                    cosines times scores
IoU of the query        above 0.4                  above 0.5
======================  =========================  =====================================
"""

from dataclasses import dataclass

import numpy as np

from spnet_d2.data.paired_boxes import paired_ious
from spnet_d2.evaluation.gallery import GalleryBoxes
from spnet_d2.evaluation.ground_truth import GroundTruth
from spnet_d2.evaluation.protocols import RetrievalProtocol
from spnet_d2.evaluation.ranking import top_indices
from spnet_d2.evaluation.similarity import unit_rows

# (best boxes whose images are matched, people of the query's scene, the query included), as the
# method's authors set them for galleries listed per query (CUHK-SYSU) and shared ones (PRW).
LISTED_GALLERIES = (10, 3)
SHARED_GALLERY = (30, 4)


@dataclass(frozen=True)
class MatchingForm:
    """
    One of the forms above.

    Attributes:
        same_person_iou: a detection of the query's scene that overlaps the query's box more than
            this is the query.
        score_weighted: gallery embeddings are multiplied by detection scores.
        largest_edge: the new similarity is the largest edge, not the sum.
    """

    same_person_iou: float
    score_weighted: bool
    largest_edge: bool


SUM_OF_COSINES = MatchingForm(same_person_iou=0.4, score_weighted=False, largest_edge=False)
SEQNET = MatchingForm(same_person_iou=0.5, score_weighted=True, largest_edge=True)


def default_sizes(protocol: RetrievalProtocol) -> tuple[int, int]:
    """``(k1, k2)`` for a protocol."""
    return SHARED_GALLERY if protocol.galleries is None else LISTED_GALLERIES


class ContextMatching:
    """The re-scoring of one protocol (:data:`.retrieval.Rescoring`)."""

    def __init__(
        self,
        truth: GroundTruth,
        protocol: RetrievalProtocol,
        boxes: GalleryBoxes,
        query_vectors: np.ndarray,
        embeddings: np.ndarray,
        k1: int,
        k2: int,
        form: MatchingForm = SUM_OF_COSINES,
    ):
        """
        Args:
            truth: the data set.
            protocol: queries.
            boxes: detections that serve all queries.
            query_vectors: (Q, D) float32 unit vectors.
            embeddings: (rows, D); ``boxes.rows`` points into it.
            k1: images of this many best boxes are matched.
            k2: people of the query's scene that are matched, the query included; the
                others by falling detection score.
            form: of edges and new similarities.

        Raises:
            ValueError: ``k1`` or ``k2`` below 1, or detections that serve one query each.
        """
        if k1 < 1 or k2 < 1:
            raise ValueError(f"Context matching needs k1 and k2 of 1 or more, found {k1}, {k2}.")
        if boxes.query_index is not None:
            raise ValueError(
                "Context matching compares whole scenes, but query-centric predictions hold only "
                "one query's detections of each scene."
            )
        self._boxes, self._embeddings = boxes, embeddings
        self._query_vectors = query_vectors
        self._query_boxes = truth.boxes[protocol.queries]
        self._query_images = protocol.query_images
        self._starts = np.searchsorted(boxes.image_index, np.arange(truth.num_images + 1))
        self._k1, self._k2 = k1, k2
        self._form = form

    def __call__(self, query: int, pool: np.ndarray, values: np.ndarray) -> np.ndarray:
        # Here, for SciPy takes longer to start than all other scoring.
        from scipy.optimize import linear_sum_assignment

        revised = values.astype(np.float64)
        if self._form.score_weighted:
            revised *= self._boxes.scores[pool]
        if len(pool) == 0:
            return revised
        edges_of_query = revised.copy()
        companions = self._companions(query)
        best = top_indices(edges_of_query, self._k1)
        images, nth = np.unique(self._boxes.image_index[pool[best]], return_index=True)
        for image, place in zip(images, best[nth]):
            # An image's boxes follow each other in the pool.
            first, end = self._starts[image], self._starts[image + 1]
            here = place - (pool[place] - first) + np.arange(end - first)
            # The query is the first row.
            edges = np.concatenate(
                [edges_of_query[None, here], self._edges(companions, first, end)]
            )
            people, matches = linear_sum_assignment(edges, maximize=True)
            if people[0] == 0:
                chosen = edges[people, matches]
                new = chosen.max() if self._form.largest_edge else chosen.sum()
                revised[here[matches[0]]] = new
        return revised

    def _edges(self, companions: np.ndarray, first: int, end: int) -> np.ndarray:
        """Edges (people, boxes) of companions (people, D) with the boxes ``first`` to ``end``."""
        edges = companions @ unit_rows(self._embeddings, self._boxes.rows[first:end]).T
        return edges * self._boxes.scores[first:end] if self._form.score_weighted else edges

    def _companions(self, query: int) -> np.ndarray:
        """Unit embeddings (up to k2 - 1, D) of the people around a query."""
        image = self._query_images[query]
        scene = np.arange(self._starts[image], self._starts[image + 1])
        own = np.broadcast_to(self._query_boxes[query], (len(scene), 4))
        ious = paired_ious(self._boxes.boxes[scene], own)
        others = scene[ious <= self._form.same_person_iou]
        surest = np.argsort(-self._boxes.scores[others], kind="stable")[: self._k2 - 1]
        if len(surest) == 0:
            return np.zeros((0, self._query_vectors.shape[1]), np.float32)
        return unit_rows(self._embeddings, self._boxes.rows[others[surest]])
