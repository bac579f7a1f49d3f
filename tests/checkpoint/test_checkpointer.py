"""Checkpoints: safe files and clear errors."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.utils import comm
from torch import nn

from spnet_d2.checkpoint.files import DamagedCheckpointError, find_damage, read_checkpoint
from spnet_d2.engine import Checkpointer
from tests.engine.processes import together


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


def change_a_bit(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"weight")] ^= 1
    path.write_bytes(content)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [change_a_bit, cut_off, empty])
@pytest.mark.parametrize("before", ["model_0000003", "backup_0000003"])
@pytest.mark.parametrize("last", ["model_0000005", "backup_0000005", "model_final"])
def test_damaged_last_checkpoint_is_passed_over(
    checkpointer, tmp_path, caplog, spoil, last, before
):
    older = tmp_path / "model_0000004.pth"  # of a run with another period
    torch.save({"model": {}}, older)
    os.utime(older, (0, 0))
    weights = {}
    # Those of other names are no part of the run.
    for name in ("model_0000001", before, "before_non_finite_0000004", "mine", last):
        with torch.no_grad():
            weights[name] = checkpointer.model.weight.add_(1).clone()
        checkpointer.save(name, saved_as=name)
    spoil(tmp_path / f"{last}.pth")
    other = Checkpointer(nn.Linear(2, 2), str(tmp_path))
    assert other.resume_or_load("", resume=True)["saved_as"] == before
    assert torch.equal(other.model.weight, weights[before])
    assert f"{last}.pth is" in caplog.text and "before, " in caplog.text


def test_all_checkpoints_damaged(checkpointer, tmp_path):
    before = checkpointer.model.weight.clone()
    for name in ("model_0000001", "model_0000003"):
        checkpointer.save(name)
        change_a_bit(tmp_path / f"{name}.pth")
    with pytest.raises(
        DamagedCheckpointError, match=r"(?s)0000003.pth is .*0000001.pth is .*remove"
    ):
        checkpointer.resume_or_load("", resume=True)
    assert torch.equal(checkpointer.model.weight, before)


def test_checksums_see_what_torch_does_not(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.full((1000,), 1.5)}, path)
    assert find_damage(path) is None
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\0\0\xc0\x3f", b"\0\0\xc0\x3d", 1))
    assert (torch.load(path, weights_only=True)["weight"] == 1.5).sum() == 999
    with pytest.raises(DamagedCheckpointError, match=r"weights.pth .*checksum"):
        read_checkpoint(path)


@pytest.mark.parametrize("value", [np.float64(0.5), np.zeros(2), slice(2), object])
def test_what_could_not_be_read_is_not_written(checkpointer, tmp_path, value):
    with pytest.raises(TypeError, match=r"checkpoint\['hooks'\]\[1\]\['best'\] is an object of"):
        checkpointer.save("model", hooks=[{"best": 0.5}, {"best": value}])
    assert not list(tmp_path.iterdir())


def test_cut_off_file_and_another_try(checkpointer, tmp_path):
    checkpointer.save("good")
    path = tmp_path / "bad.pth"
    path.write_bytes((tmp_path / "good.pth").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"bad.pth \(200 bytes\) is cut off.*good.pth"):
        checkpointer.load(str(path))
    checkpointer.load(str(tmp_path / "good.pth"))  # an error leaves nothing behind


@pytest.mark.parametrize(
    "content",
    [[1, 2], {"model": 3}, {"model": {1: torch.zeros(2)}}, {"model": {"state_dict": None}}],
)
@pytest.mark.parametrize("load", ["load", "start_from", "load_to_serve"])
def test_files_without_named_weights(checkpointer, tmp_path, content, load):
    path = tmp_path / "list.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match="list.pth: .*expected weights by name, found "):
        getattr(checkpointer, load)(str(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.fill_(float("nan")), r"1 of 2 tensors have NaN or infinite numbers.*weight"),
        (lambda w: w.half() * 1e30, r"1 of 2 tensors have NaN or infinite numbers.*weight"),
        (lambda w: w.int(), r"weight is torch.int32; expected torch.float32"),
        (lambda w: w.to(torch.complex64), r"weight is torch.complex64; expected torch.float32"),
        (lambda w: w.to("meta"), "weight is a meta tensor; expected plain numbers"),
        (lambda w: w.to_sparse(), "weight is a sparse_coo tensor; expected plain numbers"),
        (lambda w: w.to_sparse_csr(), "weight is a sparse_csr tensor; expected plain numbers"),
    ],
)
@pytest.mark.parametrize("load", ["load", "start_from", "load_to_serve"])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_numbers_that_no_model_computes_with(checkpointer, tmp_path, change, message, load):
    before = checkpointer.model.weight.detach().clone()
    state = checkpointer.model.state_dict()
    torch.save({"model": {**state, "weight": change(state["weight"].clone())}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=f"a.pth: {message}"):
        getattr(checkpointer, load)(str(tmp_path / "a.pth"))
    assert torch.equal(checkpointer.model.weight, before)


def test_weights_in_other_precisions(checkpointer, tmp_path):
    state = checkpointer.model.state_dict()
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        torch.save({"model": {k: v.to(dtype) for k, v in state.items()}}, tmp_path / "a.pth")
        checkpointer.load(str(tmp_path / "a.pth"))
        assert checkpointer.model.weight.dtype == torch.float32


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


def resume_apart(folder: Path) -> str:
    """What two processes say that have folders of their own under the same name."""
    own = folder / str(comm.get_rank())
    own.mkdir()
    os.chdir(own)
    checkpointer = Checkpointer(nn.Linear(1, 1), ".")
    if comm.is_main_process():
        checkpointer.save("model_0000001")
    try:
        checkpointer.resume_or_load("", resume=True)
    except FileNotFoundError as error:
        return str(error)
    return "resumed"


def test_processes_do_not_part_where_only_some_see_the_checkpoint(tmp_path):
    first, second = together(resume_apart, tmp_path)
    assert first == second
    assert "model_0000001.pth, but processes 1 have no such file. Set OUTPUT_DIR" in first
