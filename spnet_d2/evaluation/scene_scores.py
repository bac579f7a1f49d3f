"""Gallery Filter Network at inference: how well a gallery scene matches a query's own scene.

Jaffe and Zakhor, WACV 2023. Scores go from 0.269 to 0.731. As a factor a score multiplies the
similarity of every box of its scene; a factor below 1 so moves *negative* similarities up. As a
filter, scenes with a score below a threshold are not compared at all.

Letters: Q queries, S scenes, D embedding size. With unit vectors x of a query and y of a scene, and
``fuser`` (3, D): factor a, summand b and gate scale g, a scene as a query sees it is
``z = a * sigmoid(g x) * y + b``; the score is ``sigmoid(cos(z of its own scene, z))``. With
``fuser`` (2, D) it is ``z = a * (x + y) + b``, of vectors as they are. Without one the score is
``sigmoid(cos(x, y))``.
"""

from dataclasses import dataclass

import numpy as np

from spnet_d2.evaluation.gallery import GalleryBoxes
from spnet_d2.evaluation.ground_truth import GroundTruth
from spnet_d2.evaluation.predictions import Predictions
from spnet_d2.evaluation.protocols import RetrievalProtocol
from spnet_d2.evaluation.ranking import average_precision, first_hit_rank
from spnet_d2.evaluation.retrieval import Rescoring
from spnet_d2.evaluation.similarity import unit_rows

# Queries at a time.
_BLOCK = 256
# Share of the scenes that show the person which a suggested threshold keeps.
_KEPT = 0.99


def scene_scores(
    queries: np.ndarray, own: np.ndarray, scenes: np.ndarray, fuser: np.ndarray | None
) -> np.ndarray:
    """
    Scores by matrix products alone, without a tensor of all pairs.

    Args:
        queries: (Q, D) float32 unit vectors; as they are with a fuser of sums.
        own: (Q,) row of each query's own scene.
        scenes: (S, D) float32, likewise.
        fuser: (3, D), (2, D) of sums, or None.

    Returns:
        (Q, S) float32 in (0, 1).
    """
    scores = np.empty((len(queries), len(scenes)), np.float32)
    for start in range(0, len(queries), _BLOCK):
        part = slice(start, start + _BLOCK)
        scores[part] = _cosines(queries[part], scenes[own[part]], scenes, fuser)
    return 1 / (1 + np.exp(-scores))


def _cosines(x: np.ndarray, own: np.ndarray, y: np.ndarray, fuser: np.ndarray | None):
    if fuser is None:
        return x @ y.T
    scale, summand, *gate = fuser.astype(np.float32)
    h = scale / (1 + np.exp(-gate[0] * x)) if gate else np.broadcast_to(scale, x.shape)
    shift = np.broadcast_to(summand, x.shape) if gate else x * scale + summand
    f = unit_rows(h * own + shift, np.arange(len(x)))
    dots = (f * h) @ y.T + (f * shift).sum(axis=1, keepdims=True)
    squares = (h * h) @ (y * y).T + 2 * (h * shift) @ y.T
    squares += (shift * shift).sum(axis=1, keepdims=True)
    return dots / np.sqrt(np.maximum(squares, 1e-12))


def takes_lengths(fuser: np.ndarray | None) -> bool:
    """Whether scores depend on the lengths of embeddings: those of sums."""
    return fuser is not None and len(fuser) == 2


