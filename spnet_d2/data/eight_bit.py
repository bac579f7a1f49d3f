"""The authors' 8-bit detour: images are normalised, quantised to 8 bit, augmented, and restored.

n = (rgb / 255 - mean) / std is stretched from its own minimum m and range r to 0..255 and
truncated, the spatial augmentations act on these bytes, and the result is byte / 255 * r + m. So
each image loses up to one step r / 255 (0.0187 for a full-range image, 0.0093 on average), and
padding, byte 0, comes back as the minimum m in all three channels instead of black. Only needed to
repeat how the authors' models were trained and measured (``INPUT.EXACT_8BIT``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class EightBitRange:
    """What is needed to undo :func:`quantize`: minimum m and range r of the normalised image."""

    minimum: float
    range: float


def quantize(
    image: np.ndarray, pixel_mean: Sequence[float], pixel_std: Sequence[float]
) -> tuple[np.ndarray, EightBitRange]:
    """Normalise an image and stretch it to 8 bit.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        pixel_mean, pixel_std: 3 numbers each, on the scale 0..255.

    Returns:
        ``(H, W, 3)`` uint8, and the range to restore it with.
    """
    # 256 values per channel, so the per-pixel work is a table look-up.
    table = (np.arange(256)[:, None] - np.asarray(pixel_mean)) / np.asarray(pixel_std)
    channels = cv2.split(image)
    minimum = min(table[values.min(), c] for c, values in enumerate(channels))
    maximum = max(table[values.max(), c] for c, values in enumerate(channels))
    # No extent only if all channels agree after normalisation, never with ImageNet's statistics.
    extent = (maximum - minimum) or 1.0
    # Truncated, not rounded. Values that this image does not have may fall outside 0..1.
    steps = (np.clip((table - minimum) / extent, 0, 1) * 255).astype(np.uint8)
    return cv2.LUT(image, steps[None]), EightBitRange(float(minimum), float(extent))


def restore(
    coded: np.ndarray,
    found: EightBitRange,
    pixel_mean: Sequence[float],
    pixel_std: Sequence[float],
) -> np.ndarray:
    """Undo :func:`quantize` after the augmentation.

    Returns:
        ``(H, W, 3)`` float32 on the scale 0..255, which the model's own normalisation turns into
        byte / 255 * r + m.
    """
    normalised = np.arange(256)[:, None] * (found.range / 255) + found.minimum
    table = normalised * np.asarray(pixel_std) + np.asarray(pixel_mean)
    return cv2.LUT(coded, table.astype(np.float32)[None])
