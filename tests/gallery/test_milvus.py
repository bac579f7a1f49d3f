"""The Milvus store: addresses and filters, and with a server what other engines don't have."""

import json
import time
from importlib.util import find_spec

import numpy as np
import pytest

from spnet_d2.gallery import Filter, GalleryError, create_gallery, open_gallery
from spnet_d2.gallery.milvus import MilvusAddress, expression

from .conftest import NEEDS, SERVER, SETTINGS, drop_collection
from .people import made_up, same

needs_server = pytest.mark.skipif(
    not SERVER, reason="no Milvus server: SPNET_TEST_MILVUS names none"
)


def test_addresses():
    assert MilvusAddress.of("milvus://db:1953/people") == MilvusAddress("http://db:1953", "people")
    found = MilvusAddress.of("milvus://10.0.0.7/p_1?index=DISKANN&consistency=Bounded")
    assert found == MilvusAddress("http://10.0.0.7:19530", "p_1", "DISKANN", "Bounded")


@pytest.mark.parametrize(
    "text, message",
    [
        ("milvus://db:1953", "collection's name has letters, digits and _, found ''"),
        ("milvus://db:1953/a-b", "found 'a-b'"),
        ("milvus:///people", "no address of the form"),
        ("milvus://db:port/people", "no address of the form"),
        ("milvus://root:secret@db/people", "MILVUS_TOKEN"),
        ("milvus://db/people?index=IVF_PQ", "index of .* must be one of HNSW, FLAT"),
        ("milvus://db/people?consistency=no", "must be one of Strong"),
        ("milvus://db/people?shards=3", "unknown options: shards"),
    ],
)
def test_addresses_that_are_none(text, message, tmp_path):
    with pytest.raises(GalleryError, match=message):
        create_gallery(tmp_path / "g", SETTINGS, engine=text)
    assert not (tmp_path / "g").exists()


def test_filters_in_milvus_language():
    assert expression(Filter()) == ""
    assert expression(Filter(cameras=['a "b"', "Süd"])) == 'camera in ["Süd", "a \\"b\\""]'
    assert expression(Filter(sources=[])) == "id == -1"
    assert expression(Filter(ids=[3, 1], min_score=0.5)) == "id in [1, 3] and score >= 0.5"
    since = np.datetime64("1970-01-01T00:00:01", "ns")
    assert expression(Filter(since=since)) == "(timed == true and time >= 1000000000)"


@pytest.mark.skipif(find_spec(NEEDS["milvus"]) is None, reason="pymilvus is not installed")
def test_no_server_is_one_error(tmp_path, monkeypatch):
    monkeypatch.setattr("spnet_d2.gallery.milvus._TIMEOUT", 1.0)
    begin = time.perf_counter()
    with pytest.raises(GalleryError, match="connecting to http://127.0.0.1:9 failed"):
        create_gallery(tmp_path / "g", SETTINGS, engine="milvus://127.0.0.1:9/people")
    assert time.perf_counter() - begin < 20
    assert not (tmp_path / "g").exists()


@pytest.fixture
def store(tmp_path):
    made = create_gallery(tmp_path / "g", SETTINGS, engine=f"{SERVER}/test_{tmp_path.name}")
    yield made
    made.close()
    drop_collection(made)


@needs_server
def test_rows_of_a_killed_writer_are_removed(store, monkeypatch):
    people = made_up(30)
    ids = store.add(people.rows(slice(0, 10)))
    # What a program leaves that is killed between a message and its note.
    manifest = json.loads((store._path / "gallery.json").read_text())
    assert (manifest["next_id"], manifest["committed"]) == (10, 10)
    note = type(store)._note
    monkeypatch.setattr(
        type(store), "_note", lambda self, **to: "committed" in to or note(self, **to)
    )
    store.add(people.rows(slice(10, 20)))
    monkeypatch.undo()
    store.close()
    again = open_gallery(store.address, write=True)
    assert again.find().tolist() == ids.tolist()
    more = again.add(people.rows(slice(20, 30)))
    assert more.tolist() == list(range(20, 30))
    assert same(again.fetch(more), people.rows(slice(20, 30)))
    again.close()


@needs_server
def test_many_rows_go_in_several_messages(store, monkeypatch):
    monkeypatch.setattr("spnet_d2.gallery.milvus._MESSAGE", 7 * 4 * 16)
    people = made_up(40)
    ids = store.add(people)
    assert same(store.fetch(ids[::-1]), people.rows(np.arange(40)[::-1]))
    assert store.find().tolist() == ids.tolist()


@needs_server
def test_a_collection_is_not_shared(store, tmp_path):
    with pytest.raises(GalleryError, match="already; choose another name"):
        create_gallery(tmp_path / "h", SETTINGS, engine=f"{SERVER}/{store._at.collection}")
    assert not (tmp_path / "h").exists()
