"""What a report needs of every ranking, gathered while an evaluation runs.

Rankings of large galleries do not fit memory together, so sums and the top of each are kept.
"""

from dataclasses import dataclass

import numpy as np

from spnet_d2.evaluation.ground_truth import GroundTruth
from spnet_d2.evaluation.protocols import RetrievalProtocol
from spnet_d2.evaluation.ranking import top_indices
from spnet_d2.evaluation.retrieval import Ranking
from spnet_d2.evaluation.variants import ProtocolVariant
from spnet_d2.visualization.curves import (
    gallery_sizes,
    precision_at_recalls,
    scores_by_gallery_size,
)

# Middles of 200 steps, so that the mean over them is the area under the curve.
RECALLS = (np.arange(200) + 0.5) / 200
BINS = np.linspace(-1, 1, 201)
_SEED = 0


@dataclass(frozen=True)
class RankedQuery:
    """The top of a query's ranking, and the boxes it missed.

    Attributes:
        images: (K,) numbers of the images of the leading boxes.
        boxes: (K, 4) xyxy.
        similarities: (K,) falling.
        is_hit: (K,) bool.
        missed: (M,) numbers of the ground-truth boxes of the person in gallery images
            where no box was a hit.
    """

    images: np.ndarray
    boxes: np.ndarray
    similarities: np.ndarray
    is_hit: np.ndarray
    missed: np.ndarray


class RankingRecorder:
    """An observer of ``evaluate_predictions`` for one protocol.

    Attributes:
        queries: by place in the protocol.
        match_counts, other_counts: (200,) hits, and all other ranked boxes, by
            similarity in ``BINS``.
        sizes: (S,) images without the person in the galleries of the gallery-size curve.
    """

    def __init__(
        self,
        truth: GroundTruth,
        protocol: RetrievalProtocol,
        variant: ProtocolVariant,
        length: int = 10,
    ):
        """
        Args:
            truth: the data set.
            protocol: as it is given to ``evaluate_predictions``.
            variant: the rules of the evaluation.
            length: how many boxes of each ranking are kept.
        """
        self._truth = truth
        self._protocol = protocol if variant.own_frame_searched else protocol.without_own_frames()
        self._unmatchable_count = variant.unmatchable_count
        self._length = length
        self.queries: dict[int, RankedQuery] = {}
        self.match_counts = np.zeros(len(BINS) - 1, np.int64)
        self.other_counts = np.zeros(len(BINS) - 1, np.int64)
        most = max((len(self._others(q)) for q in range(len(protocol.queries))), default=0)
        self.sizes = gallery_sizes(most)
        self._counted = 0
        self._precisions = np.zeros(len(RECALLS))
        self._size_scores = np.zeros((2, len(self.sizes)))

    def __call__(self, ranking: Ranking) -> None:
        """Take in one ranking."""
        values, hits, q = ranking.similarities, ranking.hits, ranking.query
        images = ranking.boxes.image_index[ranking.pool]
        is_hit = np.zeros(len(values), bool)
        is_hit[hits] = True

        # Cosines may leave [-1, 1] by rounding.
        bins = np.histogram(np.clip(values, -1, 1), BINS)[0]
        matches = np.histogram(np.clip(values[hits], -1, 1), BINS)[0]
        self.match_counts += matches
        self.other_counts += bins - matches

        if ranking.present > 0 or self._unmatchable_count:
            self._counted += 1
            self._precisions += precision_at_recalls(values, hits, ranking.present, RECALLS)
            turn_of_image = np.zeros(self._truth.num_images, np.int64)
            others = self._others(q)
            shuffle = np.random.default_rng((_SEED, q)).permutation(len(others))
            turn_of_image[others] = 1 + shuffle
            self._size_scores += scores_by_gallery_size(
                values, hits, ranking.present, turn_of_image[images], self.sizes
            )

        top = top_indices(values, self._length) if len(values) else np.zeros(0, np.int64)
        shows = self._person_boxes(q)
        searched = np.isin(self._truth.image_index[shows], self._protocol.gallery(q))
        found = np.isin(self._truth.image_index[shows], images[hits])
        self.queries[q] = RankedQuery(
            images=images[top],
            boxes=ranking.boxes.boxes[ranking.pool[top]],
            similarities=values[top],
            is_hit=is_hit[top],
            missed=shows[searched & ~found],
        )

    @property
    def precisions(self) -> np.ndarray:
        """(200,) mean precision at ``RECALLS``; its mean is mAP up to the width of a step."""
        return self._precisions / max(1, self._counted)

    @property
    def size_scores(self) -> np.ndarray:
        """(2, S) mAP and top-1 in galleries of ``sizes``; a query that has fewer uses all."""
        return self._size_scores / max(1, self._counted)

    def _person_boxes(self, query: int) -> np.ndarray:
        """The first box of the query's person in every image that shows it."""
        truth = self._truth
        person = truth.person_index[self._protocol.queries[query]]
        return truth.first_boxes[truth.person_starts[person] : truth.person_starts[person + 1]]

    def _others(self, query: int) -> np.ndarray:
        """Gallery images that do not show the query's person, each once, ascending."""
        shows = self._truth.image_index[self._person_boxes(query)]
        return np.setdiff1d(self._protocol.gallery(query), shows)
