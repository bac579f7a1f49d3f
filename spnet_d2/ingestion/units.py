"""Units of work: a span of a video, or images of a folder, indexed as a whole or not at all."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from spnet_d2.data.image_reader import is_image_name
from spnet_d2.data.own_images import is_own_image
from spnet_d2.gallery.errors import GalleryError
from spnet_d2.search.frames import natural_order

from . import clips
from .sources import Source

# Images of a folder that make one unit.
IMAGES_PER_UNIT = 200
_SAMPLE = 1 << 16


@dataclass(frozen=True)
class Picture:
    """
    An image of a folder.

    Attributes:
        frame: its number in the gallery; it keeps it.
        file: relative to the folder, with "/".
        stamp: size and time of change, by which a changed file is known.
    """

    frame: int
    file: str
    stamp: str


@dataclass(frozen=True)
class Unit:
    """
    Attributes:
        key: names the unit, its rows in the store (``People.batches``), and its files; it depends
            on source, content, span, model and settings.
        source: name of the source.
        since, before: seconds, of a video's span.
        pictures: of a folder.
    """

    key: str
    source: str
    since: float = 0.0
    before: float | None = None
    pictures: tuple[Picture, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Unit":
        pictures = tuple(Picture(**picture) for picture in content["pictures"])
        return cls(**{**content, "pictures": pictures})


@dataclass
class FolderState:
    """
    What an index knows of a folder's images so far.

    Attributes:
        known: latest picture of each file.
        next_frame: first number that was never used.
    """

    known: dict[str, Picture] = field(default_factory=dict)
    next_frame: int = 0

    @classmethod
    def of(cls, units: Iterable[Unit]) -> "FolderState":
        state = cls()
        for picture in sorted((p for u in units for p in u.pictures), key=lambda p: p.frame):
            state.known[picture.file] = picture
            state.next_frame = picture.frame + 1
        return state


def plan_video(source: Source, settings: str, segment_seconds: float) -> list[Unit]:
    """
    The spans of a video.

    Args:
        source: the video.
        settings: all that the result depends on beside the footage, as text.
        segment_seconds: of a span.

    Raises:
        GalleryError: no video.
    """
    content = _sampled_content(source.place)
    length = clips.duration(source.place)
    count = max(1, -(-int(length * 1000) // int(segment_seconds * 1000)))
    units = []
    for i in range(count):
        since = i * segment_seconds
        # What the header says of the length may be wrong: the last span has no end.
        before = None if i == count - 1 else since + segment_seconds
        key = _key(source, settings, content, since, before)
        units.append(Unit(key, source.name, since, before))
    return units


def plan_folder(
    source: Source,
    settings: str,
    done: Sequence[Unit],
    planned: Iterable[Unit] = (),
    size: int = IMAGES_PER_UNIT,
) -> tuple[list[Unit], list[Picture], list[Picture]]:
    """
    What is new in a folder and its sub-folders.

    Args:
        source: the folder.
        settings: as for :func:`plan_video`.
        done: units of it that are indexed.
        planned: units that other processes planned; those that still hold come first.
        size: images per unit.

    Returns:
        Units of images that are new or changed; earlier pictures of changed files; pictures whose
        files are gone.
    """
    now = list_images(source.place)
    before = FolderState.of(done)
    changed = [p for f, p in before.known.items() if f in now and now[f] != p.stamp]
    gone = [picture for file, picture in before.known.items() if file not in now]
    finished = {unit.key for unit in done}
    planned = [unit for unit in planned if unit.key not in finished]
    units = [unit for unit in planned if _still_holds(unit, source, settings, now)]
    state = FolderState.of([*done, *units])
    # Numbers are not used again, also those of plans that don't hold any more.
    first = FolderState.of([*done, *planned]).next_frame
    fresh = [f for f in now if f not in state.known or state.known[f].stamp != now[f]]
    pictures = [Picture(first + i, f, now[f]) for i, f in enumerate(fresh)]
    for start in range(0, len(pictures), size):
        part = tuple(pictures[start : start + size])
        key = _folder_key(source, settings, part)
        units.append(Unit(key, source.name, pictures=part))
    return units, changed, gone


def _folder_key(source: Source, settings: str, pictures: Iterable[Picture]) -> str:
    content = json.dumps([(p.frame, p.file, p.stamp) for p in pictures])
    return _key(source, settings, content)


def _still_holds(unit: Unit, source: Source, settings: str, now: Mapping[str, str]) -> bool:
    """Whether its images are as they were, and would be looked at in the same way."""
    same = all(now.get(p.file) == p.stamp for p in unit.pictures)
    return same and unit.key == _folder_key(source, settings, unit.pictures)


def list_images(folder: str) -> dict[str, str]:
    """
    Images of a folder and its sub-folders in natural order, with their stamps.

    Links to folders are not followed: they may go round in circles. Images that these tools drew
    are left out.

    Raises:
        GalleryError: it can't be listed.
    """

    def refused(error: OSError) -> None:
        raise GalleryError(f"{error.filename} can't be listed: {error.strerror}.") from error

    found = {}
    for root, folders, files in os.walk(folder, onerror=refused):
        folders.sort(key=natural_order)
        for name in sorted(files, key=natural_order):
            path = Path(root, name)
            if is_image_name(path) and path.is_file() and not is_own_image(path):
                stat = path.stat()
                file = path.relative_to(folder).as_posix()
                found[file] = f"{stat.st_size} {stat.st_mtime_ns}"
    return found


def _key(source: Source, settings: str, *content: object) -> str:
    described = [source.to_json(), settings, *content]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:24]


def _sampled_content(path: str) -> str:
    """Of a file's size, start, middle and end: hours of footage are not read just for this."""
    size = Path(path).stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for place in (0, size // 2, max(0, size - _SAMPLE)):
            file.seek(place)
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()
