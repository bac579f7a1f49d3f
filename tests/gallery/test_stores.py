"""What every store does, whichever engine is behind it."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spnet_d2.gallery import EVERYBODY, Filter, GalleryError, GallerySettings, People, open_gallery

from .conftest import SETTINGS
from .people import DAY, holds, made_up, ranked, same

SECOND = np.timedelta64(1, "s")


def check_ranking(store, people, ids, query, topk=10, where=EVERYBODY):
    (hits,) = store.search(query, topk, where)
    expected, similarities = ranked(people, ids, query, topk, where)
    assert hits.ids.tolist() == expected
    assert hits.similarities.tolist() == pytest.approx(similarities, abs=1e-6)


def test_added_people_are_found_and_fetched(store):
    people = made_up(200)
    ids = store.add(people)

    assert ids.dtype == np.int64 and (np.diff(ids) > 0).all()
    assert store.count() == 200
    assert same(store.fetch(ids), people)
    assert store.find().tolist() == ids.tolist()
    query = np.random.default_rng(5).standard_normal(16)
    check_ranking(store, people, ids, query)


def test_fetched_people_come_in_the_order_of_their_ids(store):
    people = made_up(50)
    ids = store.add(people)
    order = np.array([40, 3, 3, 49, 0])
    assert same(store.fetch(ids[order]), people.rows(order))
    assert same(store.fetch(int(ids[7])), people.rows(slice(7, 8)))
    assert len(store.fetch([])) == 0


def test_several_queries_are_answered_as_one_by_one(store):
    store.add(made_up(100))
    queries = np.random.default_rng(3).standard_normal((4, 16)) * 50
    together = store.search(queries, 7)
    assert len(together) == 4
    for query, hits in zip(queries, together):
        (alone,) = store.search(query, 7)
        assert hits.ids.tolist() == alone.ids.tolist()
        assert hits.similarities.tolist() == alone.similarities.tolist()


def test_many_additions_are_one_gallery(store):
    people = made_up(300)
    ids = np.concatenate([store.add(people.rows(slice(i, i + 9))) for i in range(0, 300, 9)])
    assert len(np.unique(ids)) == 300
    assert same(store.fetch(ids), people)
    check_ranking(store, people, ids, people.embeddings[123].astype(np.float32), 20)


def test_an_empty_gallery_has_nobody(store):
    assert store.count() == 0
    assert len(store.find()) == 0
    (hits,) = store.search(np.ones(16))
    assert len(hits) == 0 and hits.ids.dtype == np.int64
    assert len(store.add(made_up(0))) == 0
    assert store.delete(Filter(cameras="nowhere")) == 0
    store.compact()
    assert store.count() == 0


def test_one_person(store):
    people = made_up(1)
    (number,) = store.add(people)
    (hits,) = store.search(-people.embeddings[0].astype(np.float32), 10)
    assert hits.ids.tolist() == [number]
    assert hits.similarities[0] == pytest.approx(-1, abs=1e-3)
    store.compact()
    assert same(store.fetch([number]), people)


def test_no_more_people_than_there_are(store):
    ids = store.add(made_up(5))
    (hits,) = store.search(np.ones(16), 100)
    assert sorted(hits.ids.tolist()) == ids.tolist()


def test_equal_people_rank_in_the_order_they_were_added(store):
    one = made_up(1).embeddings
    people = made_up(240)
    people = replace(people, embeddings=np.where(np.arange(240)[:, None] % 3 == 0, one, -one))
    ids = np.concatenate(
        [store.add(people.rows(slice(0, 100))), store.add(people.rows(slice(100, 240)))]
    )
    query = one[0].astype(np.float32)
    (hits,) = store.search(query, 40)
    assert hits.ids.tolist() == ids[::3][:40].tolist()
    assert len(set(hits.similarities.tolist())) == 1
    check_ranking(store, people, ids, query, 100)


def test_deleted_people_are_gone(store):
    people = made_up(200)
    ids = store.add(people)
    where = Filter(cameras=["camera 1", "camera 4"])
    gone = holds(people, ids, where)

    assert store.delete(where) == gone.sum()
    assert store.delete(where) == 0

    for _ in range(2):
        assert store.count() == (~gone).sum()
        assert store.count(where) == 0
        assert store.find().tolist() == ids[~gone].tolist()
        assert same(store.fetch(ids[~gone]), people.rows(~gone))
        query = people.embeddings[1].astype(np.float32)
        check_ranking(store, people.rows(~gone), ids[~gone], query, 20)
        with pytest.raises(GalleryError, match=f"no people with ids {ids[gone][0]}"):
            store.fetch(ids[gone])
        store.compact()


def test_ids_are_never_used_again(store):
    ids = store.add(made_up(30))
    assert store.delete(Filter(ids=ids[20:])) == 10
    store.compact()
    again = store.add(made_up(5))
    assert again.min() > ids.max()


def test_deleting_needs_a_condition(store):
    store.add(made_up(3))
    with pytest.raises(GalleryError, match="without any condition means everybody"):
        store.delete(Filter())
    assert store.count() == 3
    assert store.delete(Filter(min_score=0.1)) == 3
    store.compact()
    assert store.count() == 0


def test_people_of_unknown_time_are_outside_of_every_time_range(store):
    people = made_up(70)
    ids = store.add(people)
    known = ~np.isnat(people.times)
    assert known.sum() == 60
    since, before = np.datetime64("1700-01-01", "ns"), np.datetime64("2250-01-01", "ns")
    for where in (Filter(since=since), Filter(before=before), Filter(since=since, before=before)):
        assert store.find(where).tolist() == ids[known].tolist()
    assert store.count() == 70


def test_a_time_range_has_its_first_moment_and_not_its_last(store):
    """To the nanosecond, in every way to write a time."""
    moment = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    stamp = np.datetime64("2026-05-01T10:00:00.123456", "ns")
    nanosecond = np.timedelta64(1, "ns")
    ids = store.add(made_up(4, times=[stamp - nanosecond, stamp, stamp + nanosecond, None]))
    assert store.fetch(ids).times[1] == stamp
    for time in (moment, stamp, stamp.astype(np.int64), int(stamp.astype(np.int64))):
        assert store.find(Filter(since=time)).tolist() == ids[1:3].tolist()
        assert store.find(Filter(before=time)).tolist() == ids[:1].tolist()


def test_filters_apply_before_neighbours_are_taken(store):
    """The only rows that the filter leaves are the least similar of all."""
    people = made_up(400)
    query = np.random.default_rng(9).standard_normal(16).astype(np.float32)
    worst = np.argsort(people.embeddings.astype(np.float32) @ query)[:5]
    cameras = np.full(400, "front", object)
    cameras[worst] = "back"
    people = replace(people, cameras=cameras)
    ids = store.add(people)
    check_ranking(store, people, ids, query, 10, Filter(cameras="back"))
    (hits,) = store.search(query, 10, Filter(cameras="back"))
    assert sorted(hits.ids.tolist()) == sorted(ids[worst].tolist())


def test_names_are_only_names(store):
    names = ["it's", 'a "b"', "x' OR 1=1 --", "%_", "back\\slash", "Eingang Süd ✓", "", "a\nb"]
    ids = store.add(made_up(len(names), cameras=names, sources=names[::-1], thumbnails=names))
    for name, number in zip(names, ids):
        assert store.find(Filter(cameras=name)).tolist() == [number]
        assert store.fetch([number]).thumbnails[0] == name
    for name, number in zip(names[::-1], ids):
        assert store.find(Filter(sources=[name])).tolist() == [number]
    assert store.count(Filter(cameras=names)) == len(names)
    assert store.delete(Filter(cameras=names[2])) == 1
    assert store.count() == len(names) - 1


def test_file_names_that_are_no_utf8_are_kept_readable(store):
    (number,) = store.add(made_up(1, sources="video\udce9.mp4"))
    assert store.fetch([number]).sources[0] == "video\\udce9.mp4"
    assert store.find(Filter(sources="video\udce9.mp4")).tolist() == [number]


def test_scores_at_the_limit_are_found(store):
    ids = store.add(scored([0.1, 0.3, 0.7, 0.7, 0.9]))
    assert store.find(Filter(min_score=0.7)).tolist() == ids[2:].tolist()
    assert store.find(Filter(min_score=0.1)).tolist() == ids.tolist()


def scored(scores) -> People:
    return replace(made_up(len(scores)), scores=np.array(scores, np.float32))


filters = st.builds(
    Filter,
    cameras=st.none() | st.lists(st.sampled_from([f"camera {i}" for i in range(6)]), max_size=3),
    sources=st.none() | st.lists(st.sampled_from([f"clip {i}.mp4" for i in range(4)]), max_size=2),
    batches=st.none() | st.lists(st.sampled_from([f"batch {i}" for i in range(9)]), max_size=4),
    ids=st.none() | st.lists(st.integers(-5, 130), max_size=60),
    since=st.none() | st.integers(-5, 130).map(lambda s: DAY + s * SECOND),
    before=st.none() | st.integers(-5, 130).map(lambda s: DAY + s * SECOND),
    min_score=st.none() | st.integers(10, 110).map(lambda s: s / 100),
)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(where=filters, topk=st.integers(1, 30), seed=st.integers(0, 10))
def test_every_filter_is_that_of_the_slow_scan(make, where, topk, seed):
    store, people, ids = filled(make)
    expected = ids[holds(people, ids, where)]
    assert store.count(where) == len(expected)
    assert store.find(where).tolist() == expected.tolist()
    query = np.random.default_rng(seed).standard_normal(16)
    check_ranking(store, people, ids, query, topk, where)


_FILLED = {}


def filled(make):
    """One gallery for all examples of a test: 120 people in four additions, some deleted."""
    if make not in _FILLED:
        _FILLED.clear()
        people = made_up(120)
        store = make()
        ids = np.concatenate([store.add(people.rows(slice(i, i + 30))) for i in range(0, 120, 30)])
        store.delete(Filter(ids=ids[50:60]))
        left = np.delete(np.arange(120), np.s_[50:60])
        _FILLED[make] = store, people.rows(left), ids[left]
    return _FILLED[make]


def test_a_gallery_is_the_same_when_it_is_opened_again(store):
    people = made_up(100)
    ids = store.add(people)
    store.delete(Filter(ids=ids[:10]))
    store.close()
    again = open_gallery(store.address, write=True, expected=SETTINGS)
    try:
        assert again.settings == SETTINGS
        assert same(again.fetch(ids[10:]), people.rows(slice(10, None)))
        check_ranking(again, people.rows(slice(10, None)), ids[10:], np.ones(16))
        assert again.add(made_up(1)).min() > ids.max()
    finally:
        again.close()


def test_a_reader_sees_what_the_writer_commits(store):
    reader = open_gallery(store.address)
    try:
        assert reader.count() == 0
        people = made_up(60)
        ids = np.concatenate([store.add(people.rows(slice(i, i + 2))) for i in range(0, 60, 2)])
        assert reader.count() == 60
        check_ranking(reader, people, ids, np.ones(16))
        store.delete(Filter(ids=ids[:30]))
        store.compact()
        assert reader.count() == 30
        check_ranking(reader, people.rows(slice(30, None)), ids[30:], np.ones(16))
    finally:
        reader.close()


@pytest.mark.parametrize(
    "other, message",
    [
        (GallerySettings(32, "model A", 0.1), "embeddings of 16 numbers, and the model gives 32"),
        (GallerySettings(16, "model B", 0.1), "fingerprint 'model A', now 'model B'"),
        (GallerySettings(16, "model A", 0.05), "from a score of 0.1 on, and those from 0.05 on"),
    ],
)
def test_another_model_is_one_error(store, other, message):
    store.add(made_up(3))
    store.close()
    with pytest.raises(GalleryError, match=message):
        open_gallery(store.address, write=True, expected=other)
    again = open_gallery(store.address, write=True, expected=replace(SETTINGS, score_floor=0.5))
    assert again.count() == 3
    again.close()


def test_people_that_do_not_fit_are_not_added(store):
    store.add(made_up(3))
    with pytest.raises(GalleryError, match="16 numbers, found 8; nothing was added"):
        store.add(made_up(3, dimension=8))
    with pytest.raises(GalleryError, match="from a score of 0.1 on, and one of 0.05"):
        store.add(scored([0.5, 0.05]))
    assert store.count() == 3


def test_searches_that_do_not_fit_are_refused(store):
    store.add(made_up(3))
    for query, topk, where, message in [
        (np.ones(8), 1, EVERYBODY, "16 numbers, and the query has 8"),
        (np.zeros(16), 1, EVERYBODY, "is zero"),
        (np.full(16, np.nan), 1, EVERYBODY, "finite"),
        (np.ones(16), 0, EVERYBODY, "topk must be 1 or more, found 0"),
        (np.ones(16), 1, Filter(min_score=0.05), "those from 0.05 on"),
    ]:
        with pytest.raises(GalleryError, match=message):
            store.search(query, topk, where)


def test_a_reader_does_not_write(store):
    store.add(made_up(3))
    reader = open_gallery(store.address)
    try:
        for write in (
            lambda: reader.add(made_up(1)),
            lambda: reader.delete(Filter(min_score=0.5)),
            reader.compact,
        ):
            with pytest.raises(GalleryError, match="not open for writing"):
                write()
    finally:
        reader.close()
    assert store.count() == 3


def test_tracklets_alone(store):
    ids = store.add(made_up(50))
    wanted = ids[[7, 3, 41, 3]]
    np.testing.assert_array_equal(store.tracklets(wanted), store.fetch(wanted).tracklets)
    assert len(store.tracklets([])) == 0
    with pytest.raises(GalleryError):
        store.tracklets([10**9])
