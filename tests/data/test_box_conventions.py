"""Boxes in another unit or convention are told from their numbers; real annotations pass."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest

from spnet_d2.data.box_conventions import check_boxes, cut_share
from spnet_d2.data.person_search_json import load_person_search_json
from spnet_d2.data.person_search_schema import PersonSearchFormatError

ROOT = Path(__file__).parents[2]
REAL = sorted((ROOT / ".." / "shared" / "data").glob("*/annotations.json"))
SIZES = np.array([[640.0, 480.0]] * 60)


def people(count=60, seed=0):
    """Boxes x, y, w, h of people all over images of 640 x 480."""
    rng = np.random.default_rng(seed)
    extents = rng.uniform((20, 60), (60, 150), (count, 2))
    return np.concatenate([rng.uniform(0, 1, (count, 2)) * ((640, 480) - extents), extents], 1)


def as_corners(boxes):
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def centred(boxes):
    return np.concatenate([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)


def odd_one(*box):
    boxes = people()
    boxes[7] = box
    return boxes


@pytest.fixture
def check(caplog, request):
    def checked(boxes, sizes=SIZES):
        # The name of the test, for a warning is given once a file.
        with caplog.at_level(logging.WARNING):
            check_boxes(boxes, sizes[: len(boxes)], range(100, 100 + len(boxes)), request.node.name)
        return [record.getMessage() for record in caplog.records]

    return checked


@pytest.mark.parametrize(
    "boxes, message",
    [
        (
            as_corners(people()),
            r"of 60 boxes reach beyond the image.*as corners \[x1, y1, x2, y2\]",
        ),
        (people() / (640, 480, 640, 480), "60 of 60 boxes are at most one pixel.*look relative"),
        (people(1) / (640, 480, 640, 480), "1 of 1 boxes are at most one pixel"),
        (people() * (1, 1, -1, 1), "60 of 60 boxes have a negative width or height"),
    ],
)
def test_nonsense_is_an_error(check, boxes, message):
    with pytest.raises(PersonSearchFormatError, match=message) as error:
        check(boxes)
    assert "annotations id 1" in str(error.value) and "in an image of 640x480" in str(error.value)


@pytest.mark.parametrize(
    "boxes, message",
    [
        (centred(people()) * (1, 1, 1.2, 1.2), "reach beyond the image .*They may be of another"),
        (centred(people() * (1, 1, 3, 2)), "They would fit if x, y were their centres"),
        (people() * 2, "reach beyond the image .*another image size"),
        (people() / 4, "60 of 60 boxes end before .* percent, or of a smaller copy"),
        (odd_one(0.2, 0.3, 0.1, 0.2), "1 of 60 boxes are at most one pixel.*annotations id 107"),
        (odd_one(50, 60, -10, 20), r"1 of 60 boxes have a negative .*\[50.0, 60.0, -10.0, 20.0\]"),
        (odd_one(50, 60, 0, 20), "1 of 60 boxes have no width or no height"),
    ],
)
def test_a_share_of_odd_boxes_is_a_warning(check, boxes, message):
    assert any(re.search(message, warning) for warning in check(boxes))


def test_swapped_sizes_of_images_are_told(check):
    (warning,) = check(people(), SIZES[:, ::-1])
    assert "fit if width and height of the images were swapped" in warning


def test_habits_of_annotators_pass(check):
    assert check(people()) == []
    # A few pixels beyond the border, and a few people who are half outside.
    assert check(people() + (-4, -4, 8, 8)) == []
    outside = people()
    outside[:5, 0] = -0.4 * outside[:5, 2]
    assert check(outside) == []
    assert check(np.zeros((0, 4))) == []
    # Portraits: one person fills the image.
    assert check(np.array([[20.0, 20.0, 600.0, 440.0]] * 30)) == []


def test_share_outside():
    boxes = np.array(
        [[-10, 0, 20, 10], [5, 5, 5, 5], [90, 90, 20, 20], [200, 0, 5, 5], [1, 1, 0, 5]]
    )
    cut = cut_share(boxes.astype(float), np.array([[100.0, 100.0]] * 5))
    assert cut == pytest.approx([0.5, 0, 0.75, 1, 0])
    assert np.isfinite(cut_share(np.full((1, 4), 2.0**31), np.ones((1, 2)))).all()


@pytest.mark.skipif(not REAL, reason="no real corpora at ../shared/data")
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.parent.name)
def test_real_annotations_pass(path, caplog):
    """... and what converters of boxes make of them does not."""
    content = json.loads(path.read_text())
    with caplog.at_level(logging.WARNING):
        load_person_search_json(path, "")
    assert caplog.messages == []
    sizes = {entry["id"]: (entry["width"], entry["height"]) for entry in content["images"]}
    boxes = np.array([entry["bbox"] for entry in content["annotations"]], float)
    image_sizes = np.array([sizes[e["image_id"]] for e in content["annotations"]], float)
    for wrong in (as_corners(boxes), boxes / np.tile(image_sizes, 2)):
        with pytest.raises(PersonSearchFormatError):
            check_boxes(wrong, image_sizes, range(len(boxes)), str(path))


def test_demo_annotations_pass(check):
    content = json.loads((ROOT / "datasets" / "pets09" / "pets09_s2l1.json").read_text())
    boxes = np.array([entry["bbox"] for entry in content["annotations"]], float)
    assert check(boxes, np.array([[768.0, 576.0]] * len(boxes))) == []
