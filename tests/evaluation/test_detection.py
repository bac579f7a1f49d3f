import numpy as np

from spnet_d2.evaluation import detection
from spnet_d2.evaluation.detection import mutual_best_matches


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
