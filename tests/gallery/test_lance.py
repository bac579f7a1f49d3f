"""The LanceDB store: its index, its files, and what it says when something is missing."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from spnet_d2.gallery import (
    Filter,
    GalleryError,
    GallerySettings,
    create_gallery,
    lance,
    open_gallery,
)

from .killed import KILLS, check_kills
from .people import made_up, same

if importlib.util.find_spec("lancedb") is None:
    pytest.skip("lancedb is not installed", allow_module_level=True)

SETTINGS = GallerySettings(32, "model A", 0.1)


@pytest.fixture
def store(tmp_path):
    """One that uses its index from 256 people on."""
    store = create_gallery(tmp_path / "gallery", SETTINGS, engine="lancedb", exact_below=256)
    yield store
    store.close()


def recall(store, people, ids, where=None) -> float:
    """Share of the ten nearest that 30 searches find."""
    where = where or Filter()
    with create_gallery(Path(store.address).with_name("oracle"), store.settings) as oracle:
        oracle.add(people)
        oracle_ids = dict(zip(oracle.find().tolist(), ids.tolist()))
        found = 0
        for row in range(0, len(people), len(people) // 30):
            query = people.embeddings[row].astype(np.float32)
            (right,) = oracle.search(query, 10, where)
            (hits,) = store.search(query, 10, where)
            assert len(hits) == len(right)
            found += len({oracle_ids[i] for i in right.ids.tolist()} & set(hits.ids.tolist()))
    return found / (10 * len(range(0, len(people), len(people) // 30)))


def test_the_index_finds_the_nearest(store):
    people = made_up(3000, 32)
    ids = store.add(people)
    assert {index.name for index in store._table.list_indices()} >= {
        "embedding_idx",
        "camera_idx",
        "time_idx",
    }
    plan = store._table.search(np.ones(32), vector_column_name="embedding").explain_plan()
    assert "ANN" in plan
    assert recall(store, people, ids) >= 0.98


def test_the_index_finds_the_nearest_behind_a_filter(store):
    people = made_up(3000, 32)
    ids = store.add(people)
    where = Filter(cameras="camera 3")
    assert store.count(where) == 600
    assert recall(store, people, ids, where) >= 0.95


def test_rows_that_the_index_lacks_are_found(store):
    people = made_up(1100, 32)
    ids = np.concatenate(
        [store.add(people.rows(slice(0, 1000))), store.add(people.rows(slice(1000, 1100)))]
    )
    assert store._table.index_stats("embedding_idx").num_unindexed_rows == 100
    for row in (1000, 1050, 1099):
        (hits,) = store.search(people.embeddings[row], 1)
        assert hits.ids.tolist() == [ids[row]]


def test_the_index_takes_in_new_rows(store):
    store.add(made_up(1000, 32))
    people = made_up(500, 32, seed=1)
    ids = store.add(people)
    for graphs in (2, 1):
        stats = store._table.index_stats("embedding_idx")
        assert (stats.num_indexed_rows, stats.num_unindexed_rows) == (1500, 0)
        assert stats.num_indices == graphs
        (hits,) = store.search(people.embeddings[7], 1)
        assert hits.ids.tolist() == [ids[7]]
        store.compact()


def test_many_indices_become_one(store, monkeypatch):
    """By themselves, before anybody compacts; with more parts, as there are more rows."""
    monkeypatch.setattr(lance, "_MOST_INDICES", 2)
    monkeypatch.setattr(lance, "_PART_ROWS", 256)
    people = made_up(1200, 32)
    ids = np.concatenate(
        [store.add(people.rows(slice(first, first + 300))) for first in range(0, 1200, 300)]
    )
    (index,) = store._table.to_lance().stats.index_stats("embedding_idx")["indices"]
    assert len(index["partitions"]) == 4
    for name in ("embedding_idx", "camera_idx", "source_idx", "time_idx", "id_idx"):
        stats = store._table.index_stats(name)
        assert (stats.num_indexed_rows, stats.num_unindexed_rows) == (1200, 0), name
    assert recall(store, people, ids) >= 0.98


def test_files_stay_few_and_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(lance, "FRAGMENT_BYTES", 1024 * 64)
    monkeypatch.setattr(lance, "_MOST_FRAGMENTS", 8)
    people = made_up(4000, 32)
    with create_gallery(tmp_path / "gallery", SETTINGS, engine="lancedb") as store:
        for start in range(0, 4000, 200):
            store.add(people.rows(slice(start, start + 200)))
            assert len(store._table.to_lance().get_fragments()) <= 9
        store.compact()
        rows = [fragment.count_rows() for fragment in store._table.to_lance().get_fragments()]
        assert max(rows) <= 2 * 1024 and sum(rows) == 4000
        assert same(store.fetch(store.find()), people)


def test_compaction_removes_what_was_deleted_from_the_disk(store):
    names = [f"secret-{i:04d}" for i in range(400)]
    people = made_up(400, 32, thumbnails=names)
    ids = store.add(people)
    store.add(made_up(20, 32, seed=1))

    def on_disk() -> list[Path]:
        return [
            path
            for path in Path(store.address).rglob("*")
            if path.is_file() and b"secret-0004" in path.read_bytes()
        ]

    assert on_disk()
    before = index_files(store)
    store.delete(Filter(ids=ids[4]))
    store.compact()
    assert not on_disk()
    # The index had a code of the vector.
    assert not before & index_files(store)
    assert store.count() == 419
    (hits,) = store.search(people.embeddings[4], 5)
    assert ids[4] not in hits.ids


def index_files(store) -> set[Path]:
    return set(Path(store.address, "people.lance", "_indices").rglob("*.idx"))


def test_a_second_writer_is_one_error(store):
    with pytest.raises(GalleryError, match="Another program writes"):
        open_gallery(store.address, write=True)


def test_a_gallery_whose_table_is_missing_is_one_error(store):
    store.close()
    Path(store.address, "people.lance").rename(Path(store.address).with_name("elsewhere"))
    with pytest.raises(GalleryError, match="opening .* failed"):
        open_gallery(store.address)


@pytest.mark.parametrize(
    "text", ["No space left on device (os error 28)", "disk on fire\nat line 7"]
)
def test_errors_of_the_engine_are_one_line(store, monkeypatch, text):
    store.add(made_up(5, 32))

    def fails(*arguments):
        raise OSError(text)

    with monkeypatch.context() as patched:
        patched.setattr(store._table, "add", fails)
        with pytest.raises(GalleryError, match="adding 3 people .* as before") as caught:
            store.add(made_up(3, 32))
    assert "\n" not in str(caught.value)
    assert ("the disk is full" in str(caught.value)) == ("space" in text)
    assert store.count() == 5
    assert store.add(made_up(3, 32)).min() >= 5


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(GalleryError, match=r"lancedb is missing.*pip install 'spnet_d2\[index\]'"):
        create_gallery(tmp_path / "gallery", SETTINGS, engine="lancedb")
    assert not (tmp_path / "gallery").exists()


def test_people_are_added_where_the_index_cannot_be_made(store, monkeypatch, caplog):
    def fails(*arguments, **options):
        raise OSError("No space left on device (os error 28)")

    people = made_up(300, 32)
    with monkeypatch.context() as patched:
        patched.setattr(store._table, "create_index", fails)
        ids = store.add(people)
    assert "disk is full" in caplog.text and "compact tries again" in caplog.text
    (hits,) = store.search(people.embeddings[7], 1)
    assert hits.ids.tolist() == [ids[7]]
    store.compact()
    assert store._table.index_stats("embedding_idx").num_indexed_rows == 300


def test_rows_that_compaction_moved_are_found(store, tmp_path):
    """A reader knows where a search's rows lie; the writer moves them meanwhile."""
    people = made_up(600, 32)
    ids = store.add(people)
    with open_gallery(store.address, exact_below=256) as reader:
        (hits,) = reader.search(people.embeddings[300].astype(np.float32), 20)
        before = reader.fetch(hits.ids)
        gone = np.setdiff1d(ids, hits.ids)[:200]
        store.delete(Filter(ids=gone))
        store.compact()
        store.add(made_up(300, 32, seed=1))
        assert same(reader.fetch(hits.ids), before)
        np.testing.assert_array_equal(reader.tracklets(hits.ids), before.tracklets)
        store.delete(Filter(ids=hits.ids[:1]))
        with pytest.raises(GalleryError):
            reader.fetch(hits.ids)


def test_a_killed_writer_leaves_what_was_committed(tmp_path):
    """Also while it indexes; the next writer goes on, and searches find whom the oracle finds."""
    address = tmp_path / "gallery"
    settings = GallerySettings(16, "model A", 0.1)
    options = {"exact_below": 256}
    with create_gallery(address, settings, engine="lancedb", **options) as store:
        store.add(made_up(400))
    check_kills(address, KILLS or 3, 1.5, **options)
    with open_gallery(address, write=True, **options) as store:
        before = store.find()
        assert store.add(made_up(5)).min() > before.max()
        store.compact()
        people = store.fetch(ids := store.find())
        assert len(people) == len(before) + 5
        assert recall(store, people, ids) >= 0.95
