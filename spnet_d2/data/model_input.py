"""Pixels -> the model's image: one way for training, evaluation and search."""

from collections.abc import Sequence

import numpy as np
import torch

from spnet_d2.data.eight_bit import quantize, restore
from spnet_d2.data.geometry import View


def model_image(
    image: np.ndarray,
    view: View,
    exact_8bit: bool,
    pixel_mean: Sequence[float],
    pixel_std: Sequence[float],
) -> torch.Tensor:
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
    image = np.ascontiguousarray(image)
    if exact_8bit:
        coded, found = quantize(image, pixel_mean, pixel_std)
        image = restore(view.apply_image(coded), found, pixel_mean, pixel_std)
    else:
        image = view.apply_image(image)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
