"""A crop of a person becomes a scene."""

import numpy as np
import pytest

from spnet_d2.search.crop import scene_around


@pytest.mark.parametrize("size", [(1, 1), (107, 59), (40, 200)])
def test_the_crop_is_in_the_middle_of_a_scene_of_its_borders_colour(size):
    crop = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    crop[[0, -1]] = crop[:, [0, -1]] = (10, 20, 30)
    scene, (x1, y1, x2, y2) = scene_around(crop)
    inside = scene[int(y1) : int(y2), int(x1) : int(x2)]
    assert np.array_equal(inside, crop)
    outside = scene.astype(int) - [10, 20, 30]
    outside[int(y1) : int(y2), int(x1) : int(x2)] = 0
    assert not outside.any()
    height, width = scene.shape[:2]
    assert height >= 5 * size[0] and width >= 5 * size[1] and abs(width / height - 4 / 3) < 0.15
    assert abs((x1 + x2) / 2 - width / 2) <= 1 and abs((y1 + y2) / 2 - height / 2) <= 1


def test_large_crops_take_little_memory():
    crop = np.full((6000, 3000, 3), 200, np.uint8)
    scene, (x1, y1, x2, y2) = scene_around(crop)
    assert scene.size < 2e7 and (x2 - x1, y2 - y1) == (192, 384)
    assert (scene == 200).all()
