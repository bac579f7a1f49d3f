"""Predictions in another unit or convention are told from their numbers; plain ones pass."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest

from spnet_d2.data.person_search_json import load_person_search_table
from spnet_d2.evaluation import GroundTruth, Predictions
from spnet_d2.evaluation.prediction_checks import check_boxes, image_sizes
from spnet_d2.evaluation.prediction_values import check_values

REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "mot15" / "annotations.json"
IMAGES, PEOPLE = 12, 5
SIZES = np.array([[640.0, 480.0]] * IMAGES)


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(0)
    count = IMAGES * PEOPLE
    extents = rng.uniform((30, 80), (60, 150), (count, 2))
    starts = rng.uniform(0, 1, (count, 2)) * ((640, 480) - extents)
    return GroundTruth(
        image_ids=np.arange(IMAGES) * 10,
        annotation_ids=np.arange(count),
        image_index=np.repeat(np.arange(IMAGES), PEOPLE),
        boxes=np.concatenate([starts, starts + extents], axis=1),
        person_index=np.arange(count) % 7,
        iou_thresh=np.full(count, 0.5),
    )


def perfect(truth, **changes):
    """Everybody is detected, and somebody who isn't there."""
    rng = np.random.default_rng(1)
    boxes = np.concatenate([truth.boxes + rng.uniform(-2, 2, truth.boxes.shape), [[1, 2, 30, 90]]])
    arrays = {
        "image_ids": np.append(truth.image_ids[truth.image_index], 0),
        "boxes": boxes,
        "scores": rng.uniform(0.5, 1, len(boxes)),
        "embeddings": rng.standard_normal((len(boxes), 8)).astype(np.float16),
        "gt_annotation_ids": truth.annotation_ids,
        "gt_embeddings": rng.standard_normal((len(truth.boxes), 8)).astype(np.float32),
    }
    return Predictions(**(arrays | changes))


def as_xywh(boxes):
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def warnings_of(caplog, check, *arguments):
    with caplog.at_level(logging.WARNING):
        check(*arguments)
    return caplog.messages


def check_numbers(found, where):
    embeddings = {"embeddings": found.embeddings, "gt_embeddings": found.gt_embeddings}
    check_values(found.scores, embeddings, where)


def test_plain_predictions_pass(truth, caplog):
    found = perfect(truth)
    assert warnings_of(caplog, check_numbers, found, "p.npz") == []
    assert warnings_of(caplog, check_boxes, found, truth, SIZES, "p.npz") == []


@pytest.mark.parametrize(
    "scores, message",
    [
        (np.linspace(50, 100, 61), r"61 of 61 are not, first: scores\[0\] = 50 .*Percent"),
        (np.linspace(-4, 6, 61), r"first: scores\[0\] = -4 \(they go from -4 to 6\)\. Logits"),
    ],
)
def test_scores_of_another_unit_are_an_error(truth, tmp_path, scores, message):
    path = tmp_path / "p.npz"
    perfect(truth, scores=scores).save(path)
    with pytest.raises(ValueError, match=message) as error:
        Predictions.load(path)
    assert str(error.value).startswith(f"{path} cannot be used as predictions: scores must be in")


def _changed(array, rows, value):
    array = array.copy()
    array[rows] = value
    return array


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("scores", lambda a: a * np.nan, "61 of 61 scores are NaN and count as 0"),
        ("embeddings", lambda a: a * 0, "61 of 61 rows looked at of embeddings are all zero"),
        ("embeddings", lambda a: a * np.nan, "61 of 61 .* of embeddings have NaN or infinite"),
        ("embeddings", lambda a: _changed(a, 3, np.inf), "1 of 61 .* first: row 3"),
        ("gt_embeddings", lambda a: a * 0 + 3, "gt_embeddings are the same in all 60 rows"),
        ("gt_embeddings", lambda a: _changed(a, slice(4), 0), "4 of 60 .* gt_embeddings are all z"),
    ],
)
def test_numbers_without_meaning_are_a_warning(truth, caplog, name, change, message):
    found = perfect(truth, **{name: change(getattr(perfect(truth), name))})
    (warning,) = warnings_of(caplog, check_numbers, found, "p.npz")
    assert warning.startswith("p.npz: ") and re.search(message, warning)


