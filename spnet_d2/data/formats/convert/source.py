"""What every reader of a foreign format returns: images with boxes, classes, and what was left out.

A reader only says what its file holds. Which class is a person, who is who and what becomes an
ignore region is decided once for all formats, in ``build.py``.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spnet_d2.errors import UserError

XYWH = tuple[float, float, float, float]


class SourceError(UserError, ValueError):
    """Input that can't be converted; the message names the file, the place in it and what to do."""


def bad(path: str | Path, message: str, line: int | None = None) -> SourceError:
    """The error for one place of a file, ``path:line: message``."""
    place = f"{path}:{line}" if line is not None else f"{path}"
    return SourceError(f"{place}: {message}")


@dataclass
class SourceBox:
    """One box of a file.

    Attributes:
        bbox: x, y, w, h in pixels from 0 at the top left, as annotated.
        class_id: key of :attr:`Source.classes`.
        track: who it is within the sequence, None where the file doesn't say.
        ignore: why the box counts neither for nor against a detection; "" for ordinary boxes.
        visibility: visible share, 0 to 1, None where the file doesn't say.
        attributes: further values by name, as text.
    """

    bbox: XYWH
    class_id: str
    track: str | None = None
    ignore: str = ""
    visibility: float | None = None
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass
class SourceImage:
    """One image of a file.

    Attributes:
        file_name: relative to :attr:`Source.root`.
        width, height: of the image in pixels, upright.
        boxes: everything annotated in it.
        sequence: video or sequence, "" if there is none. Track numbers count within it.
        camera: "" where nothing is known of cameras; default: the sequence.
        frame: number of the frame in its sequence, as the file counts.
    """

    file_name: str
    width: int
    height: int
    boxes: list[SourceBox] = field(default_factory=list)
    sequence: str = ""
    camera: str | None = None
    frame: int | None = None


@dataclass
class Source:
    """Everything a reader found.

    Attributes:
        root: folder of the images; a video file where frames are still to be taken out of it.
        images: in the order of the file, frames of a sequence ascending.
        classes: name of each class id.
        persons: class ids that are a person by the format's own definition; empty: by name.
        ignored: class ids whose boxes are ignore regions by the format's own definition.
        fps: frames per second by sequence, where known.
        dropped: boxes and shapes that can't be used, by reason.
        notes: what else a user should know.
    """

    root: Path
    images: list[SourceImage]
    classes: dict[str, str]
    persons: Sequence[str] = ()
    ignored: Sequence[str] = ()
    fps: dict[str, float] = field(default_factory=dict)
    dropped: Counter = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def rotated_bounds(bbox: XYWH, degrees: float, about: tuple[float, float]) -> XYWH:
    """The upright box around a rotated one.

    Args:
        bbox: x, y, w, h before rotation.
        degrees: clockwise, as one sees it in the image.
        about: the fixed point, x and y.
    """
    x, y, width, height = bbox
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [(x, y), (x + width, y), (x, y + height), (x + width, y + height)]
    xs = [about[0] + (cx - about[0]) * cos - (cy - about[1]) * sin for cx, cy in corners]
    ys = [about[1] + (cx - about[0]) * sin + (cy - about[1]) * cos for cx, cy in corners]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def read_text(path: Path) -> str:
    """The text of a file; :class:`SourceError` where it is not UTF-8 or can't be read."""
    try:
        # Some tools begin with a byte order mark.
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise bad(path, f"is not text in UTF-8 (byte {error.start})", line) from error
    except OSError as error:
        raise bad(path, f"cannot be read ({error.strerror})") from error


def number(text: str | float | None, what: str, path: str | Path, line: int | None = None) -> float:
    """A finite number, or :class:`SourceError` naming ``what`` and the place."""
    try:
        value = float("" if text is None else text)
    except (TypeError, ValueError):
        raise bad(path, f"{what} must be a number, found {text!r}", line) from None
    if not math.isfinite(value):
        raise bad(path, f"{what} must be finite, found {text!r}", line)
    return value
