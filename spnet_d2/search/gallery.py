"""Index of all people of a folder of images or a video.

Memory is a box, a score and an embedding per person, however many frames there are. An index states
what its content depends on (the predictor's fingerprint and settings, the least score, every which
frame, the files it was made from), so that it never answers for something else.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from spnet_d2.errors import SearchInputError

from .collected import Collected
from .frames import ImageFolder, VideoFile, iterate_frames, open_frames
from .gallery_file import checksum, read_arrays, write_arrays
from .people import PersonQuery
from .query import Match, cosine_similarities

if TYPE_CHECKING:
    from .predictor import PersonSearchPredictor

logger = logging.getLogger(__name__)

# Seconds between two savings of an unfinished index.
SAVE_PERIOD = 300.0


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
        scene_embeddings: (F, D_r) float32, of a model with a gallery filter.
        scene_fuser: (3, D_r) or (2, D_r) float32, what scores of scenes need besides; None in mode
            "separate".
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
    scene_embeddings: np.ndarray | None = None
    scene_fuser: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def num_frames(self) -> int:
        return len(self.frame_numbers)

    @classmethod
    def build(
        cls,
        predictor: "PersonSearchPredictor",
        frames: ImageFolder | VideoFile,
        min_score: float = 0.5,
        query: PersonQuery | None = None,
        progress: bool = True,
        unfinished: str | os.PathLike | None = None,
    ) -> "Gallery":
        """
        Detect and embed everyone in a source of frames.

        Args:
            predictor: finds and embeds the people.
            frames: of :func:`~.frames.open_frames`.
            min_score: people the detector is less sure of are left out.
            query: detect this person (query-centric pathway); the gallery serves no other query.
            progress: show a progress bar.
            unfinished: file that keeps what is done, every few minutes and when the program is
                stopped; a later call with the same settings goes on from it. It is deleted at
                the end.

        Raises:
            SearchInputError: not one frame could be read.
        """
        collected = Collected(predictor, frames, min_score)
        if unfinished is not None and os.path.isfile(unfinished):
            # A damaged one begins anew.
            with suppress(SearchInputError):
                collected.resume(cls.load(unfinished), unfinished)
        save = None
        if unfinished is not None:

            def save():
                cls(**collected.fields()).save(unfinished)

        with _kept_if_stopped(collected, save, unfinished):
            _detect_all(collected, query, progress, save)
        if frames.skipped:
            logger.warning(
                "%d of %d images could not be read and were skipped.",
                len(frames.skipped),
                len(frames.skipped) + len(collected.numbers),
            )
        if not collected.numbers:
            raise SearchInputError(f"Not one frame of {frames.name} could be read.")
        gallery = cls(**collected.fields())
        if unfinished is not None:
            Path(unfinished).unlink(missing_ok=True)
        return gallery

    def rank(
        self, embedding: np.ndarray, topk: int = 10, min_similarity: float = -1.0
    ) -> list[Match]:
        """
        The people most similar to an embedding; :func:`~.query.search` of this store.

        Args:
            embedding: (D_r,), of any length; e.g. from ``predictor.embed``.
            topk: at most this many.
            min_similarity: less similar people are left out.

        Returns:
            Matches by falling similarity, equal ones in the gallery's order; [] if there are none.

        Raises:
            SearchInputError: the embedding is of another model than the gallery's.
        """
        query = np.asarray(embedding, np.float32)
        if len(self) == 0 or topk < 1:
            return []
        if query.shape != self.embeddings.shape[1:]:
            raise SearchInputError(
                f"The query's embedding has shape {query.shape}, the gallery's have "
                f"{self.embeddings.shape[1:]}: index the gallery with the same model."
            )
        similarities = cosine_similarities(self.embeddings, query)
        order = np.argsort(-similarities, kind="stable")[:topk]
        order = order[similarities[order] >= min_similarity]
        return [self.match(rank, i, similarities[i]) for rank, i in enumerate(order, start=1)]

    def match(self, rank: int, person: int, similarity: float) -> Match:
        """Person number ``person`` of N as a result; for stores that rank by themselves."""
        frame = self.frame_index[person]
        seconds = float(self.frame_times[frame])
        return Match(
            rank=rank,
            similarity=float(similarity),
            score=float(self.scores[person]),
            box=tuple(self.boxes[person].tolist()),
            frame=int(self.frame_numbers[frame]),
            file=str(self.frame_files[frame]),
            time=None if np.isnan(seconds) else seconds,
        )

    def check_settings(self, predictor: "PersonSearchPredictor", name: str) -> None:
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
        return replace(self._of_frames(self.frame_numbers % every == 0), every=every)

    def of_likely_scenes(self, query: PersonQuery, least: float) -> "Gallery":
        """
        Only the people of frames that match the query's own scene, as the gallery filter sees it.

        Args:
            query: of ``predictor.query``.
            least: score of a frame (0.27 to 0.73); those below are left out.

        Raises:
            SearchInputError: index or query were made without a gallery filter.
        """
        # Not above: an index alone needs no Detectron2.
        from spnet_d2.evaluation.scene_scores import scene_scores, takes_lengths

        if self.scene_embeddings is None or query.scene is None:
            raise SearchInputError(
                "Scores of scenes need a model with a gallery filter (MODEL.SPNET.GFN.ENABLED) for "
                f"the query and for the index of {self.source}: index it again with such a model."
            )
        scenes = np.concatenate([query.scene[None], self.scene_embeddings])
        x = query.reid[None]
        if not takes_lengths(self.scene_fuser):
            scenes, x = (
                v / np.linalg.norm(v, axis=1, keepdims=True).clip(min=1e-12) for v in (scenes, x)
            )
        (scores,) = scene_scores(x, np.zeros(1, np.int64), scenes, self.scene_fuser)
        return self._of_frames(scores[1:] >= least)

    def _of_frames(self, kept: np.ndarray) -> "Gallery":
        """Of those frames where ``kept``, (F,) bool, is true."""
        frames = np.flatnonzero(kept)
        place = np.full(self.num_frames, -1)
        place[frames] = np.arange(len(frames))
        people = place[self.frame_index] >= 0
        changed = {name: getattr(self, name)[people] for name in ("boxes", "scores", "embeddings")}
        of_frames = ("frame_numbers", "frame_files", "frame_times", "frame_stamps")
        for name in (*of_frames, "relative_files", "scene_embeddings"):
            if getattr(self, name) is not None:
                changed[name] = getattr(self, name)[frames]
        return replace(self, frame_index=place[self.frame_index[people]], **changed)

    def changed_since(self, frame: int) -> str:
        """Why the file of frame number ``frame`` of F is not what was indexed; "" if it is."""
        file = str(self.frame_files[frame])
        if self.frame_stamps is None or self.frame_stamps[frame, 0] < 0:
            return ""
        try:
            stat = os.stat(file)
        except OSError:
            return "not there any more"
        size, changed, checked = self.frame_stamps[frame].tolist()
        if stat.st_size == size and (stat.st_mtime_ns == changed or checksum(file) == checked):
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
        write_arrays(path, {f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Gallery":
        """
        Read what :meth:`save` wrote.

        Raises:
            SearchInputError: no such file, not a gallery, one of another version, or one whose
                parts don't fit together.
        """
        return cls(**read_arrays(path, [f.name for f in fields(cls)]))


def _detect_all(
    collected: Collected,
    query: PersonQuery | None,
    progress: bool,
    save: Callable[[], None] | None,
) -> None:
    """Detect the people of all frames that are not done; ``save`` is called every few minutes."""
    frames, done = collected.frames, set(collected.numbers)
    # Some headers lack the count; the bar then shows no end.
    total = len(frames) or None
    source = frames.frames(done) if done else frames
    saved = time.monotonic()
    bar = tqdm(source, total=total, initial=len(done), unit="frame", disable=not progress)
    for frame in bar:
        (people,) = collected.predictor.detect([frame.image], query)
        collected.add(frame, people.above(collected.min_score))
        if save and time.monotonic() - saved > SAVE_PERIOD:
            save()
            saved = time.monotonic()


@contextmanager
def _kept_if_stopped(
    collected: Collected, save: Callable[[], None] | None, file: str | os.PathLike | None
) -> Iterator[None]:
    """Save what was found so far, whatever ends the block, Ctrl-C included."""
    try:
        yield
    except BaseException:
        if save and collected.numbers:
            save()
            logger.warning(
                "Stopped after %d frames; they are kept in %s, and the same command goes on from "
                "there.",
                len(collected.numbers),
                file,
            )
        raise


def open_gallery(
    path: str | os.PathLike, every: int | None = None, exclude: Collection[str | os.PathLike] = ()
) -> "Gallery | ImageFolder | VideoFile":
    """
    What a user names as a gallery: an index that was saved (``.npz``), or frames.

    Args:
        path: index, folder or video file.
        every: take each ``every``-th frame; None: all. Of an index see :func:`gallery_for`.
        exclude: see :class:`~.frames.ImageFolder`.

    Raises:
        SearchInputError: nothing there, nothing in it, or nothing readable.
    """
    if Path(path).suffix == ".npz":
        return Gallery.load(path)
    return open_frames(path, 1 if every is None else every, exclude)


def gallery_for(
    predictor: "PersonSearchPredictor",
    source: "Gallery | ImageFolder | VideoFile",
    query: PersonQuery,
    min_score: float = 0.5,
    every: int | None = None,
    name: str = "the index",
    index: str | os.PathLike | None = None,
) -> "Gallery":
    """
    The people to search for a query, by what the source and the model are.

    A query-centric model detects them for this query alone. Otherwise an index is narrowed to
    ``every`` and ``min_score``, and frames are indexed.

    Args:
        predictor: has made ``query``.
        source: of :func:`open_gallery`.
        query: of ``predictor.query``.
        min_score: people the detector is less sure of are left out.
        every: of an index, only each ``every``-th frame of its source.
        name: what to call an index in messages.
        index: where a new index of frames is saved; ``<stem>.unfinished.npz`` beside it keeps
            what is done if it is stopped.

    Raises:
        SearchInputError: an index that this model, ``every`` or ``min_score`` doesn't fit.
    """
    if isinstance(source, Gallery):
        if predictor.query_centric:
            raise SearchInputError(
                f"{name} serves every query, but this model searches query by query "
                f"(MODEL.SPNET.TEST_PATHWAY is QC): give its frames, {source.source}, instead."
            )
        source.check_settings(predictor, name)
        return source.every_nth(source.every if every is None else every).above(min_score)
    if predictor.query_centric:
        return Gallery.build(predictor, source, min_score, query)
    if index is None:
        return Gallery.build(predictor, source, min_score)
    unfinished = Path(index).with_suffix(".unfinished.npz")
    gallery = Gallery.build(predictor, source, min_score, unfinished=unfinished)
    gallery.save(index)
    return gallery
