"""Pixels -> the model's image: one way for training, evaluation and search."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spnet_d2.data.eight_bit import quantize, restore
from spnet_d2.data.geometry import View

if TYPE_CHECKING:
    import torch


def model_image(
    image: np.ndarray,
    view: View,
    exact_8bit: bool,
    pixel_mean: Sequence[float],
    pixel_std: Sequence[float],
) -> "torch.Tensor":
    """Resample an image and lay it out as SPNet takes it.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        view: where it goes.
        exact_8bit: repeat the authors' 8-bit detour (:mod:`spnet_d2.data.eight_bit`).
        pixel_mean, pixel_std: the model's statistics (0..255, RGB), for the detour.

    Returns:
        ``(3, h, w)`` RGB, 0..255: uint8, or float32 with ``exact_8bit``. Padding is black, with
        the detour the image's minimum.
    """
    # Not above: exported models are fed without PyTorch.
    import torch

    return torch.from_numpy(model_pixels(image, view, exact_8bit, pixel_mean, pixel_std))


def model_pixels(
    image: np.ndarray,
    view: View,
    exact_8bit: bool,
    pixel_mean: Sequence[float],
    pixel_std: Sequence[float],
) -> np.ndarray:
    """:func:`model_image` as an array, without PyTorch."""
    image = np.ascontiguousarray(image)
    if exact_8bit:
        coded, found = quantize(image, pixel_mean, pixel_std)
        image = restore(view.apply_image(coded), found, pixel_mean, pixel_std)
    else:
        image = view.apply_image(image)
    return np.ascontiguousarray(image.transpose(2, 0, 1))
