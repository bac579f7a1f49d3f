"""Where gallery frames come from: a folder of pictures, a list of them, or a video.

Sources stream: one frame is in memory at a time. Broken pictures are skipped and remembered in
``skipped``; everything else a user can get wrong is one :class:`SearchInputError`.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from .errors import SearchInputError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Frame:
    """
    One picture of a gallery.

    Attributes:
        number: place in the source, from 0: of the file in the sorted folder, or of the frame in
            the video (frames that are stepped over count).
        file: path of the picture, or of the video.
        time: seconds from the start of the video; None for pictures.
        image: (H, W, 3) uint8 BGR.
    """

    number: int
    file: str
    time: float | None
    image: np.ndarray


def read_picture(path: str | os.PathLike) -> np.ndarray:
    """
    Read a picture as (H, W, 3) uint8 BGR, upright (EXIF rotation is applied).

    Raises:
        SearchInputError: no such file, or not a picture OpenCV can read.
    """
    path = Path(path)
    if not path.is_file():
        raise SearchInputError(f"No picture at {path.absolute()}; check the path.")
    # Not imread: it prints its own warning and fails on some systems' non-ASCII paths.
    try:
        data = np.fromfile(path, np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except (OSError, cv2.error) as error:
        raise SearchInputError(f"Cannot read {path}: {error}") from error
    if image is None:
        raise SearchInputError(
            f"{path} is not a picture that OpenCV can read, or it is damaged "
            f"({path.stat().st_size} bytes); formats: {' '.join(IMAGE_SUFFIXES)}."
        )
    return image


class ImageFolder:
    """
    The pictures of a folder (not of its subfolders), sorted by name, or a list of picture files.

    Attributes:
        skipped: files that could not be read so far.
    """

    def __init__(self, source: str | os.PathLike | Iterable[str | os.PathLike], every: int = 1):
        """
        Args:
            source: a folder, or paths of pictures.
            every: take each ``every``-th picture, the first one included.

        Raises:
            SearchInputError: no such folder, or no picture in it.
        """
        self.every = _check_every(every)
        self.skipped: list[str] = []
        if isinstance(source, str | os.PathLike):
            folder = Path(source)
            self.name = str(folder)
            if not folder.is_dir():
                raise SearchInputError(f"No folder at {folder.absolute()}; check the path.")
            files = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
            self.files = sorted(p for p in files if p.is_file())
        else:
            self.files = [Path(p) for p in source]
            self.name = f"{len(self.files)} pictures"
        if not self.files:
            raise SearchInputError(
                f"No pictures in {self.name}; expected files ending in {' '.join(IMAGE_SUFFIXES)}."
            )

    def __len__(self) -> int:
        """Number of pictures that will be tried."""
        return -(-len(self.files) // self.every)

    def __iter__(self) -> Iterator[Frame]:
        self.skipped.clear()
        for number in range(0, len(self.files), self.every):
            path = self.files[number]
            try:
                image = read_picture(path)
            except SearchInputError as error:
                logger.warning("Skipped: %s", error)
                self.skipped.append(str(path))
                continue
            yield Frame(number, str(path), None, image)


class VideoFile:
    """
    The frames of a video.

    Attributes:
        skipped: always empty; a damaged video ends early instead, with a warning.
    """

    def __init__(self, path: str | os.PathLike, every: int = 1):
        """
        Args:
            path: any file OpenCV's ``VideoCapture`` reads.
            every: take each ``every``-th frame, the first one included.

        Raises:
            SearchInputError: no such file, or no frame can be read from it.
        """
        self.every = _check_every(every)
        self.name = str(path)
        self.skipped: list[str] = []
        if not Path(path).is_file():
            raise SearchInputError(f"No video at {Path(path).absolute()}; check the path.")
        capture = cv2.VideoCapture(self.name)
        try:
            readable = capture.isOpened() and capture.grab()
            self.fps = capture.get(cv2.CAP_PROP_FPS)
            self.num_frames = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        finally:
            capture.release()
        if not readable:
            raise SearchInputError(
                f"{path} is neither a folder of pictures nor a video that OpenCV "
                f"{cv2.__version__} can read; convert it, e.g. to .avi (MJPG) or .mp4 (H.264)."
            )

    def __len__(self) -> int:
        """Number of frames that will be tried, as the file's header has it."""
        return -(-self.num_frames // self.every)

    def __iter__(self) -> Iterator[Frame]:
        capture = cv2.VideoCapture(self.name)
        number = 0
        try:
            # Seeking is inexact in many formats, so every frame is stepped through.
            while capture.grab():
                if number % self.every == 0:
                    found, image = capture.retrieve()
                    if not found:
                        break
                    yield Frame(number, self.name, self.time(number), image)
                number += 1
        finally:
            capture.release()
        if number < self.num_frames:
            logger.warning(
                "%s: read %d of the %d frames its header announces; the rest is damaged or the "
                "header is wrong.",
                self.name,
                number,
                self.num_frames,
            )

    def time(self, number: int) -> float | None:
        """Seconds from the start to frame ``number``; None if the file does not say its rate."""
        return number / self.fps if np.isfinite(self.fps) and self.fps > 0 else None


def open_frames(path: str | os.PathLike, every: int = 1) -> ImageFolder | VideoFile:
    """
    Open a folder of pictures or a video.

    Args:
        path: folder or video file.
        every: take each ``every``-th picture or frame.

    Raises:
        SearchInputError: nothing there, nothing in it, or nothing readable.
    """
    path = Path(path)
    if path.is_dir():
        return ImageFolder(path, every)
    if not path.exists():
        raise SearchInputError(
            f"No gallery at {path.absolute()}; expected a folder of pictures or a video file."
        )
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise SearchInputError(
            f"{path} is a single picture; expected a folder of pictures or a video file."
        )
    return VideoFile(path, every)


def read_frames(wanted: Iterable[tuple[str, int]]) -> dict[tuple[str, int], np.ndarray]:
    """
    Read single frames again, e.g. those of matches.

    Args:
        wanted: ``(file, number)`` as in :class:`Frame`; the number counts in videos only.

    Returns:
        ``{(file, number): (H, W, 3) uint8 BGR}``.

    Raises:
        SearchInputError: a file is gone or has fewer frames.
    """
    images: dict[tuple[str, int], np.ndarray] = {}
    in_videos: dict[str, set[int]] = {}
    for file, number in wanted:
        if Path(file).suffix.lower() in IMAGE_SUFFIXES:
            images[file, number] = read_picture(file)
        else:
            in_videos.setdefault(file, set()).add(number)
    for file, numbers in in_videos.items():
        for frame in VideoFile(file):
            if frame.number in numbers:
                images[file, frame.number] = frame.image
            if frame.number == max(numbers):
                break
        missing = [number for number in numbers if (file, number) not in images]
        if missing:
            raise SearchInputError(
                f"{file} has no frame {min(missing)} any more; it changed since it was indexed."
            )
    return images


def _check_every(every: int) -> int:
    if every < 1:
        raise SearchInputError(f"Expected to take every n-th frame with n >= 1, got {every}.")
    return every
