"""Several pictures of a person and of others, tracklets as one hit, and pages of a ranking."""

import numpy as np
import pytest

from spnet_d2.gallery import Filter, People
from spnet_d2.gallery.finding import by_camera, find_person, joined_query
from tests.gallery.people import made_up, ranked


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def slow(people, ids, positives, negatives, where, grouped):
    """Everybody's similarity, one row at a time, with the rules of the module."""
    query = unit(unit(positives).mean(axis=0))
    numbers, _ = ranked(people, ids, query, len(ids), where)
    found = []
    for number in numbers:
        row = people.embeddings[ids.tolist().index(number)].astype(np.float64)
        s = float(row @ query)
        worst = max((float(row @ n) for n in unit(negatives)), default=-2.0)
        found.append((max(-1.0, s - max(0.0, worst - s)), number))
    found.sort(key=lambda hit: (-hit[0], hit[1]))
    if not grouped:
        return found
    best: dict[int, tuple] = {}
    for hit in found:
        best.setdefault(int(people.tracklets[ids.tolist().index(hit[1])]), hit)
    return list(best.values())


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("negatives", [0, 2])
def test_ranks_like_the_rules(store, grouped, negatives):
    people = made_up(500)
    ids = store.add(people)
    random = np.random.default_rng(1)
    positives = random.standard_normal((2, 16)) * [[1], [30]]
    others = random.standard_normal((negatives, 16))
    where = Filter(cameras=["camera 1", "camera 3"])
    expected = slow(people, ids, positives, others, where, grouped)
    hits, more = find_person(
        store, positives, others if negatives else None, where, 20, grouped=grouped
    )
    assert more
    np.testing.assert_allclose(
        [hit.similarity for hit in hits], [s for s, _ in expected[:20]], atol=1e-3
    )
    assert [hit.id for hit in hits] == [number for _, number in expected[:20]]
    # To the last: more are fetched until there are none.
    every, more = find_person(
        store, positives, others if negatives else None, where, 500, grouped=grouped
    )
    assert not more
    assert {hit.id for hit in every} == {number for _, number in expected}


def test_tracklets_count_their_rows(store):
    store.add(made_up(40))
    hits, _ = find_person(store, np.ones((1, 16)), count=100)
    assert len(hits) == 10 and {hit.rows for hit in hits} == {4}
    single = made_up(4, tracklets=np.full(4, -1), batches=["x"] * 4)
    store.add(single)
    hits, _ = find_person(store, np.ones((1, 16)), count=100)
    assert len(hits) == 14


def test_negatives_leave_who_is_nearer_to_the_person():
    joined = joined_query(np.array([[3.0, 0], [0, 0.1]]))
    np.testing.assert_allclose(joined, np.sqrt([0.5, 0.5]), atol=1e-6)


def test_negative_turns_the_order(make):
    from spnet_d2.gallery import GallerySettings

    store = make(GallerySettings(2, "model A", 0.1))
    store.add(
        People.of(
            [[1.0, 0.1], [0.8, -0.6]],
            [[0, 0, 1, 1]] * 2,
            [0.9, 0.9],
            sources="a",
            cameras="a",
            frames=[0, 1],
        )
    )
    query, wrong = np.array([[1.0, 0.0]]), np.array([[0.9, 0.4]])
    before, _ = find_person(store, query)
    assert [hit.frame for hit in before] == [0, 1]
    after, _ = find_person(store, query, np.array([[1.0, 0.12]]))
    # The first is nearer to the person, all the same: it keeps nearly all of its similarity.
    assert after[0].frame == 0 and after[0].similarity > 0.98
    after, _ = find_person(store, np.array([[0.9, -0.3]]), wrong)
    assert [hit.frame for hit in after] == [1, 0]


def test_least_similarity(store):
    store.add(made_up(300))
    query = np.random.default_rng(3).standard_normal((1, 16))
    every, _ = find_person(store, query, count=300, grouped=False)
    least = every[40].similarity
    some, more = find_person(store, query, count=300, min_similarity=least, grouped=False)
    assert [hit.id for hit in some] == [hit.id for hit in every[:41]] and not more


def test_time_lines(store):
    store.add(made_up(70))
    hits, _ = find_person(store, np.ones((1, 16)), count=70, grouped=False)
    lines = by_camera(hits)
    assert list(lines) == sorted(f"camera {i}" for i in range(5))
    for line in lines.values():
        known = [hit.time for hit in line if hit.time]
        assert known == sorted(known) and all(hit.time is None for hit in line[len(known) :])
    assert sum(map(len, lines.values())) == 70
