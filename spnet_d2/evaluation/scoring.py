"""All metrics of a set of predictions: the one place where the parts of an evaluation meet."""

import logging
from dataclasses import dataclass, field

import numpy as np

from spnet_d2.evaluation.coco_metrics import coco_metrics
from spnet_d2.evaluation.context_matching import SEQNET, ContextMatching, default_sizes
from spnet_d2.evaluation.detection import (
    DetectionScores,
    score_detections,
    score_query_centric_detections,
)
from spnet_d2.evaluation.gallery import GalleryBoxes, detected_boxes, ground_truth_boxes
from spnet_d2.evaluation.ground_truth import GroundTruth
from spnet_d2.evaluation.predictions import Predictions
from spnet_d2.evaluation.protocols import RetrievalProtocol
from spnet_d2.evaluation.reranking import KReciprocal, Reranking
from spnet_d2.evaluation.retrieval import (
    PLAIN,
    Observer,
    Rescoring,
    RetrievalScores,
    score_rankings,
    score_retrieval,
)
from spnet_d2.evaluation.scene_scores import SceneFilter
from spnet_d2.evaluation.similarity import (
    RowKeys,
    SimilaritySource,
    cosine_source,
    rowwise_cosine_source,
    unit_rows,
)
from spnet_d2.evaluation.variants import ORIGINAL, ProtocolVariant

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExtraMetrics:
    """Metrics to compute beside the plain ones; none replaces another.

    Attributes:
        cws: ranking by cosine times detection score ("confidence weighted similarity").
        cbgm: context bipartite graph matching by sums of cosines, see :mod:`.context_matching`.
        seqnet_cbgm: the same as SeqNet's authors released it.
        cbgm_sizes: (k1, k2) of both; None: by the form of the protocol.
        gfn: ranking with the gallery filter, see :mod:`.scene_scores`.
        gfn_threshold: also skip scenes with a score below.
        rerank: k-reciprocal re-ranking, see :mod:`.reranking`.
        coco: COCO's detection metrics, see :mod:`.coco_metrics`; query-centric
            predictions have none.
    """

    cws: bool = False
    cbgm: bool = False
    seqnet_cbgm: bool = False
    cbgm_sizes: tuple[int, int] | None = None
    gfn: bool = False
    gfn_threshold: float | None = None
    rerank: KReciprocal | None = None
    coco: bool = False


@dataclass
class Evaluation:
    """Metrics of one set of predictions.

    Attributes:
        detection: over the images of all protocols; query-centric predictions:
            over the (image, query) pairs of the first protocol.
        variant: the rules.
        retrieval: per protocol, with detected boxes.
        gt_retrieval: per protocol, with ground-truth boxes; empty
            unless all that are searched have embeddings.
        rescored: per protocol the other rankings
            that :class:`ExtraMetrics` names: "cws", "cbgm", "seqnet_cbgm", "gfn", "gfn_cws",
            "gfn_filter", "rerank".
        scenes: per protocol what the gallery filter does, with ``ExtraMetrics.gfn``.
        coco: COCO's metrics, with ``ExtraMetrics.coco``.
    """

    detection: DetectionScores
    variant: ProtocolVariant = ORIGINAL
    retrieval: dict[str, RetrievalScores] = field(default_factory=dict)
    gt_retrieval: dict[str, RetrievalScores] = field(default_factory=dict)
    rescored: dict[str, dict[str, RetrievalScores]] = field(default_factory=dict)
    scenes: dict[str, dict[str, float]] = field(default_factory=dict)
    coco: dict[str, float] = field(default_factory=dict)


