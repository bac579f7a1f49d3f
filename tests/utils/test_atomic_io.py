"""Files that survive a power failure, and JSON for people."""

import errno
import json

import pytest

from spnet_d2.utils.atomic_io import atomic_path, write_json


def test_a_killed_writers_part_is_overwritten(tmp_path):
    target = tmp_path / "model.pth"
    target.write_bytes(b"old")
    (tmp_path / "model.pth.part").write_bytes(b"half of a longer one")
    with atomic_path(target, durable=True) as part:
        part.write_bytes(b"new")
    assert target.read_bytes() == b"new" and [*tmp_path.iterdir()] == [target]
    with pytest.raises(KeyError), atomic_path(target, durable=True) as part:
        part.write_bytes(b"half")
        raise KeyError
    assert target.read_bytes() == b"new" and [*tmp_path.iterdir()] == [target]


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match=r"No space left.*a\.json"), atomic_path(tmp_path / "a.json"):
        raise OSError(errno.ENOSPC, "No space left on device")
    # One that says which file it is about, or that is not the system's, stays as it is.
    with pytest.raises(OSError, match=r"^\[Errno 2\] gone: 'b'$"), atomic_path(tmp_path / "a"):
        raise FileNotFoundError(errno.ENOENT, "gone", "b")
    with pytest.raises(OSError, match="^no number$"), atomic_path(tmp_path / "a"):
        raise OSError("no number")


def test_json_for_people_keeps_names_as_they_are(tmp_path):
    file = tmp_path / "a.json"
    content = {"file": "Straße\udce9.jpg", "mean": float("inf")}
    with pytest.raises(ValueError):
        write_json(file, content, indent=2)
    write_json(file, content, indent=2, allow_nan=True)
    text = file.read_text(encoding="utf-8")
    assert "Straße\\udce9.jpg" in text and text.endswith("}\n")
    assert json.loads(text) == content