def test_few_scores_outside_are_a_warning(caplog):
    rng = np.random.default_rng(0)
    scores = _changed(rng.uniform(0, 1, 300), 7, 1.5)
    found = Predictions(
        image_ids=np.zeros(300, int),
        boxes=np.ones((300, 4)),
        scores=scores,
        embeddings=rng.standard_normal((300, 2)),
        gt_annotation_ids=np.zeros(0, int),
        gt_embeddings=np.zeros((0, 2)),
    )
    (warning,) = warnings_of(caplog, check_numbers, found, "p.npz")
    assert "1 of 300 are not, first: scores[7] = 1.5" in warning


@pytest.mark.parametrize(
    "change, message",
    [
        (as_xywh, "boxes have x2 < x1 or y2 < y1, first: .* x, y, w, h instead of corners"),
        (lambda b: b / (640, 480, 640, 480), "61 of 61 boxes lie within one pixel.*Relative"),
        (lambda b: b[:, [2, 3, 0, 1]], "61 of 61 boxes have x2 < x1"),
    ],
)
def test_boxes_of_another_convention_are_an_error(truth, change, message):
    found = perfect(truth, boxes=change(perfect(truth).boxes))
    with pytest.raises(ValueError, match=message) as error:
        check_boxes(found, truth, SIZES, "p.npz")
    assert re.search(r"in image id \d+ of 640x480", str(error.value))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda b: b * 1.875, "reach beyond the image with more than 10%.*resized image"),
        (lambda b: b * 0.5, r"of the annotated people.*multiplied by (2|1\.9\d?) in x"),
        (lambda b: b * 0.8, r"would, if they were multiplied by 1\.2\d? in x and 1\.2\d? in y"),
        (lambda b: b[:, [1, 0, 3, 2]], "would, if they were y1, x1, y2, x2"),
        (lambda b: _changed(b, 5, [9, 9, 4, 20]), "1 of 61 boxes have x2 < x1"),
        (lambda b: _changed(b, 5, [0.1, 0.2, 0.3, 0.4]), "1 of 61 boxes lie within one pixel"),
        (lambda b: _changed(b, 5, np.nan), "1 of 61 boxes are not finite"),
        (lambda b: b * 0 + (600, 400, 640, 480), " [0-2]% of the annotated people overlap"),
    ],
)
def test_odd_boxes_are_a_warning(truth, caplog, change, message):
    found = perfect(truth, boxes=change(perfect(truth).boxes))
    messages = warnings_of(caplog, check_boxes, found, truth, SIZES, "p.npz")
    assert any(re.search(message, text) for text in messages), messages
    assert all(text.startswith("p.npz: ") for text in messages)


def test_an_unknown_image_is_named_with_the_file(truth):
    found = perfect(truth, image_ids=np.full(61, 77))
    with pytest.raises(ValueError, match="p.npz: predictions: image ids must be .* not: 77"):
        check_boxes(found, truth, SIZES, "p.npz")


@pytest.mark.skipif(not REAL.is_file(), reason="no real corpora at ../shared/data")
def test_detections_of_real_footage(caplog):
    """As a detector finds people: shifted, some missed, some twice, some not there."""
    table = load_person_search_table(REAL)
    truth, sizes = GroundTruth.from_table(table), image_sizes(table.images)
    rng = np.random.default_rng(0)
    kept = rng.permutation(len(truth.boxes))[: len(truth.boxes) // 2]
    boxes = truth.boxes[kept] + rng.normal(0, 5, (len(kept), 4))
    found = Predictions(
        image_ids=truth.image_ids[truth.image_index[kept]],
        boxes=boxes,
        scores=rng.uniform(0, 1, len(kept)),
        embeddings=rng.standard_normal((len(kept), 4)),
        gt_annotation_ids=truth.annotation_ids[:0],
        gt_embeddings=np.zeros((0, 4)),
    )
    assert warnings_of(caplog, check_boxes, found, truth, sizes, "p.npz") == []
    wrong = Predictions(**(vars(found) | {"boxes": as_xywh(boxes)}))
    with pytest.raises(ValueError, match="x, y, w, h instead of corners"):
        check_boxes(wrong, truth, sizes, "p.npz")
