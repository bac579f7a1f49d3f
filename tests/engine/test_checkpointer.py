"""Checkpoints: safe files and clear errors."""

import pickle

import pytest
import torch
from torch import nn

from spnet_d2.engine import Checkpointer


@pytest.fixture
def checkpointer(tmp_path):
    return Checkpointer(nn.Linear(2, 2), str(tmp_path))


def test_save_and_load_again(checkpointer, tmp_path):
    checkpointer.save("model_0000004", iteration=4)
    other = nn.Linear(2, 2)
    extra = Checkpointer(other, str(tmp_path)).resume_or_load("", resume=True)
    assert extra["iteration"] == 4
    assert torch.equal(other.weight, checkpointer.model.weight)
    assert {p.name for p in tmp_path.iterdir()} == {"model_0000004.pth", "last_checkpoint"}


def test_failure_while_saving_keeps_the_last_checkpoint(checkpointer, tmp_path, monkeypatch):
    checkpointer.save("model", iteration=1)
    before = (tmp_path / "model.pth").read_bytes()

    def half_written(data, file):
        file.write(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", half_written)
    for name in ("model", "later"):
        with pytest.raises(OSError, match="No space left"):
            checkpointer.save(name, iteration=2)
    assert (tmp_path / "model.pth").read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"model.pth", "last_checkpoint"}
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model.pth")


def test_missing_weights(checkpointer, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No checkpoint at /.*nowhere.pth"):
        checkpointer.load(str(tmp_path / "sub" / "nowhere.pth"))


def test_last_checkpoint_names_a_missing_file(checkpointer, tmp_path):
    checkpointer.save("model_0000001")
    checkpointer.tag_last_checkpoint("model_0000009.pth")
    with pytest.raises(FileNotFoundError, match=r"(?s)model_0000009.*model_0000001.pth"):
        checkpointer.resume_or_load("", resume=True)


def test_cut_off_file_and_another_try(checkpointer, tmp_path):
    checkpointer.save("good")
    path = tmp_path / "bad.pth"
    path.write_bytes((tmp_path / "good.pth").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"bad.pth \(200 bytes\).*cut off.*good.pth"):
        checkpointer.load(str(path))
    checkpointer.load(str(tmp_path / "good.pth"))  # an error leaves nothing behind


def run_code():
    raise AssertionError("code of a checkpoint was run")


class Bomb:
    def __reduce__(self):
        return run_code, ()


@pytest.mark.parametrize("name", ["bomb.pth", "bomb.pkl", "bomb.pyth"])
def test_code_in_a_checkpoint_is_not_run(checkpointer, tmp_path, name):
    path = tmp_path / name
    if name.endswith(".pth"):
        torch.save({"model": {}, "extra": Bomb()}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=name):
        checkpointer.load(str(path))
