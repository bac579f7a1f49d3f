"""One augmented view: resize -> centre pad -> crop -> resize -> flip, kept apart from pixels.

A :class:`View` says where everything goes; pixels and boxes then follow it. Boxes are float64 xyxy
pixel corners, ``(N, 4)``; sizes are ``(height, width)``; a crop is ``(x, y, width, height)``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

Size = tuple[int, int]
Crop = tuple[int, int, int, int]


@dataclass(frozen=True)
class View:
    """Where a source image goes.

    Args:
        source: size of the image as read.
        resized: size after the first resize.
        canvas: size of the canvas onto which the resized image is pasted at its centre.
        crop: the part of the canvas that is kept.
        output: size to which the crop is resized; the aspect ratio may change.
        flip: mirror left and right at the end.
    """

    source: Size
    resized: Size
    canvas: Size
    crop: Crop
    output: Size
    flip: bool = False

    @classmethod
    def resize(cls, source: Size, size: Size, flip: bool = False) -> "View":
        """The whole image at another size."""
        return cls(source, size, size, (0, 0, size[1], size[0]), size, flip)

    def apply_image(self, image: np.ndarray, fill: int = 0) -> np.ndarray:
        """Resample a ``(H, W, C)`` image with OpenCV's bilinear ``INTER_LINEAR``.

        The padded canvas (up to 3072 x 3072) is never built, only its part inside the crop.

        Args:
            image: image of size ``source``.
            fill: value of the padding.
        """
        if image.shape[:2] != self.source:
            raise ValueError(
                f"This view was made for an image of (height, width) {self.source}, "
                f"found {image.shape[:2]}. Sample a new view for each size."
            )
        image = _resize(image, self.resized)
        x, y, w, h = self.crop
        pad_top, pad_left = center_pad(self.resized, self.canvas)
        # The crop's corner in the resized image, negative inside the padding.
        top, left = y - pad_top, x - pad_left
        inside = image[max(top, 0) : max(top + h, 0), max(left, 0) : max(left + w, 0)]
        if inside.shape[:2] == (h, w):
            image = inside
        else:
            image = np.full((h, w) + image.shape[2:], fill, image.dtype)
            top, left = max(-top, 0), max(-left, 0)
            image[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
        image = _resize(image, self.output)
        if self.flip:
            image = image[:, ::-1]
        return np.ascontiguousarray(image)

    def apply_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Move ``(N, 4)`` boxes of the source into the output; they may leave the image."""
        boxes = boxes_on_canvas(boxes, self.source, self.resized, self.canvas)
        x, y, w, h = self.crop
        out_h, out_w = self.output
        boxes = (boxes - (x, y, x, y)) * (out_w / w, out_h / h, out_w / w, out_h / h)
        if self.flip:
            boxes = np.stack(
                [out_w - boxes[:, 2], boxes[:, 1], out_w - boxes[:, 0], boxes[:, 3]], axis=1
            )
        return boxes


def xywh_to_xyxy(boxes: np.ndarray | Sequence[Sequence[float]]) -> np.ndarray:
    """``(N, 4)`` left, top, width, height as float64 corners; a copy."""
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def xyxy_to_xywh(boxes: np.ndarray | Sequence[Sequence[float]]) -> np.ndarray:
    """``(N, 4)`` corners as float64 left, top, width, height; a copy."""
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def center_pad(resized: Size, canvas: Size) -> tuple[int, int]:
    """Padding (top, left); the odd pixel of an uneven pad goes to the bottom or right."""
    return (canvas[0] - resized[0]) // 2, (canvas[1] - resized[1]) // 2


def boxes_on_canvas(boxes: np.ndarray, source: Size, resized: Size, canvas: Size) -> np.ndarray:
    """Move ``(N, 4)`` boxes of an image along when it is resized and pasted onto a canvas."""
    scale_y, scale_x = resized[0] / source[0], resized[1] / source[1]
    top, left = center_pad(resized, canvas)
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    return boxes * (scale_x, scale_y, scale_x, scale_y) + (left, top, left, top)


def clip_with_visibility(
    boxes: np.ndarray, size: Size, min_visibility: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Clip boxes to the image and say which ones stay.

    Args:
        boxes: ``(N, 4)`` xyxy.
        size: (height, width) of the image.
        min_visibility: share of its area a box needs inside the image.

    Returns:
        All ``(N, 4)`` clipped boxes, and ``(N,)`` bool: enough of the box is visible, and some is.
    """
    h, w = size
    clipped = np.clip(boxes, 0, (w, h, w, h))
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    visible = np.prod(clipped[:, 2:] - clipped[:, :2], axis=1)
    return clipped, (visible > 0) & (visible >= min_visibility * area)


def _resize(image: np.ndarray, size: Size) -> np.ndarray:
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