@dataclass(frozen=True)
class SceneFilter:
    """
    Scores of one protocol's queries and scenes.

    Attributes:
        truth: the data set.
        protocol: queries and galleries.
        scores: (Q, S).
        column: (images,) each image's column in ``scores``.
        threshold: scenes below are skipped; None: none are.
    """

    truth: GroundTruth
    protocol: RetrievalProtocol
    scores: np.ndarray
    column: np.ndarray
    threshold: float | None = None

    @classmethod
    def of(
        cls,
        truth: GroundTruth,
        protocol: RetrievalProtocol,
        predictions: Predictions,
        query_vectors: np.ndarray,
        threshold: float | None = None,
    ) -> "SceneFilter":
        """
        Of predictions with scene embeddings.

        Raises:
            ValueError: there are none, or none of an image of the protocol.
        """
        if predictions.scene_embeddings is None or predictions.scene_image_ids is None:
            raise ValueError(
                "The gallery filter needs scene_image_ids and scene_embeddings in the predictions: "
                "those of a model with MODEL.SPNET.GFN.ENABLED have them."
            )
        found = truth.find_images(predictions.scene_image_ids, "predictions: scenes")
        row = np.full(truth.num_images, -1)
        row[found] = np.arange(len(found))
        images = protocol.covered_images()
        if (row[images] < 0).any():
            missing = truth.image_ids[images[row[images] < 0]]
            raise ValueError(
                f"The gallery filter needs a scene embedding of every image of protocol "
                f'"{protocol.name}", but {len(missing)} have none, first: '
                f"{', '.join(map(str, missing[:5]))}."
            )
        column = np.full(truth.num_images, -1)
        column[images] = np.arange(len(images))
        own, fuser = column[protocol.query_images], predictions.scene_fuser
        scenes = unit_rows(predictions.scene_embeddings, row[images])
        if takes_lengths(fuser):
            rows = predictions.gt_rows(truth)[protocol.queries]
            query_vectors = predictions.gt_embeddings[rows].astype(np.float32)
            scenes = predictions.scene_embeddings[row[images]].astype(np.float32)
        scores = scene_scores(query_vectors, own, scenes, fuser)
        return cls(truth, protocol, scores, column, threshold)

    def rescorings(self, boxes: GalleryBoxes) -> dict[str, Rescoring]:
        """By name: "gfn", "gfn_cws" (SeqNeXt's own) and, with a threshold, "gfn_filter"."""
        columns = self.column[boxes.image_index]

        def factor(query: int, pool: np.ndarray, values: np.ndarray) -> np.ndarray:
            return values * self.scores[query, columns[pool]]

        def with_scores(query: int, pool: np.ndarray, values: np.ndarray) -> np.ndarray:
            return factor(query, pool, values) * boxes.scores[pool]

        def filtered(query: int, pool: np.ndarray, values: np.ndarray) -> np.ndarray:
            skipped = self.scores[query, columns[pool]] < self.threshold
            return np.where(skipped, -np.inf, values)

        found: dict[str, Rescoring] = {"gfn": factor, "gfn_cws": with_scores}
        if self.threshold is not None:
            found["gfn_filter"] = filtered
        return found

    def statistics(self, boxes: GalleryBoxes) -> dict[str, float]:
        """
        How well scores alone tell scenes that show the person from the others.

        All are of (query, gallery scene) pairs, scenes without boxes and repeats included:
        ``scene_mAP`` and ``scene_top1`` of ranking scenes; ``suggested_threshold``, which keeps
        99 % of the pairs that show the person, and ``suggested_skipped``, the share of the others
        below it (both left out if no scene shows its person). With a threshold also
        ``skipped_scenes``, ``skipped_boxes`` and ``lost_scenes``: shares of the pairs, of the
        boxes to compare, and of the pairs that show the person.
        """
        boxes_of = np.bincount(boxes.image_index, minlength=self.truth.num_images)
        rankings, pooled, weights = [], [], []
        for query in range(len(self.protocol.queries)):
            gallery = self.protocol.gallery(query)
            values = self.scores[query, self.column[gallery]]
            shows = np.isin(gallery, self._images_of(query))
            places = np.flatnonzero(shows)
            if len(places):
                precision = average_precision(values, places)
                rankings.append((precision, first_hit_rank(values, places) == 0))
            else:
                rankings.append((0.0, False))
            pooled.append((values, shows))
            weights.append(boxes_of[gallery])
        scores, shown = (
            (np.concatenate(part) for part in zip(*pooled)) if pooled else 2 * (np.zeros(0),)
        )
        mean_ap, top1 = np.mean(rankings, axis=0) if rankings else (0.0, 0.0)
        found = {"scene_mAP": float(mean_ap), "scene_top1": float(top1)}
        found.update(suggested_filter(scores, shown.astype(bool)))
        if self.threshold is not None and rankings:
            found.update(self._cost(scores, shown, np.concatenate(weights)))
        return found

    def _images_of(self, query: int) -> np.ndarray:
        truth = self.truth
        person = truth.person_index[self.protocol.queries[query]]
        first = truth.first_boxes[truth.person_starts[person] : truth.person_starts[person + 1]]
        return truth.image_index[first]

    def _cost(self, scores: np.ndarray, shows: np.ndarray, boxes: np.ndarray) -> dict[str, float]:
        skipped = scores < self.threshold
        shares = {
            "skipped_scenes": (skipped.sum(), len(skipped)),
            "skipped_boxes": (boxes[skipped].sum(), boxes.sum()),
            "lost_scenes": (skipped[shows].sum(), shows.sum()),
        }
        return {name: float(part / max(1, whole)) for name, (part, whole) in shares.items()}


def suggested_filter(scores: np.ndarray, shows: np.ndarray) -> dict[str, float]:
    """
    The threshold that 99 % of the pairs that show the person reach, and what it skips.

    Args:
        scores: (P,) of pairs of a query and a scene.
        shows: (P,) bool, whether the scene shows the person.
    """
    if not shows.any():
        return {}
    falling = np.sort(scores[shows])[::-1]
    threshold = falling[int(_KEPT * len(falling))]
    others = scores[~shows]
    skipped = float((others < threshold).mean()) if len(others) else 0.0
    return {"suggested_threshold": float(threshold), "suggested_skipped": skipped}
