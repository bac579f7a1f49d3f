"""A mark in images that the tools draw, so that they are never read as data.

A sheet in a folder of images would be searched, or shown, like one of them. The mark stays in the
file wherever it is moved.
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
_PNG_MARK = struct.pack(">I", len(_TEXT)) + _CHUNK + struct.pack(">I", zlib.crc32(_CHUNK))
# A comment; its length counts itself.
_JPEG_MARK = b"\xff\xfe" + struct.pack(">H", 2 + len(_TEXT)) + _TEXT
# By suffix: how long the format's head is, and the mark behind it. PNG has a signature and a first
# chunk of fixed length, JPEG a marker of two bytes.
_MARKS = {".png": (33, _PNG_MARK), ".jpg": (2, _JPEG_MARK)}


def write_own_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 BGR with the mark, atomically.

    Args:
        path: ends in ``.png`` or ``.jpg``.
        image: what to write.

    Raises:
        OSError: it could not be written.
    """
    suffix = Path(path).suffix
    head, mark = _MARKS[suffix]
    _, encoded = cv2.imencode(suffix, image)
    data = encoded.tobytes()
    with atomic_path(path) as part:
        part.write_bytes(data[:head] + mark + data[head:])


def is_own_image(path: str | os.PathLike) -> bool:
    """Whether a file was written by :func:`write_own_image`."""
    head, mark = _MARKS.get(Path(path).suffix.lower(), (0, b""))
    if not mark:
        return False
    try:
        with open(path, "rb") as file:
            return file.read(head + len(mark)).endswith(mark)
    except OSError:
        return False
