"""Decoders against slow loops on random outputs."""

import math
from pathlib import Path

import numpy as np
import pytest

from spnet_d2.search.two_stage.layouts import DECODERS, grid
from spnet_d2.search.two_stage.settings import DetectorSettings, ModelFileError

SIZE = (64, 96)


def settings(layout: str, person: int = 1, **more) -> DetectorSettings:
    return DetectorSettings(
        network=Path("x.onnx"),
        licence="none",
        size=SIZE,
        channels="BGR",
        layout=layout,
        person=person,
        **more,
    )


def test_yolox_against_a_loop(rng):
    output = rng.normal(size=(1, 8 * 12 + 4 * 6 + 2 * 3, 5 + 3)).astype(np.float32)
    boxes, scores = DECODERS["yolox"]([output], settings("yolox", person=2))
    row = 0
    for stride in (8, 16, 32):
        for y in range(64 // stride):
            for x in range(96 // stride):
                dx, dy, w, h, objectness, *classes = output[0, row].tolist()
                cx, cy = (x + dx) * stride, (y + dy) * stride
                w, h = math.exp(w) * stride, math.exp(h) * stride
                expected = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
                np.testing.assert_allclose(boxes[row], expected, rtol=1e-6, atol=1e-6)
                assert scores[row] == pytest.approx(objectness * classes[2], rel=1e-6)
                row += 1
    assert row == len(boxes) == len(scores)


def test_grid_of_the_usual_input():
    cells, strides = grid((416, 416), (8, 16, 32))
    assert len(cells) == 3549
    assert cells[53].tolist() == [1, 1] and strides[[0, 2704, 3548]].tolist() == [8, 16, 32]


def test_yolov5_against_a_loop(rng):
    output = rng.random((1, 20, 5 + 4)).astype(np.float32)
    boxes, scores = DECODERS["yolov5"]([output], settings("yolov5"))
    for row, box, score in zip(output[0].tolist(), boxes, scores, strict=True):
        cx, cy, w, h, objectness, _, person, *_ = row
        expected = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        np.testing.assert_allclose(box, expected, rtol=1e-6, atol=1e-7)
        assert score == pytest.approx(objectness * person, rel=1e-6)


def test_yolov8_against_a_loop(rng):
    output = rng.random((1, 4 + 3, 20)).astype(np.float32)
    boxes, scores = DECODERS["yolov8"]([output], settings("yolov8"))
    for i in range(20):
        cx, cy, w, h, _, person, _ = output[0, :, i].tolist()
        expected = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        np.testing.assert_allclose(boxes[i], expected, rtol=1e-6, atol=1e-7)
        assert scores[i] == pytest.approx(person, rel=1e-6)


def test_ssd_against_a_loop(rng):
    rows = rng.random((30, 7)).astype(np.float32)
    rows[:, 0], rows[:, 1] = 0, rng.integers(0, 3, 30)
    rows[22, 0] = -1
    boxes, scores = DECODERS["ssd"]([rows[None, None]], settings("ssd"))
    expected = []
    for image, label, score, x1, y1, x2, y2 in rows.tolist():
        if image < 0:
            break
        if label == 1:
            expected.append([x1 * 96, y1 * 64, x2 * 96, y2 * 64, score])
    assert 0 < len(expected) < 22
    np.testing.assert_allclose(np.column_stack([boxes, scores]), expected, rtol=1e-6)


def test_boxes_labels_scores(rng):
    boxes, labels, scores = rng.random((9, 4)), rng.integers(0, 3, 9), rng.random(9)
    found, kept = DECODERS["boxes_labels_scores"](
        [boxes, labels, scores], settings("boxes_labels_scores")
    )
    np.testing.assert_array_equal(found, boxes[labels == 1])
    np.testing.assert_array_equal(kept, scores[labels == 1])


@pytest.mark.parametrize(
    ("layout", "outputs", "message"),
    [
        ("yolox", [np.zeros((1, 5, 85))], "126 rows for strides"),
        ("yolov5", [np.zeros((1, 5, 6))], "more than 1 classes"),
        ("yolov8", [np.zeros((1, 5, 6))] * 2, "one output"),
        ("ssd", [np.zeros((1, 1, 5, 6))], "rows of 7"),
        ("ssd", [np.zeros((2, 1, 5, 7))], "one table"),
        ("boxes_labels_scores", [np.zeros((5, 4)), np.zeros(4), np.zeros(5)], "of one number"),
    ],
)
def test_outputs_of_another_layout(layout, outputs, message):
    with pytest.raises(ModelFileError, match=f"x.onnx: layout {layout} expects .*{message}"):
        DECODERS[layout](outputs, settings(layout))


@pytest.fixture
def rng():
    return np.random.default_rng(0)
