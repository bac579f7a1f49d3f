"""The 8-bit detour against its definition."""

import numpy as np
import pytest

from spnet_d2.data.eight_bit import quantize, restore

MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


def normalise(image):
    return (image.astype(np.float64) - MEAN) / STD


def test_full_range_image():
    """m = -2.1179, r = 4.7579, mean bias -0.0093, and never more than one step of 0.01866."""
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    coded, found = quantize(image, MEAN, STD)
    assert found.minimum == pytest.approx(-2.1179, abs=1e-4)
    assert found.range == pytest.approx(4.7579, abs=1e-4)
    step = found.range / 255
    assert step == pytest.approx(0.01866, abs=1e-5)
    # Definition: trunc(255 (n - m) / r), with a grain of salt where 255 (n - m) / r is an integer.
    exact = 255 * (normalise(image) - found.minimum) / found.range
    assert ((coded == np.floor(exact - 1e-6)) | (coded == np.floor(exact + 1e-6))).all()
    assert coded.min() == 0 and coded.max() == 255

    error = normalise(restore(coded, found, MEAN, STD)) - normalise(image)
    assert error.mean() == pytest.approx(-0.0093, abs=2e-4)
    assert error.max() < 1e-5 and error.min() > -step - 1e-5


def test_uniform_grey():
    image = np.full((4, 4, 3), 128, np.uint8)
    coded, found = quantize(image, MEAN, STD)
    assert found.minimum == pytest.approx(0.074, abs=1e-3)
    assert found.range == pytest.approx(0.352, abs=1e-3)
    assert sorted({tuple(pixel) for pixel in coded.reshape(-1, 3)})[0][0] == 0
    assert coded.max() == 255


def test_padding_is_the_minimum_in_all_channels():
    image = np.random.default_rng(0).integers(40, 200, (20, 20, 3), dtype=np.uint8)
    _, found = quantize(image, MEAN, STD)
    pad = normalise(restore(np.zeros((1, 1, 3), np.uint8), found, MEAN, STD))[0, 0]
    np.testing.assert_allclose(pad, normalise(image).min(), atol=1e-5)


def test_no_extent_does_not_divide_by_zero():
    coded, found = quantize(np.full((2, 2, 3), 9, np.uint8), np.zeros(3), np.ones(3))
    np.testing.assert_array_equal(restore(coded, found, np.zeros(3), np.ones(3)), 9)
