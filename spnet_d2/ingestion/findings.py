"""What a unit of work found: one file, written whole, that goes into the gallery later.

It holds everything: people with their embeddings, thumbnails, and the boxes of everybody in each
frame, also of those whose embeddings a tracklet doesn't keep.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from spnet_d2.gallery.errors import GalleryError
from spnet_d2.gallery.people import People
from spnet_d2.utils.atomic_io import atomic_path

from .units import Unit


@dataclass(frozen=True, eq=False)
class Scene:
    """
    A frame that was looked at.

    Attributes:
        frame: its number in the source; milliseconds from the start for videos.
        time: ISO 8601 in UTC, or None.
        file: of a folder's image, relative to it; "" for videos.
        size: (width, height) pixels.
        boxes: (N, 4) xyxy of everybody, rounded to 1/10 pixel.
        scores: (N,).
    """

    frame: int
    time: str | None
    file: str
    size: tuple[int, int]
    boxes: list[list[float]]
    scores: list[float]


@dataclass(frozen=True, eq=False)
class Findings:
    """
    Attributes:
        unit: what was looked at.
        people: rows for the store.
        thumbnails: JPEG of each row.
        scenes: all frames.
        found: people in all frames; rows are fewer where tracklets keep the best.
        skipped: files that couldn't be read, with the reason.
    """

    unit: Unit
    people: People
    thumbnails: list[bytes]
    scenes: list[Scene]
    found: int
    skipped: list[str]

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        columns = {f"people.{f.name}": getattr(self.people, f.name) for f in fields(People)}
        # Objects in the store, plain characters in the file.
        columns |= {k: v.astype(str) for k, v in columns.items() if v.dtype == object}
        lengths = np.array([len(t) for t in self.thumbnails], np.int64)
        meta = {
            "unit": self.unit.to_json(),
            "scenes": [vars(scene) for scene in self.scenes],
            "found": self.found,
            "skipped": self.skipped,
        }
        with atomic_path(path, durable=True) as part, open(part, "wb") as file:
            np.savez(
                file,
                meta=np.frombuffer(json.dumps(meta).encode(), np.uint8),
                thumbnails=np.frombuffer(b"".join(self.thumbnails), np.uint8),
                thumbnail_lengths=lengths,
                **columns,
            )

    @classmethod
    def load(cls, path: Path) -> "Findings":
        """
        Raises:
            GalleryError: the file is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                meta = json.loads(file["meta"].tobytes())
                columns = [file[f"people.{f.name}"] for f in fields(People)]
                people = People(*(c.astype(object) if c.dtype.kind == "U" else c for c in columns))
                data, ends = file["thumbnails"].tobytes(), file["thumbnail_lengths"].cumsum()
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise GalleryError(
                f"{path} is damaged ({error}); delete it and index again."
            ) from error
        return cls(
            unit=Unit.from_json(meta["unit"]),
            people=people,
            thumbnails=[data[a:b] for a, b in zip([0, *ends[:-1]], ends)],
            scenes=scenes_from_json(meta["scenes"]),
            found=meta["found"],
            skipped=meta["skipped"],
        )


def scenes_from_json(content: list[dict]) -> list[Scene]:
    return [Scene(**{**scene, "size": tuple(scene["size"])}) for scene in content]
