"""Views against a literal slow pipeline, and pixels against boxes."""

import cv2
import numpy as np
import pytest

from spnet_d2.data.geometry import View, center_pad, clip_with_visibility


def literal(view: View, image: np.ndarray, fill: int) -> np.ndarray:
    """Every step on the whole image, canvas included."""
    image = cv2.resize(image, view.resized[::-1], interpolation=cv2.INTER_LINEAR)
    top, left = center_pad(view.resized, view.canvas)
    canvas = np.full((*view.canvas, 3), fill, np.uint8)
    canvas[top : top + view.resized[0], left : left + view.resized[1]] = image
    x, y, w, h = view.crop
    crop = canvas[y : y + h, x : x + w]
    out = cv2.resize(crop, view.output[::-1], interpolation=cv2.INTER_LINEAR)
    return out[:, ::-1] if view.flip else out


CROPS = {
    "inside": (120, 110, 40, 40),
    "whole canvas": (0, 0, 300, 280),
    "padding only": (0, 0, 30, 20),
    "left and top padding": (20, 30, 150, 90),
    "right and bottom padding": (150, 150, 150, 130),
    "one pixel": (299, 279, 1, 1),
    "across, wide": (0, 120, 300, 30),
}


@pytest.mark.parametrize("crop", CROPS.values(), ids=CROPS.keys())
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("fill", [0, 7])
def test_equals_literal_pipeline(crop, flip, fill):
    image = np.random.default_rng(0).integers(1, 256, (61, 83, 3), dtype=np.uint8)
    view = View((61, 83), (121, 167), (280, 300), crop, (64, 64), flip)
    np.testing.assert_array_equal(view.apply_image(image, fill), literal(view, image, fill))


def test_random_views_equal_literal_pipeline():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for _ in range(50):
        x, y = rng.integers(0, 190, 2)
        w, h = rng.integers(1, 200 - np.array((x, y)) + 1)
        resized = tuple(int(v) for v in rng.integers(10, 200, 2))
        view = View((48, 64), resized, (200, 200), (x, y, w, h), (32, 32), bool(rng.random() < 0.5))
        np.testing.assert_array_equal(view.apply_image(image), literal(view, image, 0))


def test_no_resize_when_crop_has_output_size():
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    view = View((40, 40), (40, 40), (60, 60), (10, 10, 32, 32), (32, 32))
    np.testing.assert_array_equal(view.apply_image(image), image[:32, :32])


@pytest.mark.parametrize("resized, canvas", [((7, 10), (16, 16)), ((8, 9), (15, 16))])
def test_odd_padding_goes_to_bottom_and_right(resized, canvas):
    top, left = center_pad(resized, canvas)
    bottom, right = canvas[0] - resized[0] - top, canvas[1] - resized[1] - left
    assert (bottom - top, right - left) == ((canvas[0] - resized[0]) % 2, 1 - (resized[1] % 2 == 0))


def test_pixels_and_boxes_move_together():
    """A white rectangle stays where its box goes, up to a resampled border of one output pixel."""
    rng = np.random.default_rng(2)
    for _ in range(30):
        image = np.zeros((120, 160, 3), np.uint8)
        image[30:90, 40:70] = 255
        x, y = rng.integers(0, 100, 2)
        w, h = rng.integers(250, 340, 2)
        view = View(
            (120, 160), (300, 380), (450, 450), (x, y, w, h), (256, 256), bool(rng.random() < 0.5)
        )
        box, keep = clip_with_visibility(view.apply_boxes([[40, 30, 70, 90]]), view.output)
        rows, columns = np.nonzero(view.apply_image(image)[..., 0] >= 128)
        if not keep[0]:
            assert len(rows) == 0
            continue
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(found, box[0], atol=1.01)


def test_flip_twice_is_identity():
    boxes = np.array([[3.0, 4.0, 20.0, 30.0]])
    view = View.resize((40, 50), (40, 50), flip=True)
    assert view.apply_boxes(boxes)[0].tolist() == [30, 4, 47, 30]
    np.testing.assert_array_equal(view.apply_boxes(view.apply_boxes(boxes)), boxes)


def test_visibility_filter():
    """Areas 0.39, 0.4 and 0.41 of a box inside; nothing inside; no area at all."""
    boxes = np.array(
        [[-61, 0, 39, 10], [-60, 0, 40, 10], [-59, 0, 41, 10], [-9, 0, 0, 9], [5, 5, 5, 9]], float
    )
    clipped, keep = clip_with_visibility(boxes, (50, 50), 0.4)
    assert keep.tolist() == [False, True, True, False, False]
    assert clipped[1].tolist() == [0, 0, 40, 10]
    assert clip_with_visibility(boxes, (50, 50))[1].tolist() == [True, True, True, False, False]


def test_no_boxes_keep_their_shape():
    view = View((10, 20), (20, 40), (50, 50), (0, 0, 30, 30), (16, 16), True)
    boxes, keep = clip_with_visibility(view.apply_boxes(np.zeros((0, 4))), view.output, 0.4)
    assert boxes.shape == (0, 4) and keep.shape == (0,)


def test_wrong_image_size_is_refused():
    with pytest.raises(ValueError, match=r"\(10, 20\), found \(20, 10\)"):
        View.resize((10, 20), (20, 40)).apply_image(np.zeros((20, 10, 3), np.uint8))
