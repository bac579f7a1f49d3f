"""All figures of a set of predictions: the one place where the parts of an evaluation meet."""

import logging
from dataclasses import dataclass, field

import numpy as np

from spnet_d2.evaluation.detection import (
    DetectionScores,
    score_detections,
    score_query_centric_detections,
)
from spnet_d2.evaluation.gallery import GalleryBoxes, detected_boxes, ground_truth_boxes
from spnet_d2.evaluation.ground_truth import GroundTruth
from spnet_d2.evaluation.predictions import Predictions
from spnet_d2.evaluation.protocols import RetrievalProtocol
from spnet_d2.evaluation.retrieval import RetrievalScores, score_retrieval
from spnet_d2.evaluation.similarity import (
    CHUNK_ROWS,
    cosine_source,
    rowwise_cosine_source,
    unit_rows,
)

logger = logging.getLogger(__name__)


@dataclass
class Evaluation:
    """Figures of one set of predictions.

    Attributes:
        detection (DetectionScores): over the images of all protocols; query-centric predictions:
            over the (image, query) pairs of the first protocol.
        retrieval (dict[str, RetrievalScores]): per protocol, with detected boxes.
        gt_retrieval (dict[str, RetrievalScores]): per protocol, with ground-truth boxes; empty
            unless all of them have embeddings.
    """

    detection: DetectionScores
    retrieval: dict[str, RetrievalScores] = field(default_factory=dict)
    gt_retrieval: dict[str, RetrievalScores] = field(default_factory=dict)


def evaluate_predictions(
    truth: GroundTruth, protocols: list[RetrievalProtocol], predictions: Predictions
) -> Evaluation:
    """Score predictions under every protocol.

    Args:
        truth (GroundTruth): the data set.
        protocols (list[RetrievalProtocol]): may be empty: detection over all images only.
        predictions (Predictions): of at least the images of the protocols.

    Raises:
        ValueError: an id the data set lacks, or a query without an embedding.
    """
    detections = detected_boxes(truth, predictions)
    if len(detections) == 0:
        logger.warning(
            "None of the %d detections counts: every figure with detected boxes is 0.",
            len(predictions.scores),
        )
    _warn_of_unusable_embeddings(predictions)
    evaluation = Evaluation(_detection_scores(truth, protocols, predictions, detections))

    gt_boxes = ground_truth_boxes(truth, predictions)
    if protocols and gt_boxes is None:
        logger.warning(
            "GT figures are left out: only %d of %d ground-truth boxes have an embedding.",
            len(predictions.gt_annotation_ids),
            len(truth.boxes),
        )
    for protocol in protocols:
        vectors = _query_vectors(truth, protocol, predictions)
        share = protocol.gallery_share(truth.num_images)
        if predictions.is_query_centric:
            query_of_box = np.full(len(truth.boxes), -1)
            query_of_box[protocol.queries] = np.arange(len(protocol.queries))
            source = rowwise_cosine_source(
                vectors,
                query_of_box[detections.query_index],
                predictions.embeddings,
                detections,
            )
        else:
            source = cosine_source(vectors, predictions.embeddings, detections, share)
        evaluation.retrieval[protocol.name] = score_retrieval(truth, protocol, detections, source)
        if gt_boxes is not None:
            source = cosine_source(vectors, predictions.gt_embeddings, gt_boxes, share)
            evaluation.gt_retrieval[protocol.name] = score_retrieval(
                truth, protocol, gt_boxes, source
            )
    return evaluation


def _detection_scores(
    truth: GroundTruth,
    protocols: list[RetrievalProtocol],
    predictions: Predictions,
    detections: GalleryBoxes,
) -> DetectionScores:
    if predictions.is_query_centric:
        if not protocols:
            raise ValueError(
                "Query-centric predictions (with query_annotation_ids) need a protocol: it says "
                "which queries search which images. None was given."
            )
        return score_query_centric_detections(truth, protocols[0], detections)
    images = np.arange(truth.num_images)
    if protocols:
        images = np.unique(np.concatenate([protocol.images for protocol in protocols]))
    return score_detections(truth, images, detections)


def _query_vectors(
    truth: GroundTruth, protocol: RetrievalProtocol, predictions: Predictions
) -> np.ndarray:
    """Unit embeddings (Q, D) of a protocol's queries."""
    numbers = truth.find_annotations(predictions.gt_annotation_ids, "predictions")
    row = np.full(len(truth.boxes), -1)
    row[numbers] = np.arange(len(numbers))
    rows = row[protocol.queries]
    if (rows < 0).any():
        missing = truth.annotation_ids[protocol.queries[rows < 0]]
        raise ValueError(
            f'Every query of protocol "{protocol.name}" needs an embedding, but '
            f"{len(missing)} of {len(rows)} are not among gt_annotation_ids, first: "
            f"{', '.join(map(str, missing[:5]))}. Embed these boxes in their own images."
        )
    return unit_rows(predictions.gt_embeddings, rows)


def _warn_of_unusable_embeddings(predictions: Predictions) -> None:
    for name in ("embeddings", "gt_embeddings"):
        array = getattr(predictions, name)
        unusable = sum(
            np.count_nonzero(~np.isfinite(array[start : start + CHUNK_ROWS]).all(axis=1))
            for start in range(0, len(array), CHUNK_ROWS)
        )
        if unusable:
            logger.warning(
                "%d of %d rows of %s are not finite: they have similarity 0 with everything.",
                unusable,
                len(array),
                name,
            )
