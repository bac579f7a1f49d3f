"""Where gallery frames come from: a folder of images, a list of them, or a video.

Sources stream: one frame is in memory at a time. Broken images are skipped and remembered in
``skipped``, other entries of the folder in ``left_out``; every other wrong input is one
:class:`SearchInputError`.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spnet_d2.data import image_reader
from spnet_d2.data.image_reader import image_suffixes, is_image_name
from spnet_d2.data.own_images import is_own_image
from spnet_d2.data.video_reader import UnreadableVideoError, VideoReader
from spnet_d2.errors import SearchInputError

logger = logging.getLogger(__name__)

# Only for messages: what may be a video is found out by opening it.
_VIDEO_SUFFIXES = {
    ".avi",
    ".m4v",
    ".mjpeg",
    ".mkv",
    ".mov",
    ".mp4",
    ".mpeg",
    ".mpg",
    ".ts",
    ".webm",
}
_VIDEO_SUFFIXES |= {".264", ".265", ".flv", ".h264", ".h265", ".hevc", ".mts", ".wmv"}


@dataclass(frozen=True)
class Frame:
    """
    One image of a gallery.

    Attributes:
        number: place in the source, from 0: of the file in the sorted folder, or of the frame in
            the video (frames that are stepped over count).
        file: path of the image, or of the video.
        time: seconds from the start of the video, as the file states them; None for images, and
            where a video states none.
        image: (H, W, 3) uint8 BGR, upright.
    """

    number: int
    file: str
    time: float | None
    image: np.ndarray


def read_image_bgr(path: str | os.PathLike) -> np.ndarray:
    """
    Read an image as (H, W, 3) uint8 BGR, upright, as :mod:`spnet_d2.data.image_reader` does.

    Raises:
        SearchInputError: no such file, or no image that can be read.
    """
    path = Path(path)
    if not path.is_file():
        raise SearchInputError(f"No image at {path.absolute()}; check the path.")
    try:
        return image_reader.read_image_bgr(path, refuse_damaged=True)
    except (OSError, ValueError) as error:
        raise SearchInputError(
            f"{path} is not an image that can be read: {getattr(error, 'reason', '') or error}."
        ) from error


def natural_order(path: str | os.PathLike) -> tuple:
    """Sorting key: numbers in names count as numbers, so ``frame2`` comes before ``frame10``."""
    name = Path(path).name
    parts = re.split(r"([0-9]+)", name)
    return [(int(p), "") if i % 2 else (-1, p) for i, p in enumerate(parts)], name


class ImageFolder:
    """
    The images of a folder (not of its sub-folders) in natural order, or a list of image files.

    Attributes:
        skipped: files that could not be read so far.
        left_out: what else is in the folder, as words: ``{"other files (.txt)": 4}``.
    """

    def __init__(
        self,
        source: str | os.PathLike | Iterable[str | os.PathLike],
        every: int = 1,
        exclude: Collection[str | os.PathLike] = (),
    ):
        """
        Args:
            source: a folder, or paths of images.
            every: take each ``every``-th image, the first one included.
            exclude: files of the folder to leave out, such as those about to be written there.
                Images that the tools drew themselves are left out anyway.

        Raises:
            SearchInputError: no such folder, or no image in it.
        """
        self.every = _check_every(every)
        self.skipped: list[str] = []
        self.left_out: dict[str, int] = {}
        if isinstance(source, str | os.PathLike):
            self.name = str(source)
            if not Path(source).is_dir():
                raise SearchInputError(f"No folder at {Path(source).absolute()}; check the path.")
            self.files = self._list(Path(source), {os.path.abspath(path) for path in exclude})
        else:
            self.files = [Path(p) for p in source]
            self.name = f"{len(self.files)} images"
        if not self.files:
            raise SearchInputError(
                f"No images in {self.name}; expected files ending in "
                f"{' '.join(image_suffixes())}.{self._instead()}"
            )

    def __len__(self) -> int:
        """Number of images that will be tried."""
        return -(-len(self.files) // self.every)

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def frames(self, done: Collection[int] = ()) -> Iterator[Frame]:
        """The frames; those whose number is in ``done`` are not read."""
        self.skipped.clear()
        for number in range(0, len(self.files), self.every):
            if number in done:
                continue
            path = self.files[number]
            try:
                image = read_image_bgr(path)
            except SearchInputError as error:
                logger.warning("Skipped: %s", error)
                self.skipped.append(str(path))
                continue
            yield Frame(number, str(path), None, image)

    def _list(self, folder: Path, exclude: set[str]) -> list[Path]:
        files = []
        left_out: Counter[str] = Counter()
        try:
            entries = sorted(folder.iterdir(), key=natural_order)
        except OSError as error:
            raise SearchInputError(f"Cannot list the folder {folder}: {error}") from error
        for path in entries:
            kind = self._kind(path, exclude)
            if kind:
                left_out[kind] += 1
            else:
                files.append(path)
        self.left_out = dict(sorted(left_out.items()))
        return files

    @staticmethod
    def _kind(path: Path, exclude: set[str]) -> str:
        """What an entry of the folder is; "" if it is an image to search."""
        if path.is_dir():
            return "sub-folders"
        if path.is_symlink() and not path.exists():
            return "dangling links"
        if not path.is_file():
            return "special files"
        if os.path.abspath(path) in exclude or is_own_image(path):
            return "images drawn by these tools"
        suffix = path.suffix.lower()
        if is_image_name(path):
            return ""
        if suffix in _VIDEO_SUFFIXES:
            return f"videos ({suffix})"
        return f"other files ({suffix or 'no suffix'})"

    def _instead(self) -> str:
        """What is there where no image is, and what to do."""
        if not self.left_out:
            return " The folder is empty." if Path(self.name).is_dir() else ""
        text = f" There are {describe_left_out(self.left_out)}."
        if "sub-folders" in self.left_out:
            text += " Sub-folders are not searched: give one of them."
        if any(kind.startswith("videos") for kind in self.left_out):
            text += " Videos in a folder are not searched: give one of them."
        return text


def describe_left_out(left_out: dict[str, int]) -> str:
    """``{"other files (.txt)": 4, "sub-folders": 1}`` in words."""
    return ", ".join(f"{count} {_singular(kind, count)}" for kind, count in left_out.items())


def _singular(kind: str, count: int) -> str:
    if count > 1:
        return kind
    for many, one in (("files", "file"), ("folders", "folder"), ("links", "link")):
        kind = kind.replace(many, one)
    return kind.replace("videos", "video").replace("images", "image")


class VideoFile:
    """
    The frames of a video.

    Attributes:
        skipped, left_out: always empty; a damaged video ends early instead, with a warning.
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
        self.left_out: dict[str, int] = {}
        try:
            self._reader = VideoReader(path)
        except FileNotFoundError as error:
            raise SearchInputError(str(error)) from error
        except UnreadableVideoError as error:
            raise SearchInputError(
                f"{path} is neither a folder of images nor a video that can be read. {error}"
            ) from error

    def __len__(self) -> int:
        """Number of frames that will be tried, 0 where the file doesn't state it."""
        return -(-self._reader.num_frames // self.every)

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def frames(self, done: Collection[int] = ()) -> Iterator[Frame]:
        """The frames; those whose number is in ``done`` are stepped over."""

        def wanted(number: int) -> bool:
            return number % self.every == 0 and number not in done

        for frame in self._reader.frames(wanted):
            yield Frame(frame.number, self.name, frame.time, frame.image)
        if self._reader.problem:
            logger.warning(
                "%s: %s; the rest is damaged or the header is wrong.",
                self.name,
                self._reader.problem,
            )


def open_frames(
    path: str | os.PathLike, every: int = 1, exclude: Collection[str | os.PathLike] = ()
) -> ImageFolder | VideoFile:
    """
    Open a folder of images or a video.

    Args:
        path: folder or video file.
        every: take each ``every``-th image or frame.
        exclude: see :class:`ImageFolder`.

    Raises:
        SearchInputError: nothing there, nothing in it, or nothing readable.
    """
    # pathlib makes one slash of two.
    stream = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+):/", os.fspath(path))
    path = Path(path)
    if stream and not path.exists():
        raise SearchInputError(
            f"{path} is a stream ({stream[1]}), and streams are not supported: record it to a "
            "file, e.g. ffmpeg -i ADDRESS -c copy -t 3600 recording.mp4, and give that."
        )
    if path.is_dir():
        return ImageFolder(path, every, exclude)
    if not path.exists():
        raise SearchInputError(
            f"No gallery at {path.absolute()}; expected a folder of images or a video file."
        )
    if is_image_name(path):
        raise SearchInputError(
            f"{path} is a single image; expected a folder of images or a video file."
        )
    return VideoFile(path, every)


