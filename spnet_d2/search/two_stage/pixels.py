"""Images to the input of a network, and boxes back."""

from dataclasses import dataclass

import cv2
import numpy as np

from .settings import NetworkSettings


@dataclass(frozen=True)
class Placement:
    """
    Where an image lies in the network's input.

    Attributes:
        size: (height, width) it is resized to.
        offset: (top, left) of its corner.
        scale: (y, x) input pixels per image pixel.
    """

    size: tuple[int, int]
    offset: tuple[int, int]
    scale: tuple[float, float]

    @classmethod
    def of(cls, image: tuple[int, int], size: tuple[int, int], fit: str) -> "Placement":
        """
        Place an image.

        Args:
            image, size: (height, width) of the image and of the input.
            fit: as in :class:`~.settings.DetectorSettings`.
        """
        if fit == "stretch":
            return cls(size, (0, 0), (size[0] / image[0], size[1] / image[1]))
        ratio = min(size[0] / image[0], size[1] / image[1])
        # Cut as YOLO's own programs do; a line remains of extreme shapes.
        resized = (max(1, int(image[0] * ratio)), max(1, int(image[1] * ratio)))
        rest = [s - r for s, r in zip(size, resized)]
        offset = (0, 0) if fit == "top_left" else (rest[0] // 2, rest[1] // 2)
        return cls(resized, offset, (ratio, ratio))

    def boxes_in_image(self, boxes: np.ndarray) -> np.ndarray:
        """xyxy (N, 4) from input pixels to image pixels."""
        top, left = self.offset
        shifted = boxes - np.array([left, top, left, top])
        y, x = self.scale
        return shifted / np.array([x, y, x, y])

    def boxes_in_input(self, boxes: np.ndarray) -> np.ndarray:
        """xyxy (N, 4) from image pixels to input pixels."""
        top, left = self.offset
        y, x = self.scale
        return boxes * np.array([x, y, x, y]) + np.array([left, top, left, top])


def place(
    image: np.ndarray, size: tuple[int, int], placement: Placement, padding: float
) -> np.ndarray:
    """(H, W, 3) uint8 resized and padded to ``size``."""
    height, width = placement.size
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    if placement.size == tuple(size):
        return resized
    canvas = np.full((*size, 3), padding, np.uint8)
    top, left = placement.offset
    canvas[top : top + height, left : left + width] = resized
    return canvas


def to_input(image: np.ndarray, settings: NetworkSettings, image_format: str) -> np.ndarray:
    """
    (3, H, W) float32 of an image of the network's size.

    Args:
        image: (H, W, 3) uint8.
        settings: channel order, mean, std and scale.
        image_format: channel order of ``image``.
    """
    if image_format != settings.channels:
        image = image[:, :, ::-1]
    mean, std = (np.array(v, np.float32) for v in (settings.mean, settings.std))
    values = (image.astype(np.float32) / np.float32(settings.scale) - mean) / std
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def crop(image: np.ndarray, box) -> np.ndarray:
    """The pixels of an xyxy box, which is clipped; at least one pixel is taken."""
    height, width = image.shape[:2]
    x1, y1 = (int(np.clip(np.floor(v), 0, s - 1)) for v, s in zip(box[:2], (width, height)))
    x2, y2 = (
        int(np.clip(np.ceil(v), low + 1, side))
        for v, low, side in zip(box[2:], (x1, y1), (width, height))
    )
    return image[y1:y2, x1:x2]