def evaluate_predictions(
    truth: GroundTruth,
    protocols: list[RetrievalProtocol],
    predictions: Predictions,
    variant: ProtocolVariant = ORIGINAL,
    extra: ExtraMetrics | None = None,
    observe: Observer | None = None,
) -> Evaluation:
    """Score predictions under every protocol.

    Args:
        truth: the data set.
        protocols: may be empty: detection over all images only.
        predictions: of at least the images of the protocols.
        variant: the rules; the original ones are those of published metrics.
        extra: what to report beside the plain metrics.
        observe: is shown the plain ranking of detected boxes for every query,
            protocol by protocol.

    Raises:
        ValueError: an id the data set lacks, a query without an embedding, or context matching
            of query-centric predictions.
    """
    extra = extra or ExtraMetrics()
    if not variant.own_frame_searched:
        protocols = [protocol.without_own_frames() for protocol in protocols]
    scene = _Scored.of(truth, predictions, variant)
    images = np.arange(truth.num_images)
    if protocols:
        images = np.unique(np.concatenate([protocol.images for protocol in protocols]))
    detection = _detection_scores(truth, protocols, images, predictions, scene.detections, variant)
    evaluation = Evaluation(detection, variant)
    if extra.coco and not predictions.is_query_centric:
        evaluation.coco = coco_metrics(truth, images, predictions)
    for protocol in protocols:
        vectors = _query_vectors(truth, protocol, predictions)
        gallery_filter = scene.gallery_filter(protocol, vectors, extra)
        if gallery_filter is not None:
            evaluation.scenes[protocol.name] = gallery_filter.statistics(scene.detections)
        rankings = scene.rankings(protocol, vectors, extra, gallery_filter, observe)
        evaluation.retrieval[protocol.name] = rankings.pop(PLAIN)
        _warn_of_strangers(protocol.name, evaluation.retrieval[protocol.name])
        evaluation.rescored[protocol.name] = rankings
        gt_scores = scene.gt_scores(protocol, vectors)
        if gt_scores is not None:
            evaluation.gt_retrieval[protocol.name] = gt_scores
    return evaluation


@dataclass(frozen=True)
class _Scored:
    """What the queries of every protocol are scored with; ``vectors`` are theirs, (Q, D)."""

    truth: GroundTruth
    predictions: Predictions
    variant: ProtocolVariant
    detections: GalleryBoxes
    keys: np.ndarray
    gt_keys: np.ndarray

    @classmethod
    def of(
        cls, truth: GroundTruth, predictions: Predictions, variant: ProtocolVariant
    ) -> "_Scored":
        """Check the predictions; what makes all metrics 0 is a warning."""
        detections = detected_boxes(truth, predictions)
        truth.not_empty(predictions.gt_annotation_ids, "predictions: embeddings")
        if len(truth.boxes) == 0:
            logger.warning("The data set has no boxes: all metrics are 0 whatever the model finds.")
        if len(detections) == 0:
            logger.warning(
                "None of the %d detections counts: all metrics with detected boxes are 0.",
                len(predictions.scores),
            )
        keys, gt_keys = (_row_keys(predictions, name) for name in ("embeddings", "gt_embeddings"))
        return cls(truth, predictions, variant, detections, keys, gt_keys)

    def gallery_filter(
        self, protocol: RetrievalProtocol, vectors: np.ndarray, extra: ExtraMetrics
    ) -> SceneFilter | None:
        """Scores of the protocol's scenes, where they are wanted."""
        if not extra.gfn and extra.gfn_threshold is None:
            return None
        threshold = extra.gfn_threshold
        return SceneFilter.of(self.truth, protocol, self.predictions, vectors, threshold)

    def rankings(
        self,
        protocol: RetrievalProtocol,
        vectors: np.ndarray,
        extra: ExtraMetrics,
        gallery_filter: SceneFilter | None,
        observe: Observer | None,
    ) -> dict[str, RetrievalScores]:
        """Scores of detected boxes, by the name of the ranking."""
        found, embeddings = self.detections, self.predictions.embeddings
        rescorings = _rescorings(extra, self.truth, protocol, found, vectors, embeddings)
        if gallery_filter is not None:
            rescorings.update(gallery_filter.rescorings(found))
        source = self._similarities(protocol, vectors)
        return score_rankings(
            self.truth, protocol, found, source, rescorings, self.variant, observe
        )

    def gt_scores(self, protocol: RetrievalProtocol, vectors: np.ndarray) -> RetrievalScores | None:
        """Scores of ground-truth boxes; None unless all that are searched have embeddings."""
        boxes = ground_truth_boxes(self.truth, self.predictions, protocol.searched_images())
        if boxes is None:
            return None
        share = protocol.gallery_share(self.truth.num_images)
        embeddings = self.predictions.gt_embeddings
        source = cosine_source(vectors, embeddings, self.gt_keys, boxes, share)
        return score_retrieval(self.truth, protocol, boxes, source, self.variant)

    def _similarities(self, protocol: RetrievalProtocol, vectors: np.ndarray) -> SimilaritySource:
        found, embeddings = self.detections, self.predictions.embeddings
        if not self.predictions.is_query_centric:
            share = protocol.gallery_share(self.truth.num_images)
            return cosine_source(vectors, embeddings, self.keys, found, share)
        query_of_box = np.full(len(self.truth.boxes), -1)
        query_of_box[protocol.queries] = np.arange(len(protocol.queries))
        return rowwise_cosine_source(vectors, query_of_box[found.query_index], embeddings, found)


