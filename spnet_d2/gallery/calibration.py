"""What a similarity means in one gallery, found out without any label.

Two people in one frame are different people, and boxes of one tracklet with some time between them
are one person. From the similarities of both kinds of pairs:

* ``stranger_tail``: how often somebody else's tracklet reaches a similarity. A search meets as many
  strangers as the gallery has tracklets, so the best of them is an extreme value: the tail above
  the 90 % quantile is a generalised Pareto distribution (Pickands, 1975), as peaks over threshold
  of any distribution nearly are.
* ``same_person``: a normal distribution of ``atanh(similarity)``.

False alarms per search are strangers times tail; the probability that a hit is right supposes that
the person has one appearance in the gallery. Pairs of one frame share the light and pairs of one
tracklet the hour: over days and cameras strangers are as far apart, but one person's pictures are
less alike than here, so probabilities are too high for who changed clothes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from spnet_d2.utils.atomic_io import write_json

from .errors import GalleryError
from .people import NO_TRACKLET, People, unit_vectors
from .store import GalleryStore

FILE = "calibration.json"
# Rates offered: expected false alarms per search.
RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_TAIL = 0.9
_MIN_PAIRS = 30
# Rows looked at; more say nothing new.
_MAX_ROWS = 20_000
_CLIP = 0.999999


@dataclass(frozen=True)
class Calibration:
    """
    Attributes:
        fingerprint: of the gallery's model.
        strangers: quantiles 0, 1, ..., 100 % of strangers' similarities.
        tail_start: similarity where the tail begins (90 %).
        tail_shape, tail_scale: of the generalised Pareto distribution.
        same_mean, same_deviation: of ``atanh`` of one person's similarities.
        num_strangers, num_same: pairs that this comes from.
        tracklets: of the gallery, when it was calibrated.
        rows: of the gallery, then.
    """

    fingerprint: str
    strangers: tuple[float, ...]
    tail_start: float
    tail_shape: float
    tail_scale: float
    same_mean: float
    same_deviation: float
    num_strangers: int
    num_same: int
    tracklets: int
    rows: int

    def stranger_tail(self, similarity: np.ndarray | float) -> np.ndarray:
        """Share of strangers' tracklets that are as similar, or more."""
        s = np.asarray(similarity, np.float64)
        below = 1 - np.interp(s, self.strangers, np.linspace(0, 1, len(self.strangers)))
        excess = np.maximum(s - self.tail_start, 0)
        above = (1 - _TAIL) * stats.genpareto.sf(excess, self.tail_shape, 0, self.tail_scale)
        return np.where(s > self.tail_start, above, below)

    def false_alarms(self, similarity: np.ndarray | float, rows: int | None = None) -> np.ndarray:
        """
        Strangers expected above a similarity in one search.

        Args:
            similarity: a threshold, or several.
            rows: of the gallery that are searched; None: all.
        """
        return self._tracklets_of(rows) * self.stranger_tail(similarity)

    def threshold(self, false_alarms: float, rows: int | None = None) -> float:
        """The similarity above which a given number of strangers is expected per search."""
        grid = np.linspace(-1, 1, 4001)
        expected = self.false_alarms(grid, rows)
        fitting = np.flatnonzero(expected <= false_alarms)
        return float(grid[fitting[0]]) if len(fitting) else 1.0

    def probability(self, similarity: np.ndarray | float, rows: int | None = None) -> np.ndarray:
        """That a hit of this similarity is the person, if they are there once."""
        s = np.clip(np.asarray(similarity, np.float64), -_CLIP, _CLIP)
        step = 1e-3
        # Both as densities of the similarity itself.
        same = stats.norm.pdf(np.arctanh(s), self.same_mean, self.same_deviation) / (1 - s**2)
        # A similarity above that of most images of one person is no sign of a stranger.
        top = np.tanh(self.same_mean)
        at_top = stats.norm.pdf(0, 0, self.same_deviation) / (1 - top**2)
        same = np.where(s > top, np.maximum(same, at_top), same)
        strangers = (self.stranger_tail(s - step) - self.stranger_tail(s + step)) / (2 * step)
        strangers = self._tracklets_of(rows) * strangers
        total = same + strangers
        return np.where(total > 0, same / np.where(total > 0, total, 1), 0.0)

    def _tracklets_of(self, rows: int | None) -> float:
        if rows is None:
            return self.tracklets
        return self.tracklets * rows / max(self.rows, 1)

    def save(self, folder: Path) -> None:
        write_json(folder / FILE, asdict(self), indent=1)

    @classmethod
    def load(cls, folder: Path, fingerprint: str) -> "Calibration | None":
        """
        That of a gallery's folder; None if there is none.

        Raises:
            GalleryError: it is damaged, or of another model.
        """
        file = folder / FILE
        try:
            content = json.loads(file.read_bytes())
            found = cls(**{**content, "strangers": tuple(content["strangers"])})
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise GalleryError(f"{file} is damaged ({error}); calibrate again.") from error
        if found.fingerprint != fingerprint:
            raise GalleryError(f"{file} is of another model; calibrate again.")
        return found


@dataclass(frozen=True, eq=False)
class Pairs:
    """Similarities: of one person's pictures; of a picture and a stranger's tracklet (its best)."""

    same: np.ndarray
    strangers: np.ndarray


