"""How an image fills a network's input, and boxes find back."""

from pathlib import Path

import numpy as np
import pytest

from spnet_d2.search.two_stage.pixels import Placement, crop, place, to_input
from spnet_d2.search.two_stage.settings import FITS, NetworkSettings


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("image", [(480, 640), (100, 37), (7, 900), (416, 416), (1, 5)])
def test_boxes_find_back(fit, image):
    boxes = np.random.default_rng(0).uniform(0, 1, (20, 4)) * [*image[::-1], *image[::-1]]
    placement = Placement.of(image, (320, 544), fit)
    there = placement.boxes_in_input(boxes)
    np.testing.assert_allclose(placement.boxes_in_image(there), boxes, atol=1e-9)


def test_padding_below_and_right_or_around():
    image = np.full((10, 40, 3), 200, np.uint8)
    below = place(image, (40, 80), Placement.of((10, 40), (40, 80), "top_left"), 114)
    assert (below[:20] == 200).all() and (below[20:] == 114).all()
    around = place(image, (40, 80), Placement.of((10, 40), (40, 80), "centre"), 7)
    assert (around[10:30] == 200).all()
    assert (around[:10] == 7).all() and (around[30:] == 7).all()
    stretched = place(image, (40, 80), Placement.of((10, 40), (40, 80), "stretch"), 7)
    assert (stretched == 200).all()


def test_a_person_lies_where_the_box_says():
    image = np.zeros((100, 60, 3), np.uint8)
    image[20:80, 10:30] = 255
    for fit in FITS:
        placement = Placement.of(image.shape[:2], (50, 50), fit)
        placed = place(image, (50, 50), placement, 0)
        x1, y1, x2, y2 = placement.boxes_in_input(np.array([[10, 20, 30, 80]]))[0]
        ys, xs = np.nonzero(placed[:, :, 0] > 127)
        np.testing.assert_allclose(
            [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], [x1, y1, x2, y2], atol=1
        )


@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
def test_input_is_normalised_in_the_networks_order(image_format):
    settings = NetworkSettings(
        network=Path("x"),
        licence="none",
        size=(1, 1),
        channels="RGB",
        mean=(0.1, 0.2, 0.3),
        std=(1, 2, 4),
        scale=255,
    )
    rgb = [51, 102, 255]
    image = np.array([[rgb if image_format == "RGB" else rgb[::-1]]], np.uint8)
    expected = [(0.2 - 0.1) / 1, (0.4 - 0.2) / 2, (1 - 0.3) / 4]
    np.testing.assert_allclose(to_input(image, settings, image_format).ravel(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("box", "shape"),
    [
        ((1.2, 2.7, 3.1, 4.0), (2, 3)),
        ((-5, -5, 100, 100), (10, 20)),
        ((5, 5, 5, 5), (1, 1)),
        ((20, 10, 30, 30), (1, 1)),
        ((-9, -9, -3, -3), (1, 1)),
    ],
)
def test_a_crop_has_at_least_a_pixel(box, shape):
    assert crop(np.zeros((10, 20, 3), np.uint8), box).shape[:2] == shape
