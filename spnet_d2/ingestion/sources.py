"""Where footage comes from: folders of images, video files, network streams."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from spnet_d2.gallery.errors import GalleryError

Kind = Literal["folder", "video", "stream"]
_STREAM = re.compile(r"(rtsp|rtsps|rtmp|http|https|udp|tcp|srt)://", re.IGNORECASE)
_KEYS = ("place", "camera", "start", "fps")


@dataclass(frozen=True)
class Source:
    """
    Footage of one camera.

    Attributes:
        name: what it is called in the gallery; one name, one source.
        place: absolute path of a folder or video, or a stream's address.
        camera: name of the camera; several sources may be of one camera.
        start: time of the first frame, with a time zone; None: unknown. Streams: when they are
            opened.
        fps: frames taken per second; for folders: how many images a second of footage has.
    """

    name: str
    place: str
    camera: str
    start: datetime | None = None
    fps: float = 1.0

    def __post_init__(self):
        if not self.name.strip():
            raise GalleryError("A source needs a name.")
        if not 0 < self.fps <= 1000:
            raise GalleryError(
                f'Source "{self.name}": fps must be more than 0 and at most 1000, found {self.fps}.'
            )
        if self.start is not None and self.start.tzinfo is None:
            raise GalleryError(
                f'Source "{self.name}": start {self.start.isoformat()} has no time zone; write it '
                "as in 2026-05-01T08:00:00+02:00, or with Z for UTC."
            )

    @property
    def kind(self) -> Kind:
        if _STREAM.match(self.place):
            return "stream"
        path = Path(self.place)
        # Of what is gone, too: videos have a suffix.
        return "folder" if path.is_dir() or not (path.exists() or path.suffix) else "video"

    @property
    def available(self) -> bool:
        """Whether the footage is still where it was."""
        return self.kind == "stream" or Path(self.place).exists()

    def position(self, frame: int) -> str:
        """
        Where in the source a frame is, for people to read: ``m:ss`` of a video, or its number.

        Args:
            frame: as in ``People.frames``: milliseconds from the start for videos.
        """
        if self.kind != "video":
            return f"frame {frame}"
        minutes, seconds = divmod(frame // 1000, 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

    def to_json(self) -> dict[str, Any]:
        start = None if self.start is None else self.start.isoformat()
        return {
            "name": self.name,
            "place": self.place,
            "camera": self.camera,
            "start": start,
            "fps": self.fps,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Source":
        start = content["start"]
        when = None if start is None else datetime.fromisoformat(start)
        return cls(**{**content, "start": when})


def parse_source(text: str) -> Source:
    """
    A source as ``NAME=PATH_OR_URL``, or ``PATH_OR_URL``, whose last part is its name then.

    The name is also the camera's.

    Raises:
        GalleryError: nothing there.
    """
    name, sign, place = text.partition("=")
    # An address may hold a "=", a name holds no "/".
    if not sign or "/" in name:
        name, place = "", text
    place = _absolute(place, Path.cwd())
    name = name or Path(place.rstrip("/")).stem
    return Source(name=name, place=place, camera=name)


def read_cameras(path: str | os.PathLike) -> list[Source]:
    """
    The sources of a ``cameras.yaml``: a mapping from names to places, or to keys.

    ::

        yard: yard.mp4
        gate:
          place: rtsp://192.168.1.20/stream
          camera: gate-north
          start: 2026-05-01T08:00:00+02:00
          fps: 2

    Paths are relative to the file.

    Raises:
        GalleryError: no such file, no YAML, or a source that can't be used.
    """
    file = Path(path)
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise GalleryError(f"{path} can't be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise GalleryError(f"{path} is no YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, Mapping) or not content:
        raise GalleryError(f"{path}: expected names of sources with their places.")
    return [_source(str(name), entry, file) for name, entry in content.items()]


def _source(name: str, entry: Any, file: Path) -> Source:
    entry = {"place": entry} if isinstance(entry, str) else entry
    where = f'{file}, source "{name}"'
    if not isinstance(entry, Mapping) or not isinstance(entry.get("place"), str):
        raise GalleryError(f"{where}: expected a path or an address, or `place:` with one.")
    unknown = sorted(set(map(str, entry)) - set(_KEYS))
    if unknown:
        raise GalleryError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(_KEYS)}.")
    try:
        fps = float(entry.get("fps", 1.0))
    except (TypeError, ValueError):
        raise GalleryError(f"{where}: fps must be a number, found {entry['fps']!r}.") from None
    return Source(
        name=name,
        place=_absolute(entry["place"], file.resolve().parent),
        camera=str(entry.get("camera", name)),
        start=parse_time(entry.get("start"), where),
        fps=fps,
    )


def parse_time(value: Any, where: str) -> datetime | None:
    """
    A time with its zone, from ISO 8601 text or YAML's own type; None for None.

    Raises:
        GalleryError: another text, or no time zone.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise GalleryError(
                f"{where}: expected a time as in 2026-05-01T08:00:00+02:00, found {value!r}."
            ) from None
    if value is None or (isinstance(value, datetime) and value.tzinfo is not None):
        return value
    raise GalleryError(
        f"{where}: {value} has no time zone; write it as in 2026-05-01T08:00:00+02:00, or with Z "
        "for UTC."
    )


def check_there(source: Source) -> None:
    """
    Raises:
        GalleryError: nothing is at the source's place.
    """
    if not source.available:
        raise GalleryError(
            f'Source "{source.name}": nothing at {source.place}; expected a folder of images, a '
            "video, or an address such as rtsp://HOST/STREAM."
        )


def same_footage(a: Source, b: Source) -> bool:
    """Whether two descriptions differ in nothing that is stored with each person."""
    return replace(a, fps=1.0) == replace(b, fps=1.0)


def _absolute(place: str, folder: Path) -> str:
    if _STREAM.match(place):
        return place
    return str((folder / Path(place).expanduser()).resolve())
