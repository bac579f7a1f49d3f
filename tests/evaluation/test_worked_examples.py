"""Examples worked out by hand and run through the authors' evaluation code."""

import numpy as np
import pytest

from spnet_d2.evaluation import RetrievalProtocol, evaluate_predictions, flat_metrics
from spnet_d2.evaluation.gallery import detected_boxes
from spnet_d2.evaluation.retrieval import score_retrieval
from tests.evaluation.corpus import QUERY, ground_truth, predictions, worked_example

approx = pytest.approx


def evaluate(example, images, queries):
    corpus, embeddings, gt_embeddings = example
    truth = ground_truth(corpus)
    protocol = RetrievalProtocol.from_ids("example", truth, images, queries)
    found = predictions(corpus, embeddings, gt_embeddings)
    return flat_metrics(evaluate_predictions(truth, [protocol], found))


def test_example_a():
    metrics = evaluate(worked_example(False), [1, 2, 3, 4, 5], {QUERY: [1, 2, 3, 4, 5]})
    assert metrics["recall50"] == approx(0.4)
    assert metrics["AP50"] == approx(1 / 3)
    assert metrics["rAP50"] == approx(2 / 15)
    assert metrics["mAP"] == approx(0.25)
    assert metrics["top1"] == 0
    assert metrics["top5"] == 1
    assert metrics["gt_mAP"] == approx(0.8875)
    assert metrics["gt_top1"] == 1


def test_example_a_image_listed_twice():
    metrics = evaluate(worked_example(False), [1, 2, 3, 4, 5], {QUERY: [1, 2, 3, 4, 5, 1]})
    assert metrics["mAP"] == approx(0.2)
    assert metrics["gt_mAP"] == approx(0.71)


def test_example_a_with_fixed_threshold():
    corpus, embeddings, gt_embeddings = worked_example(False)
    corpus[4].people[0].iou_thresh = 0.5
    metrics = evaluate(
        (corpus, embeddings, gt_embeddings), [1, 2, 3, 4, 5], {QUERY: [1, 2, 3, 4, 5]}
    )
    assert metrics["mAP"] == approx(0.125)


@pytest.mark.parametrize(
    "weights, ap, top1",
    [
        # Similarities times detection scores.
        ([0.90, 0.60, 0.40, 0.95, 0.70, 0.92], 0.25, 0),
        # Similarities times a score of the scene.
        ([0.9, 0.9, 0.8, 0.5, 0.7, 0.6], 0.375, 1),
    ],
)
def test_example_a_reweighted(weights, ap, top1):
    corpus, embeddings, gt_embeddings = worked_example(False)
    truth = ground_truth(corpus)
    protocol = RetrievalProtocol.from_ids("a", truth, [1, 2, 3, 4, 5], {QUERY: [1, 2, 3, 4, 5]})
    boxes = detected_boxes(truth, predictions(corpus, embeddings, gt_embeddings))
    values = (embeddings[:, 0] * weights)[boxes.rows]
    scores = score_retrieval(
        truth, protocol, boxes, lambda pool_of: [(pool_of(0), values[pool_of(0)])]
    )
    assert scores.mean_ap == approx(ap)
    assert scores.top(1) == top1


def test_example_b_query_frame_excluded_from_a_list():
    metrics = evaluate(worked_example(True), [0, 1, 2, 3, 4, 5], [QUERY])
    assert metrics["mAP"] == approx(0.25)
    assert metrics["top1"] == 0
    assert metrics["gt_mAP"] == approx(0.8875)
    assert metrics["recall50"] == approx(0.5)
    assert metrics["AP50"] == approx(0.4583, abs=1e-4)
    assert metrics["rAP50"] == approx(0.2292, abs=1e-4)


def test_example_b_query_frame_stays_if_listed():
    metrics = evaluate(worked_example(True), [0, 1, 2, 3, 4, 5], {QUERY: [0, 1, 2, 3, 4, 5]})
    assert metrics["mAP"] == approx(0.4533, abs=1e-4)
    assert metrics["top1"] == 1
    assert metrics["gt_mAP"] == approx(0.9267, abs=1e-4)


def test_example_b_all():
    corpus, embeddings, gt_embeddings = worked_example(True)
    truth = ground_truth(corpus)
    found = predictions(corpus, embeddings, gt_embeddings)
    evaluation = evaluate_predictions(truth, [RetrievalProtocol.all_boxes(truth)], found)
    metrics = flat_metrics(evaluation)
    assert metrics["protocol"] == "all"
    assert metrics["mAP"] == approx(0.3167, abs=1e-4)
    assert metrics["top1"] == 0.5
    assert metrics["gt_mAP"] == approx(0.6632, abs=1e-4)
    assert metrics["gt_top1"] == approx(2 / 3)


def test_example_c_query_centric():
    corpus, embeddings, gt_embeddings = worked_example(False)
    for scene in corpus.values():
        for detection in scene.detections:
            detection.query = QUERY
    metrics = evaluate(
        (corpus, embeddings, gt_embeddings), [1, 2, 3, 4, 5], {QUERY: [1, 2, 3, 4, 5]}
    )
    assert metrics["recall50"] == approx(0.25)
    assert metrics["AP50"] == approx(0.125)
    assert metrics["rAP50"] == approx(0.03125)
    assert metrics["mAP"] == approx(0.25)
    assert metrics["top1"] == 0
    assert metrics["gt_mAP"] == approx(0.8875)


def test_unusable_embeddings_have_similarity_zero(caplog):
    corpus, embeddings, gt_embeddings = worked_example(False)
    embeddings[3] = np.nan  # the distractor that led: .90 T, .70 F, .50 T, .30 F, 0 F
    metrics = evaluate(
        (corpus, embeddings, gt_embeddings), [1, 2, 3, 4, 5], {QUERY: [1, 2, 3, 4, 5]}
    )
    assert metrics["mAP"] == approx((1 + 2 / 3) / 2 * 2 / 4)
    assert metrics["top1"] == 1
    assert sum("1 of 6 rows of embeddings" in r.getMessage() for r in caplog.records) == 1
