import numpy as np

from spnet_d2.evaluation import detection
from spnet_d2.evaluation.detection import greedy_matches, mutual_best_matches


def test_no_second_choice(monkeypatch):
    """Detection 0 loses its best box to detection 1, detection 2 its only one to detection 0."""
    iou = np.array([[0.6, 0.55], [0.7, 0.0], [0.0, 0.52]])
    monkeypatch.setattr(detection, "paired_ious", lambda d, g: iou[d[:, 0], g[:, 0]])
    numbers = np.repeat(np.arange(3), 4).reshape(3, 4)
    matched = mutual_best_matches(np.zeros(3, int), numbers, np.zeros(2, int), numbers[:2])
    assert matched.tolist() == [False, True, False]


def test_threshold_is_inclusive_and_of_equals_the_first_matches():
    gt = np.array([[0, 0, 10, 10]])
    boxes = np.array([[0, 0, 10, 4.9], [0, 0, 10, 5], [0, 5, 10, 10]])
    matched = mutual_best_matches(np.zeros(3, int), boxes, np.zeros(1, int), gt)
    assert matched.tolist() == [False, True, False]


def test_boxes_of_other_images_do_not_match():
    box = np.array([[0, 0, 10, 10]])
    assert not mutual_best_matches(np.array([1]), box, np.array([2]), box).any()


def test_choice_by_score_takes_the_second_best_where_the_best_is_taken():
    """Mutual best choice leaves the second detection unmatched."""
    people = np.array([[0, 0, 10, 20], [4, 0, 14, 20]], float)
    detections = np.array([[0, 0, 10, 20], [1, 0, 11, 20], [40, 40, 50, 60]], float)
    group, people_group = np.zeros(3, int), np.zeros(2, int)
    assert mutual_best_matches(group, detections, people_group, people).tolist() == [
        True,
        False,
        False,
    ]
    scores = np.array([0.9, 0.8, 0.7])
    found = greedy_matches(group, detections, scores, people_group, people)
    assert found.tolist() == [True, True, False]
    # The surer one takes the other's best box.
    found = greedy_matches(group, detections, scores[::-1], people_group, people)
    assert found.tolist() == [False, True, False]
