"""Small files as the tools write them."""

from pathlib import Path

import cv2
import numpy as np

SHARED = Path(__file__).resolve().parents[5] / "shared" / "data"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def image(path, width=64, height=48):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 120, np.uint8))
    return path


def boxes(source, place=0):
    """(class, track, box rounded to 2 digits, why ignored) of an image."""
    return [
        (box.class_id, box.track, tuple(round(value, 2) for value in box.bbox), box.ignore)
        for box in source.images[place].boxes
    ]
