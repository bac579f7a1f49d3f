"""Images that the tools draw for people, told from the images that they read.

A sheet that lies in a folder of images would be searched, or shown, like one of them. It carries a
mark, so that it is known wherever it is moved.
"""

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from spnet_d2.utils.atomic_io import atomic_path

_TEXT = b"Software\0spnet_d2"
_CHUNK = b"tEXt" + _TEXT
# PNG's signature and first chunk have a fixed length; the mark comes next.
_HEAD = 33
_MARK = struct.pack(">I", len(_TEXT)) + _CHUNK + struct.pack(">I", zlib.crc32(_CHUNK))


def write_own_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 BGR as a PNG with the mark, atomically.

    Raises:
        OSError: it could not be written.
    """
    _, encoded = cv2.imencode(".png", image)
    data = encoded.tobytes()
    with atomic_path(path) as part:
        part.write_bytes(data[:_HEAD] + _MARK + data[_HEAD:])


def is_own_image(path: str | os.PathLike) -> bool:
    """Whether a file was written by :func:`write_own_image`."""
    if Path(path).suffix.lower() != ".png":
        return False
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD + len(_MARK)).endswith(_MARK)
    except OSError:
        return False
