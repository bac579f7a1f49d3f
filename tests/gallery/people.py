"""Made-up people, and the slow ranking that stores are compared with."""

import numpy as np

from spnet_d2.gallery import Filter, People

DAY = np.datetime64("2026-05-01T00:00:00", "ns")


def made_up(count: int, dimension: int = 16, seed: int = 0, **columns) -> People:
    """People of a few cameras and sources, one a second, every seventh of unknown time."""
    random = np.random.default_rng(seed)
    rows = np.arange(count)
    times = DAY + rows * np.timedelta64(1, "s")
    times[rows % 7 == 6] = np.datetime64("NaT")
    values = {
        "sources": [f"clip {i % 3}.mp4" for i in rows],
        "cameras": [f"camera {i % 5}" for i in rows],
        "frames": rows,
        "times": times,
        "tracklets": rows // 4,
        "thumbnails": [f"{i:06d}.jpg" for i in rows],
        "batches": [f"batch {i // 10}" for i in rows],
    }
    return People.of(
        random.standard_normal((count, dimension)),
        random.uniform(0, 100, (count, 4)),
        random.uniform(0.2, 1, count).round(2),
        **{**values, **columns},
    )


def holds(people: People, ids: np.ndarray, where: Filter) -> np.ndarray:
    """(N,) bool, one row at a time."""
    result = []
    for row, number in enumerate(ids.tolist()):
        time = people.times[row]
        result.append(
            (where.cameras is None or people.cameras[row] in where.cameras)
            and (where.sources is None or people.sources[row] in where.sources)
            and (where.batches is None or people.batches[row] in where.batches)
            and (where.ids is None or number in where.ids)
            and (where.since is None or (not np.isnat(time) and time >= where.since))
            and (where.before is None or (not np.isnat(time) and time < where.before))
            and (where.min_score is None or people.scores[row] >= np.float32(where.min_score))
        )
    return np.array(result, bool)


def ranked(
    people: People, ids: np.ndarray, query: np.ndarray, topk: int, where: Filter
) -> tuple[list[int], list[float]]:
    """Ids and similarities, best first, with a sum per row."""
    query = (query / np.linalg.norm(query)).astype(np.float32)
    found = []
    for row in np.flatnonzero(holds(people, ids, where)):
        product = (people.embeddings[row].astype(np.float64) * query).sum()
        found.append((-np.float32(product), int(ids[row])))
    found = sorted(found)[:topk]
    return [number for _, number in found], [-float(negative) for negative, _ in found]


def same(a: People, b: People) -> bool:
    """Whether all columns are equal, unknown times included."""
    names = ("embeddings", "boxes", "scores", "sources", "cameras", "frames", "tracklets")
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in (*names, "thumbnails", "batches")
    ) and np.array_equal(a.times.view(np.int64), b.times.view(np.int64))
