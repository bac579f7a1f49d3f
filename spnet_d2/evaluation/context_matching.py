"""Context bipartite graph matching (CBGM): people who walk together are found together.

Li and Miao, "Sequential End-to-end Network for Efficient Person Search", AAAI 2021. For each
gallery image among a query's best matches, the query and the people around it in its own scene
are assigned to the image's detections so that the sum of cosines is highest; the detection
assigned to the query gets that sum as its new similarity.
"""

import numpy as np

from spnet_d2.evaluation.boxes import paired_ious
from spnet_d2.evaluation.gallery import GalleryBoxes
from spnet_d2.evaluation.ground_truth import GroundTruth
from spnet_d2.evaluation.protocols import RetrievalProtocol
from spnet_d2.evaluation.ranking import top_indices
from spnet_d2.evaluation.similarity import unit_rows

# (best boxes whose images are matched, people of the query's scene, the query included), as the
# method's authors set them for galleries listed per query (CUHK-SYSU) and shared ones (PRW).
LISTED_GALLERIES = (10, 3)
SHARED_GALLERY = (30, 4)
# A detection of the query's scene that overlaps the query's box more than this is the query.
SAME_PERSON_IOU = 0.4


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

    def __call__(self, query: int, pool: np.ndarray, values: np.ndarray) -> np.ndarray:
        # Here, for SciPy takes longer to start than all other scoring.
        from scipy.optimize import linear_sum_assignment

        revised = values.astype(np.float64)
        if len(pool) == 0:
            return revised
        companions = self._companions(query)
        best = top_indices(values, self._k1)
        images, nth = np.unique(self._boxes.image_index[pool[best]], return_index=True)
        for image, place in zip(images, best[nth]):
            # An image's boxes follow each other in the pool.
            first, end = self._starts[image], self._starts[image + 1]
            here = place - (pool[place] - first) + np.arange(end - first)
            vectors = unit_rows(self._embeddings, self._boxes.rows[first:end])
            # The query is the first row.
            cosines = np.concatenate([values[None, here], companions @ vectors.T])
            people, matches = linear_sum_assignment(cosines, maximize=True)
            if people[0] == 0:
                total = cosines[people, matches].sum(dtype=np.float64)
                revised[here[matches[0]]] = total
        return revised

    def _companions(self, query: int) -> np.ndarray:
        """Unit embeddings (up to k2 - 1, D) of the people around a query."""
        image = self._query_images[query]
        scene = np.arange(self._starts[image], self._starts[image + 1])
        own = np.broadcast_to(self._query_boxes[query], (len(scene), 4))
        others = scene[paired_ious(self._boxes.boxes[scene], own) <= SAME_PERSON_IOU]
        surest = np.argsort(-self._boxes.scores[others], kind="stable")[: self._k2 - 1]
        if len(surest) == 0:
            return np.zeros((0, self._query_vectors.shape[1]), np.float32)
        return unit_rows(self._embeddings, self._boxes.rows[others[surest]])