def iterate_frames(
    wanted: Iterable[tuple[str, int]],
) -> Iterator[tuple[tuple[str, int], np.ndarray | SearchInputError]]:
    """
    Read single frames again, e.g. those of matches: every file once, one frame in memory.

    Args:
        wanted: ``(file, number)`` as in :class:`Frame`; the number counts in videos only.

    Yields:
        ``(file, number)``, and (H, W, 3) uint8 BGR or why it can't be read, in any order.
    """
    in_files: dict[str, set[int]] = {}
    for file, number in wanted:
        in_files.setdefault(file, set()).add(number)
    for file, numbers in in_files.items():
        if not is_image_name(file):
            yield from _iterate_video(file, numbers)
            continue
        image: np.ndarray | SearchInputError
        try:
            image = read_image_bgr(file)
        except SearchInputError as error:
            image = error
        for number in sorted(numbers):
            yield (file, number), image


def _iterate_video(
    file: str, numbers: set[int]
) -> Iterator[tuple[tuple[str, int], np.ndarray | SearchInputError]]:
    missing, problem = set(numbers), None
    try:
        for frame in VideoReader(file).frames(numbers.__contains__):
            missing.discard(frame.number)
            yield (file, frame.number), frame.image
            if not missing:
                break
    except (OSError, ValueError) as error:
        problem = SearchInputError(str(error))
    for number in sorted(missing):
        yield (
            (file, number),
            problem
            or SearchInputError(
                f"{file} has no frame {number} any more; it changed since it was indexed."
            ),
        )


def read_frames(wanted: Iterable[tuple[str, int]]) -> dict[tuple[str, int], np.ndarray]:
    """
    :func:`iterate_frames` as a dict, which holds all frames in memory.

    Raises:
        SearchInputError: a file is gone or has fewer frames.
    """
    images = {}
    for place, image in iterate_frames(wanted):
        if isinstance(image, SearchInputError):
            raise image
        images[place] = image
    return images


def _check_every(every: int) -> int:
    if every < 1:
        raise SearchInputError(f"Expected to take every n-th frame with n >= 1, got {every}.")
    return every
