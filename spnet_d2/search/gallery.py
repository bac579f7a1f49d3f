"""Index of all people of a folder of images or a video.

Memory is a box, a score and an embedding per person, however many frames there are. An index states
what its content depends on (the predictor's fingerprint and settings, the least score, every which
frame, the files it was made from), so that it never answers for something else.
"""

import json
import logging
import os
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

from spnet_d2.utils.atomic_io import atomic_path

from .errors import SearchInputError
from .frames import ImageFolder, VideoFile, iterate_frames
from .predictor import PersonQuery

logger = logging.getLogger(__name__)

# Of the file's content; 1 had no settings, and paths of the folder of that day.
VERSION = 2
# Seconds between two savings of an unfinished index.
SAVE_PERIOD = 300.0
# So much of a file is looked at to tell whether its content changed.
_LOOKED_AT = 2**26
_PIECE = 2**20


@dataclass(frozen=True)
class Gallery:
    """
    People found in ``F`` frames; ``N`` people in all, ordered by frame, then by falling score.

    Attributes:
        source: folder or video it was made from, absolute.
        frame_numbers: (F,) int64, number of each frame in the source.
        frame_files: (F,) text, its file, absolute; files that were moved together with the
            index are found beside it.
        frame_times: (F,) float64, seconds; NaN for images, and where a video states none.
        frame_index: (N,) int64, which of the F frames each person is in.
        boxes: (N, 4) float32 xyxy, pixels of the upright image.
        scores: (N,) float32.
        embeddings: (N, D_r) float32, as the model gave them.
        fingerprint: of the predictor that made it.
        skipped: (S,) text, image files that could not be read.
        settings: of the predictor, as JSON: what its fingerprint depends on besides weights.
        min_score: people the detector was less sure of are not in it.
        every: each ``every``-th frame of the source was taken.
        left_out: what else was in the folder, as JSON (``ImageFolder.left_out``).
        frame_stamps: (F, 3) int64, size, time of change (ns) and checksum of each frame's file;
            -1 where it is no file.
        relative_files: (F,) text, files as seen from the folder of the index.
    """

    source: str
    frame_numbers: np.ndarray
    frame_files: np.ndarray
    frame_times: np.ndarray
    frame_index: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    embeddings: np.ndarray
    fingerprint: str = ""
    skipped: np.ndarray = field(default_factory=lambda: np.zeros(0, "U1"))
    settings: str = "{}"
    min_score: float = 0.0
    every: int = 1
    left_out: str = "{}"
    frame_stamps: np.ndarray | None = None
    relative_files: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def num_frames(self) -> int:
        return len(self.frame_numbers)

    @classmethod
    def build(
        cls,
        predictor,
        frames: ImageFolder | VideoFile,
        min_score: float = 0.5,
        query: PersonQuery | None = None,
        progress: bool = True,
        unfinished: str | os.PathLike | None = None,
    ) -> "Gallery":
        """
        Detect and embed everyone in a source of frames.

        Args:
            predictor: a :class:`~.predictor.PersonSearchPredictor`.
            frames: of :func:`~.frames.open_frames`.
            min_score: people the detector is less sure of are left out.
            query: detect this person (query-centric pathway); the gallery serves no other query.
            progress: show a progress bar.
            unfinished: file that keeps what is done, every few minutes and when the program is
                stopped; a later call with the same settings goes on from it. It is gone in the
                end.

        Raises:
            SearchInputError: not one frame could be read.
        """
        collected = _Collected(predictor, frames, min_score)
        if unfinished is not None:
            collected.go_on_from(unfinished)
        # Some headers lack the count; the bar then shows no end.
        total = len(frames) or None
        done = set(collected.numbers)
        source = frames.frames(done) if done else frames
        saved = time.monotonic()
        try:
            bar = tqdm(source, total=total, initial=len(done), unit="frame", disable=not progress)
            for frame in bar:
                collected.add(frame, predictor.detect([frame.image], query)[0].above(min_score))
                if unfinished is not None and time.monotonic() - saved > SAVE_PERIOD:
                    collected.gallery().save(unfinished)
                    saved = time.monotonic()
        # Whatever ends it, Ctrl-C included.
        except BaseException:
            if unfinished is not None and collected.numbers:
                collected.gallery().save(unfinished)
                logger.warning(
                    "Stopped after %d frames; they are kept in %s, and the same command goes on "
                    "from there.",
                    len(collected.numbers),
                    unfinished,
                )
            raise
        if frames.skipped:
            logger.warning(
                "%d of %d images could not be read and were skipped.",
                len(frames.skipped),
                len(frames.skipped) + len(collected.numbers),
            )
        if not collected.numbers:
            raise SearchInputError(f"Not one frame of {frames.name} could be read.")
        gallery = collected.gallery()
        if unfinished is not None:
            Path(unfinished).unlink(missing_ok=True)
        return gallery

    def check_settings(self, predictor, name: str) -> None:
        """
        Whether embeddings of ``predictor`` can be compared with those of this index.

        Args:
            predictor: the one that embeds the query.
            name: what to call the index in the message.

        Raises:
            SearchInputError: it was made with other weights or settings; which ones.
        """
        if self.fingerprint == predictor.fingerprint:
            return
        before, now = json.loads(self.settings), dict(predictor.settings)
        if before.keys() == now.keys() and any(key.startswith("INPUT.") for key in now):
            # The keys say the same more plainly.
            del before["resize"], now["resize"]
        differing = [
            f"{key} {before.get(key)} (now {now.get(key)})"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
        ]
        what = ", ".join(differing) or "other weights"
        raise SearchInputError(
            f"{name} was made with {what}; index {self.source} again, or search with what it was "
            "made with."
        )

    def every_nth(self, every: int) -> "Gallery":
        """
        Only the people of each ``every``-th frame of the source.

        Raises:
            SearchInputError: the index lacks some of these frames.
        """
        if every < 1 or every % self.every:
            raise SearchInputError(
                f"The index has each {self.every}th frame of {self.source}, so --every must be a "
                f"multiple of {self.every}, found {every}; or index the source again."
            )
        frames = np.flatnonzero(self.frame_numbers % every == 0)
        place = np.full(self.num_frames, -1)
        place[frames] = np.arange(len(frames))
        people = place[self.frame_index] >= 0
        changed = {name: getattr(self, name)[people] for name in ("boxes", "scores", "embeddings")}
        of_frames = ("frame_numbers", "frame_files", "frame_times", "frame_stamps")
        for name in (*of_frames, "relative_files"):
            if getattr(self, name) is not None:
                changed[name] = getattr(self, name)[frames]
        return replace(self, frame_index=place[self.frame_index[people]], every=every, **changed)

    def changed_since(self, frame: int) -> str:
        """Why the file of frame number ``frame`` of F is not what was indexed; "" if it is."""
        file = str(self.frame_files[frame])
        if self.frame_stamps is None or self.frame_stamps[frame, 0] < 0:
            return ""
        try:
            stat = os.stat(file)
        except OSError:
            return "not there any more"
        size, changed, checksum = self.frame_stamps[frame].tolist()
        if stat.st_size == size and (stat.st_mtime_ns == changed or _checksum(file) == checksum):
            return ""
        return "changed since it was indexed"

    def read_again(
        self, places: Iterable[tuple[str, int]]
    ) -> Iterator[tuple[tuple[str, int], np.ndarray | SearchInputError]]:
        """
        :func:`~.frames.iterate_frames` of this gallery's frames; the reason for files that changed
        since they were indexed, whose boxes would be those of other pixels.

        Args:
            places: ``(file, number)``, as of matches.
        """
        numbers = zip(self.frame_files.tolist(), self.frame_numbers.tolist())
        frame_of = {place: i for i, place in enumerate(numbers)}
        changed: dict[str, str] = {}
        same = []
        for file, number in dict.fromkeys(places):
            if file not in changed:
                changed[file] = self.changed_since(frame_of[file, number])
            if changed[file]:
                yield (file, number), SearchInputError(f"{file}: {changed[file]}.")
            else:
                same.append((file, number))
        yield from iterate_frames(same)

    def above(self, min_score: float) -> "Gallery":
        """
        The same frames with only the people of ``score >= min_score``.

        Raises:
            SearchInputError: the index lacks people of lower scores.
        """
        if min_score < self.min_score:
            raise SearchInputError(
                f"The index has people from a score of {self.min_score:g} on, and those from "
                f"{min_score:g} on are looked for: index {self.source} again, or search from "
                f"{self.min_score:g} on."
            )
        keep = self.scores >= min_score
        names = ("frame_index", "boxes", "scores", "embeddings")
        return replace(
            self, min_score=min_score, **{name: getattr(self, name)[keep] for name in names}
        )

    def save(self, path: str | os.PathLike) -> None:
        """Write everything as an ``.npz`` file, atomically."""
        folder = os.path.dirname(os.path.abspath(path))
        # One relative path per file, not per frame of a video.
        relative = {str(file): _relative(str(file), folder) for file in set(self.frame_files)}
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        arrays["relative_files"] = [relative[str(file)] for file in self.frame_files]
        arrays["relative_files"] = np.array(arrays["relative_files"], np.str_)
        if self.frame_stamps is None:
            arrays["frame_stamps"] = np.full((self.num_frames, 3), -1, np.int64)
        arrays = {name: np.asarray(value) for name, value in arrays.items()}
        with atomic_path(path) as part, open(part, "wb") as file:
            np.savez(file, version=np.asarray(VERSION), **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Gallery":
        """
        Read what :meth:`save` wrote.

        Raises:
            SearchInputError: no such file, not a gallery, one of another version, or one whose
                parts don't fit together.
        """
        try:
            archive = np.load(path, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            with archive:
                _check_version(archive)
                arrays = {f.name: archive[f.name] for f in fields(cls)}
            _check_arrays(arrays)
        except FileNotFoundError:
            raise SearchInputError(f"No gallery file at {os.path.abspath(path)}.") from None
        # numpy reports what is no archive, or holds pickles, in several ways.
        except (KeyError, ValueError, AttributeError, OSError, EOFError, zipfile.BadZipFile) as e:
            raise SearchInputError(
                f"{path} is not a gallery written by Gallery.save: {e}. Build it again."
            ) from e
        texts = ("source", "fingerprint", "settings", "left_out")
        plain = {name: arrays.pop(name).item() for name in (*texts, "min_score", "every")}
        folder = os.path.dirname(os.path.abspath(path))
        arrays["frame_files"] = _where_they_are(
            arrays["frame_files"], arrays["relative_files"], folder
        )
        return cls(**plain, **arrays)


class _Collected:
    """What is found so far, frame by frame."""

    def __init__(self, predictor, frames: ImageFolder | VideoFile, min_score: float):
        self.predictor, self.frames, self.min_score = predictor, frames, min_score
        self.numbers: list[int] = []
        self.files: list[str] = []
        self.times: list[float] = []
        self.stamps: list[tuple[int, int, int]] = []
        self.people: list = []
        self.skipped: list[str] = []
        self._stamp = cache(_stamp_of)

    def add(self, frame, people) -> None:
        self.numbers.append(frame.number)
        # A name that is no path (frames in memory) stays as it is.
        file = os.path.abspath(frame.file) if os.path.exists(frame.file) else frame.file
        self.files.append(file)
        self.times.append(np.nan if frame.time is None else frame.time)
        self.stamps.append(self._stamp(file))
        self.people.append(people)

    def gallery(self) -> Gallery:
        people = self.people
        name, every = self.frames.name, getattr(self.frames, "every", 1)
        return Gallery(
            source=os.path.abspath(name) if os.path.exists(name) else name,
            frame_numbers=np.array(self.numbers, np.int64),
            frame_files=np.array(self.files, np.str_),
            frame_times=np.array(self.times, np.float64),
            frame_index=np.repeat(np.arange(len(people)), [len(found) for found in people]),
            boxes=np.concatenate([found.boxes for found in people]),
            scores=np.concatenate([found.scores for found in people]),
            embeddings=np.concatenate([found.embeddings for found in people]),
            fingerprint=self.predictor.fingerprint,
            skipped=np.array(self.frames.skipped, np.str_),
            settings=json.dumps(self.predictor.settings),
            min_score=float(self.min_score),
            every=every,
            left_out=json.dumps(getattr(self.frames, "left_out", {})),
            frame_stamps=np.array(self.stamps, np.int64).reshape(-1, 3),
        )

    def go_on_from(self, path: str | os.PathLike) -> None:
        """Take what an unfinished index holds, if it was begun with the same settings."""
        if not os.path.isfile(path):
            return
        try:
            begun = Gallery.load(path)
        except SearchInputError:
            return
        if not self._fits(begun):
            logger.warning("%s was begun with something else; it begins anew.", path)
            return
        logger.warning("Going on from %s: %d frames are done.", path, begun.num_frames)
        ends = np.searchsorted(begun.frame_index, np.arange(begun.num_frames + 1))
        for i, (start, end) in enumerate(zip(ends[:-1], ends[1:])):
            self.numbers.append(int(begun.frame_numbers[i]))
            self.files.append(str(begun.frame_files[i]))
            self.times.append(float(begun.frame_times[i]))
            self.stamps.append(tuple(begun.frame_stamps[i].tolist()))
            self.people.append(
                _People(*(a[start:end] for a in (begun.boxes, begun.scores, begun.embeddings)))
            )

    def _fits(self, begun: Gallery) -> bool:
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


@dataclass(frozen=True)
class _People:
    boxes: np.ndarray
    scores: np.ndarray
    embeddings: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


def _stamp_of(file: str) -> tuple[int, int, int]:
    """(size, time of change in ns, checksum) of a file; -1 three times if there is none."""
    try:
        stat = os.stat(file)
        return stat.st_size, stat.st_mtime_ns, _checksum(file)
    except OSError:
        return -1, -1, -1


def _checksum(file: str) -> int:
    """Of the first ``_LOOKED_AT`` bytes."""
    value = 0
    with open(file, "rb") as opened:
        for _ in range(_LOOKED_AT // _PIECE):
            value = zlib.crc32(opened.read(_PIECE), value)
    return value


def _relative(file: str, folder: str) -> str:
    try:
        return os.path.relpath(file, folder)
    except ValueError:  # another drive of Windows
        return file


def _where_they_are(files: np.ndarray, relative: np.ndarray, folder: str) -> np.ndarray:
    """Absolute paths of the frames' files: as they were, or else as seen from the index."""
    found = {}
    for file, path in set(zip(files.tolist(), relative.tolist())):
        beside = os.path.normpath(os.path.join(folder, path))
        found[file] = beside if not os.path.exists(file) and os.path.exists(beside) else file
    return np.array([found[file] for file in files.tolist()], np.str_)


def _check_version(archive) -> None:
    if "version" in archive.files:
        version = int(archive["version"])
    elif {"frame_files", "embeddings", "fingerprint"} <= set(archive.files):
        version = 1
    else:
        raise ValueError(f"it holds {', '.join(archive.files) or 'nothing'}")
    if version != VERSION:
        raise ValueError(
            f"it is of version {version} of the format, and this program reads version {VERSION}"
        )


def _check_arrays(arrays: dict[str, np.ndarray]) -> None:
    """Raise ``ValueError`` unless shapes and kinds are those of a :class:`Gallery`."""
    frames, people = (
        arrays[name].shape[0] if arrays[name].ndim else 0 for name in ("frame_files", "scores")
    )
    width = arrays["embeddings"].shape[1:2]
    shapes = {
        "source": ((), "U"),
        "fingerprint": ((), "U"),
        "settings": ((), "U"),
        "left_out": ((), "U"),
        "min_score": ((), "f"),
        "every": ((), "i"),
        "skipped": ((arrays["skipped"].size,), "U"),
        "frame_numbers": ((frames,), "i"),
        "frame_files": ((frames,), "U"),
        "frame_times": ((frames,), "f"),
        "frame_stamps": ((frames, 3), "i"),
        "relative_files": ((frames,), "U"),
        "frame_index": ((people,), "i"),
        "boxes": ((people, 4), "f"),
        "scores": ((people,), "f"),
        "embeddings": ((people, *(width or (0,))), "f"),
    }
    for name, (shape, kind) in shapes.items():
        found = arrays[name]
        if found.shape != shape or found.dtype.kind != kind:
            raise ValueError(
                f"{name} has shape {found.shape} and type {found.dtype}, expected {shape} and kind "
                f"{kind!r}"
            )
    places = arrays["frame_index"]
    if people and not 0 <= places.min() <= places.max() < frames:
        raise ValueError(f"frame_index must lie in 0..{frames - 1}")
