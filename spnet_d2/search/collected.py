"""People while a gallery is being built, frame by frame; an unfinished index can be resumed."""

import json
import logging
import os
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np

from .frames import Frame, ImageFolder, VideoFile
from .gallery_file import stamp_of
from .people import PersonDetections

logger = logging.getLogger(__name__)


class Finder(Protocol):
    """A predictor, as far as an index needs it."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def settings(self) -> Any: ...

    def detect(self, images: Sequence[np.ndarray], query: Any = None) -> list[PersonDetections]: ...


class Collected:
    """The people found so far, frame by frame."""

    def __init__(
        self,
        predictor: Finder,
        frames: ImageFolder | VideoFile,
        min_score: float,
    ):
        self.predictor, self.frames, self.min_score = predictor, frames, min_score
        self.numbers: list[int] = []
        self.files: list[str] = []
        self.times: list[float] = []
        self.stamps: list[tuple[int, int, int]] = []
        self.people: list[PersonDetections] = []
        self.skipped: list[str] = []
        self._stamp = cache(stamp_of)

    def add(self, frame: Frame, people: PersonDetections) -> None:
        self.numbers.append(frame.number)
        # A name that is no path (frames in memory) stays as it is.
        file = os.path.abspath(frame.file) if os.path.exists(frame.file) else frame.file
        self.files.append(file)
        self.times.append(np.nan if frame.time is None else frame.time)
        self.stamps.append(self._stamp(file))
        self.people.append(people)

    def fields(self) -> dict:
        """Of a :class:`~.gallery.Gallery` of these people."""
        people = self.people
        name, every = self.frames.name, getattr(self.frames, "every", 1)
        return {
            "source": os.path.abspath(name) if os.path.exists(name) else name,
            "frame_numbers": np.array(self.numbers, np.int64),
            "frame_files": np.array(self.files, np.str_),
            "frame_times": np.array(self.times, np.float64),
            "frame_index": np.repeat(np.arange(len(people)), [len(found) for found in people]),
            "boxes": np.concatenate([found.boxes for found in people]),
            "scores": np.concatenate([found.scores for found in people]),
            "embeddings": np.concatenate([found.embeddings for found in people]),
            "fingerprint": self.predictor.fingerprint,
            "skipped": np.array(self.frames.skipped, np.str_),
            "settings": json.dumps(self.predictor.settings),
            "min_score": float(self.min_score),
            "every": every,
            "left_out": json.dumps(getattr(self.frames, "left_out", {})),
            "frame_stamps": np.array(self.stamps, np.int64).reshape(-1, 3),
            **self._scenes(),
        }

    def _scenes(self) -> dict:
        """Those of a model with a gallery filter."""
        scenes = [found.scene for found in self.people if found.scene is not None]
        if not scenes or len(scenes) < len(self.people):
            return {}
        fuser = getattr(self.predictor, "scene_fuser", None)
        return {"scene_embeddings": np.stack(scenes), "scene_fuser": fuser}

    def resume(self, begun: Any, path: str | os.PathLike) -> None:
        """Take over a file's unfinished ``Gallery``, if it was begun with the same settings."""
        if not self._fits(begun):
            logger.warning("%s was begun with other frames or settings; it starts anew.", path)
            return
        logger.warning("Going on from %s: %d frames are done.", path, begun.num_frames)
        unknown = [(-1, -1, -1)] * begun.num_frames
        stamps = unknown if begun.frame_stamps is None else begun.frame_stamps.tolist()
        ends = np.searchsorted(begun.frame_index, np.arange(begun.num_frames + 1))
        for i, (start, end) in enumerate(zip(ends[:-1], ends[1:])):
            self.numbers.append(int(begun.frame_numbers[i]))
            self.files.append(str(begun.frame_files[i]))
            self.times.append(float(begun.frame_times[i]))
            self.stamps.append(tuple(stamps[i]))
            scenes = begun.scene_embeddings
            self.people.append(
                PersonDetections(
                    begun.boxes[start:end],
                    begun.scores[start:end],
                    begun.embeddings[start:end],
                    None if scenes is None else scenes[i],
                )
            )

    def _fits(self, begun: Any) -> bool:
        every, name = getattr(self.frames, "every", 1), self.frames.name
        same = (begun.fingerprint, begun.min_score, begun.every, begun.source) == (
            self.predictor.fingerprint,
            float(self.min_score),
            every,
            os.path.abspath(name) if os.path.exists(name) else name,
        )
        if not same or not hasattr(self.frames, "frames"):
            return False
        if isinstance(self.frames, ImageFolder):
            # Files that came or went would shift the numbers.
            files = [os.path.abspath(file) for file in self.frames.files]
            for number, file in zip(begun.frame_numbers.tolist(), begun.frame_files.tolist()):
                if number >= len(files) or files[number] != file:
                    return False
            checked = range(begun.num_frames)
        else:
            checked = range(min(1, begun.num_frames))
        return not any(begun.changed_since(i) for i in checked)
