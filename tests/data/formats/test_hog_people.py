"""The classical people detector and the measure of what it finds."""

import cv2
import numpy as np
import pytest

from spnet_d2.data.formats import hog_people
from spnet_d2.data.formats.hog_people import HogSettings, detect_people, precision_recall


def person(image, x, y, height):
    """Draw a figure of ``height`` pixels with its head's centre line at ``x``."""
    unit = height / 12
    points = {"neck": (0, 2), "hip": (0, 6.5), "left": (-1.2, 12), "right": (1.2, 12)}
    at = {name: (round(x + a * unit), round(y + b * unit)) for name, (a, b) in points.items()}
    thick = max(1, round(1.1 * unit))
    cv2.circle(image, (x, round(y + unit)), round(unit), (40, 40, 40), -1)
    cv2.ellipse(
        image,
        (x, round(y + 4.4 * unit)),
        (round(1.6 * unit), round(2.5 * unit)),
        0,
        0,
        360,
        (40, 40, 40),
        -1,
    )
    for foot in ("left", "right"):
        cv2.line(image, at["hip"], at[foot], (40, 40, 40), thick)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Two metrics of 60 and 100 pixels on a grey ground."""
    image = np.full((200, 260, 3), 190, np.uint8)
    person(image, 70, 60, 60)
    person(image, 180, 50, 100)
    path = tmp_path_factory.mktemp("hog") / "scene.png"
    cv2.imwrite(str(path), image)
    return path


TRUTH = np.array([[61.0, 60, 18, 60], [164.0, 50, 32, 100]])


def test_people_are_found_where_they_stand(scene):
    (found,) = detect_people([scene], HogSettings(min_score=0.2))
    assert found.shape[1] == 5 and (np.diff(found[:, 4]) <= 0).all()
    precision, recall = precision_recall([found], [TRUTH], [np.zeros((0, 4))], iou_thresh=0.4)
    assert recall == 1 and precision >= 0.5
    assert (found[:, :2] >= 0).all() and (found[:, :2] + found[:, 2:4] <= (260, 200)).all()


def test_the_same_whatever_the_threads(scene):
    before = cv2.getNumThreads()
    single, double = (detect_people([scene, scene], workers=n) for n in (1, 2))
    for one, other in zip(single, double, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(*double)
    assert cv2.getNumThreads() == before


def test_nobody_on_an_empty_ground(tmp_path):
    cv2.imwrite(str(tmp_path / "empty.png"), np.full((150, 150, 3), 90, np.uint8))
    (found,) = detect_people([tmp_path / "empty.png"])
    assert found.shape == (0, 5)


def test_equal_scores_have_an_order_and_boxes_end_at_the_border():
    windows = np.array([[-20.0, 0, 64, 128], [100.0, 0, 64, 128], [50.0, 0, 64, 128]])
    settings = HogSettings()
    for order in ([0, 1, 2], [2, 1, 0]):
        found = hog_people._people(windows[order], np.ones(3), (140, 128), settings)
        np.testing.assert_allclose(found[:, 0], [0, 64.4, 114.4], atol=1e-9)
        np.testing.assert_allclose(found[:, 2], [29.6, 35.2, 25.6], atol=1e-9)
        np.testing.assert_allclose(found[:, 3], 0.76 * 128)


def test_opencv_5_and_broken_images(tmp_path, monkeypatch):
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"Cannot read .*broken\.jpg"):
        detect_people([path])
    monkeypatch.delattr(cv2, "HOGDescriptor")
    with pytest.raises(RuntimeError, match="pip install 'opencv-python-headless>=4.8.1.78,<5'"):
        detect_people([path])


def test_precision_and_recall():
    """Two hits, a second box on the same person, one in an ignore region, one nowhere."""
    truth = np.array([[0, 0, 10, 20], [50, 0, 10, 20], [0, 50, 10, 20]])
    found = np.array(
        [[0, 0, 10, 19], [1, 0, 10, 20], [50, 1, 10, 20], [85, 85, 20, 20], [20, 20, 5, 5]]
    )
    regions = np.array([[90, 80, 40, 40]])
    nobody = np.zeros((0, 4))
    assert precision_recall([found], [truth], [regions]) == (2 / 4, 2 / 3)
    assert precision_recall([found], [truth], [nobody]) == (2 / 5, 2 / 3)
    assert precision_recall([found, nobody], [truth, truth], [nobody, nobody]) == (2 / 5, 2 / 6)
    assert precision_recall([found], [nobody], [regions]) == (0, 0)
    assert precision_recall([nobody], [truth], [nobody]) == (0, 0)
