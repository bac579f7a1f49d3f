"""Find one person in a gallery by several pictures of them, and by pictures of others.

Of ``P`` pictures of the person the mean of the unit vectors is searched for. A row that looks like
somebody marked as *not* the person loses what it is more similar to them than to the person:
``s - max(0, n - s)``, with ``s`` its similarity to the person and ``n`` the largest to a negative.
So rows nearer to the person than to any negative keep their similarity, whatever the negatives are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np

from .filter import EVERYBODY, Filter
from .people import NO_TRACKLET, People, unit_vectors
from .store import GalleryStore, Hits

# Rows of a tracklet are neighbours, so the first search asks for this many times the hits.
_FETCHED = 2
_AT_LEAST = 64


@dataclass(frozen=True)
class Sighting:
    """
    A hit: one row of the gallery, standing for its tracklet where hits are grouped.

    Attributes:
        id: the row.
        similarity: cosine, less what negatives take off.
        source, camera, frame, score, box, thumbnail: as in :class:`~.people.People`.
        time: UTC, or None.
        tracklet: None for none.
        rows: rows of the tracklet among the results, with this one.
    """

    id: int
    similarity: float
    source: str
    camera: str
    frame: int
    time: datetime | None
    box: tuple[float, float, float, float]
    score: float
    tracklet: int | None
    thumbnail: str
    rows: int = 1

    def to_json(self) -> dict:
        """Plain values; the box both as ``box_xywh`` and ``box_xyxy``."""
        x1, y1, x2, y2 = self.box
        return {
            "id": self.id,
            "similarity": round(self.similarity, 6),
            "source": self.source,
            "camera": self.camera,
            "frame": self.frame,
            "time": None if self.time is None else self.time.isoformat(),
            "box_xywh": [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)],
            "box_xyxy": [round(v, 2) for v in self.box],
            "score": round(self.score, 6),
            "tracklet": self.tracklet,
            "rows": self.rows,
        }


def joined_query(positives: np.ndarray) -> np.ndarray:
    """(D,) unit vector of (P, D) embeddings of one person, of any length."""
    return unit_vectors(unit_vectors(positives).mean(axis=0, keepdims=True))[0]


def find_person(
    store: GalleryStore,
    positives: np.ndarray,
    negatives: np.ndarray | None = None,
    where: Filter = EVERYBODY,
    count: int = 50,
    min_similarity: float = -1.0,
    grouped: bool = True,
) -> tuple[list[Sighting], bool]:
    """
    The best hits, most similar first; of equal ones, the one added first.

    Args:
        store: the gallery.
        positives: (P, D), P >= 1.
        negatives: (N, D).
        where: conditions, applied before neighbours are taken.
        count: most hits.
        min_similarity: less similar ones are left out.
        grouped: one hit per tracklet, its best row.

    Returns:
        Hits, and whether there are more.
    """
    query = joined_query(positives)
    others = np.zeros((0, len(query))) if negatives is None else unit_vectors(negatives)
    wanted = count + 1
    fetched = max(_AT_LEAST, wanted * (_FETCHED if grouped else 1) + 8 * len(others))
    while True:
        (found,) = store.search(query, fetched, where)
        similarities = _less_negatives(store, found, others)
        order = np.lexsort((found.ids, -similarities))
        order = order[similarities[order] >= min_similarity]
        rows = np.ones(len(order), np.int64)
        if grouped:
            order, rows = _best_of_tracklets(store.tracklets(found.ids), order)
        complete = len(found) < fetched or (
            # What was not fetched is below all that was; a negative can't lift it.
            len(order) >= wanted and similarities[order[wanted - 1]] >= found.similarities[-1]
        )
        if complete or (len(found) and found.similarities[-1] < min_similarity):
            break
        fetched *= 4
    chosen = order[:count]
    # Only now all columns, and of those only that are shown: most of the time goes into them.
    people = store.fetch(found.ids[chosen])
    sightings = [
        sighting(people, n, int(found.ids[i]), similarities[i], rows[n])
        for n, i in enumerate(chosen)
    ]
    return sightings, len(order) > count


def sighting(
    people: People, row: int, person_id: int, similarity: float, rows: int = 1
) -> Sighting:
    """A row of people as a hit."""
    tracklet = int(people.tracklets[row])
    x1, y1, x2, y2 = map(float, people.boxes[row])
    return Sighting(
        id=person_id,
        similarity=float(similarity),
        source=str(people.sources[row]),
        camera=str(people.cameras[row]),
        frame=int(people.frames[row]),
        time=utc(people.times[row]),
        box=(x1, y1, x2, y2),
        score=float(people.scores[row]),
        tracklet=None if tracklet == NO_TRACKLET else tracklet,
        thumbnail=str(people.thumbnails[row]),
        rows=int(rows),
    )


def by_camera(sightings: Sequence[Sighting]) -> dict[str, list[Sighting]]:
    """Each camera's hits in time; those of unknown time last, by source and frame."""
    cameras: dict[str, list[Sighting]] = {}
    for hit in sightings:
        cameras.setdefault(hit.camera, []).append(hit)
    for hits in cameras.values():
        hits.sort(key=_place_in_time)
    return dict(sorted(cameras.items()))


def _place_in_time(hit: Sighting) -> tuple:
    return hit.time is None, hit.time.timestamp() if hit.time else 0.0, hit.source, hit.frame


def utc(stamp: np.datetime64) -> datetime | None:
    """A column's time as ``datetime``, to microseconds; None for NaT."""
    if np.isnat(stamp):
        return None
    return stamp.astype("datetime64[us]").item().replace(tzinfo=timezone.utc)


def _less_negatives(store: GalleryStore, found: Hits, others: np.ndarray) -> np.ndarray:
    similarities = found.similarities.astype(np.float64)
    if not len(others) or not len(found):
        return similarities
    embeddings = store.fetch(found.ids).embeddings
    to_others = (unit_vectors(embeddings.astype(np.float32)) @ others.T).max(axis=1)
    # No similarity is below -1, so that a least one of -1 leaves nobody out.
    return np.maximum(-1, similarities - np.maximum(0, to_others - similarities))


def _best_of_tracklets(tracklets: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each tracklet in ``order``, and how many rows each has there."""
    tracklets = tracklets[order].astype(np.int64)
    alone = tracklets == NO_TRACKLET
    # Each row without one is its own group.
    groups = np.where(alone, -2 - np.arange(len(order)), tracklets)
    _, first, counts = np.unique(groups, return_index=True, return_counts=True)
    by_rank = np.argsort(first)
    return order[first[by_rank]], counts[by_rank]