def collect_pairs(
    store: GalleryStore,
    min_seconds: float = 2.0,
    seconds_per_frame: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Pairs:
    """
    Pairs whose people are certain, or nearly.

    Args:
        store: the gallery.
        min_seconds: between two pictures of one tracklet; nearer ones are nearly the same picture.
        seconds_per_frame: of sources, for people of unknown time; others' frames are milliseconds.
        seed: for the choice of rows where there are many.
    """
    ids = store.find()
    if len(ids) > _MAX_ROWS:
        # Neighbouring rows are of one frame: pieces, not single rows.
        generator = np.random.default_rng(seed)
        starts = np.sort(generator.choice(len(ids) // 100, _MAX_ROWS // 100, replace=False)) * 100
        ids = np.concatenate([ids[s : s + 100] for s in starts])
    people = store.fetch(ids)
    keep = people.tracklets != NO_TRACKLET
    people = people.rows(np.flatnonzero(keep))
    vectors = unit_vectors(people.embeddings.astype(np.float32))
    _, tracklet = np.unique(people.tracklets, return_inverse=True)
    rows_of = [np.flatnonzero(tracklet == t) for t in range(tracklet.max(initial=-1) + 1)]
    seconds = _seconds(people, seconds_per_frame or {})
    same = [_same(vectors[r], seconds[r], min_seconds) for r in rows_of]
    strangers = []
    for a, b in _together(people, tracklet):
        similarities = vectors[rows_of[a]] @ vectors[rows_of[b]].T
        strangers += [similarities.max(axis=1), similarities.max(axis=0)]
    return Pairs(*(np.concatenate([np.zeros(0), *part]) for part in (same, strangers)))


def calibrate(store: GalleryStore, pairs: Pairs) -> Calibration:
    """
    Fit both distributions.

    Raises:
        GalleryError: too few pairs of either kind, or similarities that don't tell people apart.
    """
    count = store.count()
    for name, found, what in (
        ("one person", pairs.same, "tracklets of several pictures some seconds apart"),
        ("two people in one frame", pairs.strangers, "frames with two people or more"),
    ):
        if len(found) < _MIN_PAIRS:
            raise GalleryError(
                f"Only {len(found)} pairs of {name}, and {_MIN_PAIRS} are needed: index more "
                f"footage with {what} (spnet-gallery index with more --fps)."
            )
    strangers = np.clip(pairs.strangers, -_CLIP, _CLIP)
    start = float(np.quantile(strangers, _TAIL))
    excess = strangers[strangers > start] - start
    shape, _, scale = stats.genpareto.fit(excess, floc=0)
    # An end below 1 would call everything above it impossible, on the word of few pairs.
    shape = max(shape, -scale / (1 - start))
    z = np.arctanh(np.clip(pairs.same, -_CLIP, _CLIP))
    if np.tanh(z.mean()) <= np.median(strangers):
        raise GalleryError(
            "One person's pictures are no more alike than two people's: this model can't tell "
            "these people apart, so similarities mean nothing here."
        )
    tracklets = store.fetch(store.find()).tracklets
    alone = int((tracklets == NO_TRACKLET).sum())
    groups = len(np.unique(tracklets[tracklets != NO_TRACKLET])) + alone
    return Calibration(
        fingerprint=store.settings.fingerprint,
        strangers=tuple(np.quantile(strangers, np.linspace(0, 1, 101)).tolist()),
        tail_start=start,
        tail_shape=float(shape),
        tail_scale=float(scale),
        same_mean=float(z.mean()),
        same_deviation=float(max(z.std(), 0.05)),
        num_strangers=len(strangers),
        num_same=len(z),
        tracklets=groups,
        rows=count,
    )


def thresholds(calibration: Calibration, rows: int | None = None) -> list[tuple[float, float]]:
    """(false alarms per search, similarity) of the rates offered."""
    return [(rate, calibration.threshold(rate, rows)) for rate in RATES]


def _seconds(people: People, seconds_per_frame: Mapping[str, float]) -> np.ndarray:
    """When, within a source: by time stamp, else by frame."""
    stamps = people.times.astype("datetime64[ms]").astype(np.int64) / 1000
    scales = np.array([seconds_per_frame.get(str(s), 0.001) for s in people.sources])
    return np.where(np.isnat(people.times), people.frames * scales, stamps)


def _same(vectors: np.ndarray, seconds: np.ndarray, min_seconds: float) -> np.ndarray:
    first, second = np.triu_indices(len(vectors), 1)
    far = np.abs(seconds[first] - seconds[second]) >= min_seconds
    return (vectors[first[far]] * vectors[second[far]]).sum(axis=1)


def _together(people: People, tracklet: np.ndarray) -> Sequence[tuple[int, int]]:
    """Pairs of tracklets with pictures in one frame."""
    _, source = np.unique(people.sources, return_inverse=True)
    order = np.lexsort((people.frames, source))
    new = (np.diff(source[order], prepend=-1) != 0) | (
        np.diff(people.frames[order], prepend=-1) != 0
    )
    pairs: set[tuple[int, int]] = set()
    for frame in np.split(tracklet[order], np.flatnonzero(new)[1:]):
        here = np.unique(frame).tolist()
        pairs.update((a, b) for i, a in enumerate(here) for b in here[i + 1 :])
    return sorted(pairs)
