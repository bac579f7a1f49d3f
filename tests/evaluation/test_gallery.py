"""Which detections count: the score floor and the ignore rule."""

import numpy as np
import pytest

from spnet_d2.evaluation import RetrievalProtocol, evaluate_predictions
from spnet_d2.evaluation.detection import score_detections
from spnet_d2.evaluation.gallery import detected_boxes
from tests.evaluation.corpus import ground_truth, predictions
from tests.oracles.evaluation import Detection, Person, Scene


def rows_that_count(scene):
    corpus = {5: scene}
    return detected_boxes(ground_truth(corpus), predictions(corpus)).rows.tolist()


def scene_of(boxes, people=(), ignore_regions=()):
    return Scene(
        [Person(k, k, box, thr) for k, (box, thr) in enumerate(people)],
        [Detection(box, 0.9, row) for row, box in enumerate(boxes)],
        list(ignore_regions),
    )


def test_score_floor(caplog):
    scene = Scene(
        [], [Detection((0, 0, 9, 9), s, k) for k, s in enumerate([0.5, 0.4999, np.nan, np.inf, 1])]
    )
    assert rows_that_count(scene) == [0, 4]
    assert "2 detections have non-finite scores: they count as 0." in caplog.messages


def test_ignore_region_needs_half_of_the_detection():
    region = (0, 0, 10, 10)
    boxes = [(0, 0, 20, 10), (0, 0, 20.1, 10), (2, 2, 4, 4), (50, 50, 60, 60)]
    assert rows_that_count(scene_of(boxes, ignore_regions=[region])) == [1, 3]
    assert rows_that_count(scene_of(boxes)) == [0, 1, 2, 3]
    # Two regions do not add up.
    halves = [(0, 0, 4, 10), (4, 0, 8, 10)]
    assert rows_that_count(scene_of([(0, 0, 10, 10)], ignore_regions=halves)) == [0]


def test_detections_of_annotated_people_count_inside_ignore_regions():
    everywhere = [(0, 0, 100, 100)]
    person = (0, 0, 20, 40)
    hit, twin, low_overlap = person, (1, 0, 21, 40), (0, 0, 20, 15)
    scene = scene_of([hit, twin, low_overlap], [(person, 0.5)], everywhere)
    # The second detection of the person stays a false positive.
    assert rows_that_count(scene) == [0, 1]
    # IoU 0.375 may be a retrieval hit on a small person.
    assert rows_that_count(scene_of([low_overlap], [(person, 0.35)], everywhere)) == [0]


def test_ignored_detections_count_neither_for_nor_against():
    person, elsewhere = (0, 0, 20, 40), (60, 60, 80, 90)
    corpus = {
        1: scene_of([person], [(person, 0.5)]),
        2: Scene(
            [Person(10, 0, person, 0.5)],
            [Detection(elsewhere, 0.99, 1), Detection(person, 0.9, 2)],
        ),
    }
    embeddings = np.array([[1, 0], [1, 0], [1, 1]], np.float32)  # the wrong box is most similar
    gt = {0: [1, 0], 10: [1, 0]}

    def evaluate():
        truth = ground_truth(corpus)
        protocol = RetrievalProtocol.from_ids("p", truth, [1, 2], [0])
        result = evaluate_predictions(truth, [protocol], predictions(corpus, embeddings, gt))
        return result.detection.ap, result.retrieval["p"].mean_ap, result.retrieval["p"].pool_size

    ap, mean_ap, pool_size = evaluate()
    assert (ap, mean_ap, pool_size) == (pytest.approx(2 / 3), 0.5, [2])
    corpus[2].ignore_regions = [(55, 55, 100, 100)]
    assert evaluate() == (1, 1, [1])


def test_boxes_without_area_or_not_finite_are_false_positives(caplog):
    boxes = [(np.nan, 0, 5, 5), (0, 0, np.inf, 9), (5, 5, 5, 9), (9, 9, 0, 0), (0, 0, 9, 9)]
    corpus = {5: scene_of(boxes, [((0, 0, 9, 9), 0.5)], [(0, 0, 99, 99)])}
    truth = ground_truth(corpus)
    detections = detected_boxes(truth, predictions(corpus))
    scores = score_detections(truth, np.array([0]), detections)
    assert (scores.num_detections, scores.num_matched) == (5, 1)
    assert "2 detections have non-finite boxes: they overlap nothing." in caplog.messages


def test_images_without_people_hold_false_positives():
    corpus = {1: scene_of([(0, 0, 9, 9)]), 2: Scene()}
    truth = ground_truth(corpus)
    scores = score_detections(truth, np.array([0, 1]), detected_boxes(truth, predictions(corpus)))
    assert (scores.num_gt, scores.num_detections, scores.ap, scores.recall) == (0, 1, 0, 0)
    assert scores.rap == 0
