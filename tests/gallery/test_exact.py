"""The exact store's files: killed writers, full disks, damage, several programs."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from spnet_d2.gallery import (
    Filter,
    GalleryError,
    create_gallery,
    exact,
    folder,
    open_gallery,
    segment,
)

from .conftest import SETTINGS
from .killed import KILLS, check_kills
from .people import made_up, same


@pytest.fixture
def store(tmp_path):
    store = create_gallery(tmp_path / "gallery", SETTINGS)
    yield store
    store.close()


def content(path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in Path(path).rglob("*")
        if file.is_file()
    }


def test_a_killed_writer_leaves_what_was_committed(tmp_path):
    address = tmp_path / "gallery"
    create_gallery(address, SETTINGS).close()
    check_kills(address, KILLS or 12, 0.25)
    with open_gallery(address) as store:
        store.verify()
    with open_gallery(address, write=True) as store:
        listed = {entry["file"] for entry in store._entries}
        listed |= {entry["deleted"] for entry in store._entries} - {None}
        assert {path.name for path in (address / "segments").iterdir()} == listed
        people = made_up(5)
        assert same(store.fetch(store.add(people)), people)


@pytest.mark.parametrize("number", range(1, 9))
def test_a_full_disk_loses_nothing(store, number, monkeypatch):
    """The disk is full at the n-th writing of an addition, a deletion, a compaction."""
    people = made_up(30)
    ids = store.add(people)
    store.delete(Filter(ids=ids[:3]))
    kept = ids[3:]
    calls = 0

    def full(file):
        nonlocal calls
        calls += 1
        if calls == number:
            raise OSError(errno.ENOSPC, "No space left on device")

    failed = []
    with monkeypatch.context() as patched:
        patched.setattr(folder, "sync", full)
        patched.setattr(segment, "sync", full)
        for change in (
            lambda: store.add(made_up(4, seed=1)),
            lambda: store.delete(Filter(ids=ids[10:12])),
            store.compact,
        ):
            try:
                change()
            except GalleryError as error:
                failed.append(str(error))
    assert [("disk is full" in text, "as before" in text) for text in failed] in (
        [(True, True)],
        [],
    )
    assert len(failed) == (number <= calls)
    files = {path.name for path in Path(store.address, "segments").iterdir()}
    assert files == exact._files(store._manifest)
    left = np.setdiff1d(kept, ids[10:12]) if store.count(Filter(ids=ids[10:12])) == 0 else kept
    with open_gallery(store.address) as reader:
        assert reader.find()[: len(left)].tolist() == left.tolist()
        assert same(reader.fetch(left), people.rows(left))
        reader.verify()
    store.add(made_up(2))


def test_a_folder_that_cannot_be_written_is_one_error(store, monkeypatch):
    store.add(made_up(3))
    before = content(store.address)

    def refused(path, *arguments):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(segment, "part_of", refused)
    with pytest.raises(GalleryError, match="adding 2 people to .* can.?not be written"):
        store.add(made_up(2))
    assert content(store.address) == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write")
def test_a_read_only_folder_can_be_read(store):
    store.add(made_up(3))
    store.close()
    Path(store.address).chmod(0o555)
    try:
        with open_gallery(store.address) as reader:
            assert reader.count() == 3
        with pytest.raises(GalleryError, match="cannot be written"):
            open_gallery(store.address, write=True)
    finally:
        Path(store.address).chmod(0o755)


def test_a_second_writer_is_told_who_writes(store):
    with pytest.raises(GalleryError, match=rf"Another program writes .* \(process {os.getpid()}\)"):
        open_gallery(store.address, write=True)
    with open_gallery(store.address) as reader:
        assert reader.count() == 0
    store.close()
    open_gallery(store.address, write=True).close()


def test_an_unknown_version_is_one_error(store):
    store.close()
    path = Path(store.address, "gallery.json")
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "version": 7}))
    with pytest.raises(GalleryError, match="has version 7, and this program knows version 1"):
        open_gallery(store.address)
    path.write_text(json.dumps({**manifest, "engine": "other"}))
    with pytest.raises(GalleryError, match="Unknown engine 'other'"):
        open_gallery(store.address)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "something"}', "\xff"])
def test_a_damaged_manifest_is_one_error(store, text):
    store.close()
    Path(store.address, "gallery.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(GalleryError, match=r"gallery\.json"):
        open_gallery(store.address)


def test_what_is_no_gallery_is_one_error(tmp_path):
    with pytest.raises(GalleryError, match="No gallery at"):
        open_gallery(tmp_path)
    file = tmp_path / "file"
    file.write_text("text")
    for path in (tmp_path, file):
        with pytest.raises(GalleryError, match="There is something else at"):
            create_gallery(path, SETTINGS)
    assert file.read_text() == "text"


def test_a_gallery_is_not_made_over_another(store):
    with pytest.raises(GalleryError, match="There is a gallery at"):
        create_gallery(store.address, SETTINGS)
    with pytest.raises(GalleryError, match="Unknown engine 'fast'"):
        create_gallery(Path(store.address).with_name("new"), SETTINGS, engine="fast")


def test_damaged_segments_are_found(store):
    store.add(made_up(30))
    store.close()
    (path,) = Path(store.address, "segments").iterdir()
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[500] ^= 1
    path.write_bytes(flipped)
    with (
        open_gallery(store.address) as reader,
        pytest.raises(GalleryError, match="embeddings changed"),
    ):
        reader.verify()
    for damaged in (b"", data[:5], data[:200], data[:-1], data + b"x"):
        path.write_bytes(damaged)
        with pytest.raises(GalleryError, match=rf"{path.name} is damaged"):
            open_gallery(store.address)
    path.unlink()
    with pytest.raises(GalleryError, match="is missing"):
        open_gallery(store.address)


def test_compaction_removes_what_was_deleted_from_the_disk(store):
    people = made_up(20, thumbnails=[f"secret-{i}" for i in range(20)])
    ids = store.add(people)
    vector, name = people.embeddings[4].tobytes(), b"secret-4"
    assert any(vector in data and name in data for data in content(store.address).values())
    store.delete(Filter(ids=ids[4]))
    store.compact()
    assert not any(vector in data or name in data for data in content(store.address).values())
    assert store.count() == 19


def test_small_additions_stay_few_files(store):
    for i in range(200):
        store.add(made_up(3, seed=i))
    assert store.count() == 600
    assert len(list(Path(store.address, "segments").iterdir())) <= 24
    store.compact()
    assert len(list(Path(store.address, "segments").iterdir())) == 1


def test_segments_have_a_largest_size(store, monkeypatch):
    monkeypatch.setattr(exact, "LARGEST_SEGMENT", 50 * 16 * 2)
    people = made_up(400)
    ids = np.concatenate([store.add(people.rows(slice(i, i + 10))) for i in range(0, 400, 10)])
    store.compact()
    rows = [entry["rows"] for entry in store._entries]
    assert max(rows) <= 50 and len(rows) == 8
    assert same(store.fetch(ids), people)


def test_an_engines_address_is_no_gallery():
    for use in (open_gallery, lambda address: create_gallery(address, SETTINGS)):
        with pytest.raises(GalleryError, match="A gallery is a folder, found milvus://host:1/rows"):
            use("milvus://host:1/rows")
