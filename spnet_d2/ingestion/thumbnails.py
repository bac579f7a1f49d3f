"""Thumbnails: JPEG crops of people, one file per unit of work; the index does without them.

A file is a zip without compression, so that any program opens it; a crop's key is ``UNIT/ROW``.
"""

import re
import zipfile
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from spnet_d2.gallery.errors import GalleryError
from spnet_d2.utils.atomic_io import atomic_path

_HEIGHT = 192
_QUALITY = 85
_KEY = re.compile(r"([0-9a-f]{24})/(\d+)")


def make_thumbnail(image: np.ndarray, box: Sequence[float]) -> bytes:
    """
    A person's crop as JPEG, 192 pixels high at most, with a little of what is around.

    Args:
        image: (H, W, 3) uint8 BGR.
        box: xyxy.
    """
    x1, y1, x2, y2 = (float(v) for v in box)
    margin = 0.06 * (y2 - y1)
    height, width = image.shape[:2]
    # Never empty, wherever the box lies.
    left = min(max(0, int(x1 - margin)), width - 1)
    top = min(max(0, int(y1 - margin)), height - 1)
    right, bottom = max(int(x2 + margin) + 1, left + 1), max(int(y2 + margin) + 1, top + 1)
    crop = image[top:bottom, left:right]
    scale = min(1.0, _HEIGHT / crop.shape[0])
    if scale < 1:
        size = max(1, round(crop.shape[1] * scale)), max(1, round(crop.shape[0] * scale))
        crop = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()


class Thumbnails:
    """The crops of a gallery, in a folder of zip files."""

    def __init__(self, folder: Path):
        self._folder = folder

    def write(self, unit: str, crops: Sequence[bytes]) -> None:
        """Keep a unit's crops, in the order of its rows; none: no file."""
        if crops:
            self._write(unit, dict(enumerate(crops)))

    def read(self, key: str) -> bytes | None:
        """JPEG of a key of :class:`~spnet_d2.gallery.People`; None if it is not kept."""
        match = _KEY.fullmatch(key)
        if match is None:
            return None
        try:
            with zipfile.ZipFile(self._file(match[1])) as archive:
                return archive.read(match[2])
        except (OSError, KeyError, zipfile.BadZipFile):
            return None

    def delete_unit(self, unit: str) -> None:
        self._file(unit).unlink(missing_ok=True)

    def delete(self, keys: Collection[str]) -> None:
        """Remove single crops: their files are written anew without them."""
        rows: dict[str, set[int]] = {}
        for match in filter(None, map(_KEY.fullmatch, keys)):
            rows.setdefault(match[1], set()).add(int(match[2]))
        for unit, gone in rows.items():
            with suppress(FileNotFoundError), zipfile.ZipFile(self._file(unit)) as archive:
                kept = {int(n): archive.read(n) for n in archive.namelist() if int(n) not in gone}
                if kept:
                    self._write(unit, kept)
                else:
                    self.delete_unit(unit)

    def problems(self) -> list[str]:
        """Damaged files, one sentence each."""
        found = []
        for file in sorted(self._folder.glob("*/*.zip")):
            try:
                with zipfile.ZipFile(file) as archive:
                    damaged = archive.testzip() is not None
            except (OSError, zipfile.BadZipFile):
                damaged = True
            if damaged:
                found.append(f"Thumbnails {file} are damaged: delete the file; search works on.")
        return found

    def _write(self, unit: str, crops: dict[int, bytes]) -> None:
        with (
            atomic_path(self._file(unit)) as part,
            zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive,
        ):
            for row, data in crops.items():
                archive.writestr(str(row), data)

    def _file(self, unit: str) -> Path:
        if not re.fullmatch(r"[0-9a-f]{24}", unit):
            raise GalleryError(f"{unit!r} is no unit of work.")
        return self._folder / unit[:2] / f"{unit}.zip"
