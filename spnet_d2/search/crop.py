"""A crop of a person as a scene, for models that compare people as they look within one."""

import cv2
import numpy as np

# A scene is this many times as high as its person, and its sides are those of most footage.
# Enlarged to the size of a scene, a crop alone shows the person larger than any that the model
# learnt from.
_TIMES = 5
_SIDES = 4 / 3
# Pixels of the crop at most: scenes are made smaller anyway.
_LARGEST = 384


def scene_around(crop: np.ndarray) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """
    A scene of the colour of the crop's border, with the crop in its middle.

    Args:
        crop: (H, W, 3) uint8, of a person and not much else.

    Returns:
        The scene (H', W', 3), and the xyxy of the crop in it.
    """
    scale = min(1.0, _LARGEST / max(crop.shape[:2]))
    if scale < 1:
        crop = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    height, width = crop.shape[:2]
    size = _TIMES * max(height, round(width / _SIDES))
    border = np.concatenate([crop[0], crop[-1], crop[:, 0], crop[:, -1]])
    colour = np.median(border, axis=0).astype(np.uint8)
    scene = np.broadcast_to(colour, (size, round(size * _SIDES), 3)).copy()
    y, x = (scene.shape[0] - height) // 2, (scene.shape[1] - width) // 2
    scene[y : y + height, x : x + width] = crop
    return scene, (float(x), float(y), float(x + width), float(y + height))
