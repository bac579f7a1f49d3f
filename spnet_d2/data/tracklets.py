"""Tracklets: boxes of neighbouring frames that show one person, linked without any label.

``T`` tracks that are open, ``N`` boxes of a frame. Linking is greedy in time and optimal within a
frame: the assignment with the largest sum of IoU and cosine similarity, over pairs that pass both
least values (as in SORT and DeepSORT, without a Kalman filter: a box moves on as it moved before).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from spnet_d2.data.paired_boxes import paired_ious


@dataclass(frozen=True)
class LinkRules:
    """
    Attributes:
        min_iou: between a box and where the track is expected.
        min_similarity: cosine of a box's embedding and the track's mean one; boxes without
            embeddings are linked by IoU alone.
        max_gap: frames until a track that finds no box ends.
        reach: boxes with embeddings need not overlap if their centre is as near to the expected
            one, in heights of the person per frame; 0: they must overlap.
    """

    min_iou: float = 0.3
    min_similarity: float = 0.6
    max_gap: int = 2
    reach: float = 0.0


@dataclass
class _Track:
    number: int
    box: np.ndarray
    frame: int
    embedding: np.ndarray
    # Of the corners, pixels per frame.
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(4))

    def expected(self, frame: int) -> np.ndarray:
        return self.box + self.velocity * (frame - self.frame)

    def extend(self, frame: int, box: np.ndarray, embedding: np.ndarray) -> None:
        moved = (box - self.box) / (frame - self.frame)
        # Only the place goes on: boxes that grow once would grow for ever.
        shift = (moved[:2] + moved[2:]) / 2
        self.velocity = 0.5 * self.velocity + 0.5 * np.tile(shift, 2)
        self.box, self.frame = box, frame
        self.embedding = self.embedding + embedding


def link_boxes(
    boxes: Sequence[np.ndarray], embeddings: Sequence[np.ndarray], rules: LinkRules | None = None
) -> list[np.ndarray]:
    """
    Link the boxes of the frames of one sequence.

    Args:
        boxes: per frame (N, 4) xyxy.
        embeddings: per frame (N, D); D may be 0.
        rules: None: the default ones.

    Returns:
        Per frame (N,) numbers of tracks, from 0.
    """
    rules = rules or LinkRules()
    open_tracks: list[_Track] = []
    count, numbers = 0, []
    for frame, (found, vectors) in enumerate(zip(boxes, embeddings, strict=True)):
        found, vectors = np.asarray(found, np.float64).reshape(-1, 4), unit(vectors)
        of_box = np.full(len(found), -1)
        open_tracks = [t for t in open_tracks if frame - t.frame <= rules.max_gap]
        for row, column in _assign(open_tracks, found, vectors, frame, rules):
            open_tracks[row].extend(frame, found[column], vectors[column])
            of_box[column] = open_tracks[row].number
        for column in np.flatnonzero(of_box < 0).tolist():
            open_tracks.append(_Track(count, found[column], frame, vectors[column]))
            of_box[column] = count
            count += 1
        numbers.append(of_box)
    return numbers


def _assign(
    tracks: list[_Track], boxes: np.ndarray, vectors: np.ndarray, frame: int, rules: LinkRules
) -> list[tuple[int, int]]:
    """Pairs of track and box."""
    if not tracks or not len(boxes):
        return []
    expected = np.array([track.expected(frame) for track in tracks])
    ious = paired_ious(
        np.repeat(expected, len(boxes), axis=0), np.tile(boxes, (len(tracks), 1))
    ).reshape(len(tracks), len(boxes))
    allowed, gain = ious >= rules.min_iou, ious
    if vectors.shape[1]:
        similarities = unit(np.array([track.embedding for track in tracks])) @ vectors.T
        if rules.reach:
            allowed = allowed | (_distances(tracks, expected, boxes, frame) <= rules.reach)
        allowed = allowed & (similarities >= rules.min_similarity)
        gain = ious + similarities
    gain = np.where(allowed, gain, 0)
    rows, columns = linear_sum_assignment(gain, maximize=True)
    return [(r, c) for r, c in zip(rows.tolist(), columns.tolist()) if allowed[r, c]]


def _distances(
    tracks: list[_Track], expected: np.ndarray, boxes: np.ndarray, frame: int
) -> np.ndarray:
    """(T, N) between centres, in heights of the track per frame."""
    centres = (expected[:, None, :2] + expected[:, None, 2:]) / 2
    apart = np.linalg.norm(centres - (boxes[None, :, :2] + boxes[None, :, 2:]) / 2, axis=2)
    frames = np.array([frame - track.frame for track in tracks])
    heights = np.maximum(expected[:, 3] - expected[:, 1], 1)
    return apart / (heights * frames)[:, None]


def unit(vectors) -> np.ndarray:
    """Rows of length 1, float64; zero rows stay."""
    vectors = np.asarray(vectors, np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


@dataclass(frozen=True)
class TrackletQuality:
    """
    How right tracklets are, by true identities.

    Attributes:
        purity: share of boxes that show the person most boxes of their tracklet show.
        pair_precision: share of pairs within a tracklet that show one person.
        pair_recall: share of pairs of one person that are within a tracklet.
        boxes: boxes that were compared.
        tracklets, people: how many there are of them.
    """

    purity: float
    pair_precision: float
    pair_recall: float
    boxes: int
    tracklets: int
    people: int


def tracklet_quality(tracklets: np.ndarray, people: np.ndarray) -> TrackletQuality:
    """
    Compare tracklets with the people they show.

    Args:
        tracklets: (N,) numbers of tracklets; each box alone in its own counts for nothing but
            purity.
        people: (N,) true identities.

    Returns:
        Shares from 0 to 1; NaN where there is nothing to take a share of.
    """
    _, rows = np.unique(tracklets, return_inverse=True)
    _, columns = np.unique(people, return_inverse=True)
    table = np.zeros((rows.max(initial=-1) + 1, columns.max(initial=-1) + 1), np.int64)
    np.add.at(table, (rows, columns), 1)
    right = _pairs(table).sum()
    return TrackletQuality(
        purity=_share(table.max(axis=1, initial=0).sum(), table.sum()),
        pair_precision=_share(right, _pairs(table.sum(axis=1)).sum()),
        pair_recall=_share(right, _pairs(table.sum(axis=0)).sum()),
        boxes=int(table.sum()),
        tracklets=table.shape[0],
        people=table.shape[1],
    )


def _pairs(counts: np.ndarray) -> np.ndarray:
    return counts * (counts - 1) // 2


def _share(part: int, whole: int) -> float:
    return float(part / whole) if whole else float("nan")
