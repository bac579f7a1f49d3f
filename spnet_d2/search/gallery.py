"""Index of all people of a folder of pictures or a video.

Memory is a box, a score and an embedding per person, however many frames there are.
"""

import logging
import os
import zipfile
from dataclasses import dataclass, field, fields, replace

import numpy as np
from tqdm import tqdm

from spnet_d2.data.atomic_io import atomic_path

from .errors import SearchInputError
from .frames import ImageFolder, VideoFile
from .predictor import PersonQuery

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gallery:
    """
    People found in ``F`` frames; ``N`` people in all, ordered by frame, then by falling score.

    Attributes:
        source: folder or video it was made from.
        frame_numbers: (F,) int64, number of each frame in the source.
        frame_files: (F,) text, its file.
        frame_times: (F,) float64, seconds; NaN for pictures.
        frame_index: (N,) int64, which of the F frames each person is in.
        boxes: (N, 4) float32 xyxy, pixels.
        scores: (N,) float32.
        embeddings: (N, D_r) float32, as the model gave them.
        fingerprint: of the predictor that made it.
        skipped: (S,) text, picture files that could not be read.
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
    ) -> "Gallery":
        """
        Detect and embed everyone in a source of frames.

        Args:
            predictor: a :class:`~.predictor.PersonSearchPredictor`.
            frames: of :func:`~.frames.open_frames`.
            min_score: people the detector is less sure of are left out.
            query: detect this person (query-centric pathway); the gallery serves no other query.
            progress: show a progress bar.

        Raises:
            SearchInputError: not one frame could be read.
        """
        numbers, files, times, found = [], [], [], []
        # A header may lack or exaggerate the count; the bar then shows no end.
        total = len(frames) or None
        for frame in tqdm(frames, total=total, unit="frame", disable=not progress):
            found.append(predictor.detect([frame.image], query)[0].above(min_score))
            numbers.append(frame.number)
            files.append(frame.file)
            times.append(np.nan if frame.time is None else frame.time)
        if frames.skipped:
            logger.warning(
                "%d of %d pictures could not be read and were skipped.",
                len(frames.skipped),
                len(frames.skipped) + len(found),
            )
        if not found:
            raise SearchInputError(f"Not one frame of {frames.name} could be read.")
        return cls(
            source=frames.name,
            frame_numbers=np.array(numbers, np.int64),
            frame_files=np.array(files, np.str_),
            frame_times=np.array(times, np.float64),
            frame_index=np.repeat(np.arange(len(found)), [len(people) for people in found]),
            boxes=np.concatenate([people.boxes for people in found]),
            scores=np.concatenate([people.scores for people in found]),
            embeddings=np.concatenate([people.embeddings for people in found]),
            fingerprint=predictor.fingerprint,
            skipped=np.array(frames.skipped, np.str_),
        )

    def above(self, min_score: float) -> "Gallery":
        """The same frames with only the people of ``score >= min_score``."""
        keep = self.scores >= min_score
        names = ("frame_index", "boxes", "scores", "embeddings")
        return replace(self, **{name: getattr(self, name)[keep] for name in names})

    def save(self, path: str | os.PathLike) -> None:
        """Write everything as an ``.npz`` file, atomically."""
        arrays = {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}
        with atomic_path(path) as part, open(part, "wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Gallery":
        """
        Read what :meth:`save` wrote.

        Raises:
            SearchInputError: no such file, not a gallery, or one whose parts don't fit together.
        """
        try:
            archive = np.load(path, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            with archive:
                arrays = {f.name: archive[f.name] for f in fields(cls)}
            _check_arrays(arrays)
        except FileNotFoundError:
            raise SearchInputError(f"No gallery file at {os.path.abspath(path)}.") from None
        # numpy reports what is no archive, or holds pickles, in several ways.
        except (KeyError, ValueError, AttributeError, OSError, EOFError, zipfile.BadZipFile) as e:
            raise SearchInputError(
                f"{path} is not a gallery written by Gallery.save: {e}. Build it again."
            ) from e
        texts = {name: str(arrays.pop(name)) for name in ("source", "fingerprint")}
        return cls(**texts, **arrays)


def _check_arrays(arrays: dict[str, np.ndarray]) -> None:
    """Raise ``ValueError`` unless shapes and kinds are those of a :class:`Gallery`."""
    frames, people = (
        arrays[name].shape[0] if arrays[name].ndim else 0 for name in ("frame_files", "scores")
    )
    width = arrays["embeddings"].shape[1:2]
    shapes = {
        "source": ((), "U"),
        "fingerprint": ((), "U"),
        "skipped": ((arrays["skipped"].size,), "U"),
        "frame_numbers": ((frames,), "i"),
        "frame_files": ((frames,), "U"),
        "frame_times": ((frames,), "f"),
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