def _warn_of_strangers(protocol: str, scores: RetrievalScores) -> None:
    """Warn of a metric that is 0 for every model."""
    if len(scores.ap) and not scores.present.any():
        logger.warning(
            'Protocol "%s": none of its %d queries has its person in its gallery (all unknown, or '
            "each box a person of its own), so all of its retrieval metrics are 0 whatever the "
            "model finds. Check person_id and is_known of the data set.",
            protocol,
            len(scores.ap),
        )


def _rescorings(
    extra: ExtraMetrics,
    truth: GroundTruth,
    protocol: RetrievalProtocol,
    boxes: GalleryBoxes,
    query_vectors: np.ndarray,
    embeddings: np.ndarray,
) -> dict[str, Rescoring]:
    rescorings: dict[str, Rescoring] = {}
    if extra.cws:
        rescorings["cws"] = lambda query, pool, values: values * boxes.scores[pool]
    sizes = extra.cbgm_sizes or default_sizes(protocol)
    matched = (truth, protocol, boxes, query_vectors, embeddings, *sizes)
    if extra.cbgm:
        rescorings["cbgm"] = ContextMatching(*matched)
    if extra.seqnet_cbgm:
        rescorings["seqnet_cbgm"] = ContextMatching(*matched, SEQNET)
    if extra.rerank is not None:
        rescorings["rerank"] = Reranking(boxes, query_vectors, embeddings, extra.rerank)
    return rescorings


def _detection_scores(
    truth: GroundTruth,
    protocols: list[RetrievalProtocol],
    images: np.ndarray,
    predictions: Predictions,
    detections: GalleryBoxes,
    variant: ProtocolVariant,
) -> DetectionScores:
    if predictions.is_query_centric:
        if not protocols:
            raise ValueError(
                "Query-centric predictions (with query_annotation_ids) need a protocol: it says "
                "which queries search which images. None was given."
            )
        return score_query_centric_detections(truth, protocols[0], detections, variant)
    return score_detections(truth, images, detections, variant)


def _query_vectors(
    truth: GroundTruth, protocol: RetrievalProtocol, predictions: Predictions
) -> np.ndarray:
    """Unit embeddings (Q, D) of a protocol's queries."""
    rows = predictions.gt_rows(truth)[protocol.queries]
    if (rows < 0).any():
        missing = truth.annotation_ids[protocol.queries[rows < 0]]
        raise ValueError(
            f'Every query of protocol "{protocol.name}" needs an embedding, but '
            f"{len(missing)} of {len(rows)} are not among gt_annotation_ids, first: "
            f"{', '.join(map(str, missing[:5]))}. Embed these boxes in their own images."
        )
    return unit_rows(predictions.gt_embeddings, rows)


def _row_keys(predictions: Predictions, name: str) -> np.ndarray:
    """Keys of an array of embeddings; warns of what is not finite."""
    rows = RowKeys.of(getattr(predictions, name))
    if rows.unusable:
        logger.warning(
            "%d of %d rows of %s are not finite: they have similarity 0 with everything.",
            rows.unusable,
            len(rows.keys),
            name,
        )
    return rows.keys
