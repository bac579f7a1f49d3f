"""What is looked at in a run's folder before training starts."""

import json
import logging
import shutil
from argparse import Namespace
from collections import namedtuple

import pytest
import torch
from torch import nn

from spnet_d2.engine import Checkpointer, Trainer, setup
from spnet_d2.engine.output_folder import (
    check_space,
    check_writable,
    checkpoint_bytes,
    cut_metrics,
)

Usage = namedtuple("Usage", "total used free")


def test_folder_is_made_and_left_empty(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())


@pytest.mark.parametrize("folder", ["file/outputs", "/proc/outputs"])
def test_unwritable_folder_is_reported_before_any_work(tmp_path, folder):
    (tmp_path / "file").write_text("no folder")
    path = tmp_path / folder
    with pytest.raises(OSError, match=r"Nothing can be written to OUTPUT_DIR /.*outputs: .*Choose"):
        setup(Namespace(config_file="", opts=["OUTPUT_DIR", str(path)]))


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_size_of_a_checkpoint(tmp_path, kind):
    model = nn.Linear(400, 500)
    model.bias.requires_grad_(False)
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimizer = kind([model.weight], lr=0.1, **options)
    expected = checkpoint_bytes(model, optimizer)
    model(torch.ones(1, 400)).sum().backward()
    optimizer.step()
    Checkpointer(model, str(tmp_path), optimizer=optimizer).save("model")
    assert expected == pytest.approx((tmp_path / "model.pth").stat().st_size, rel=0.01)


def test_space_on_the_disk(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100, 50, 3 * 2**30))
    with caplog.at_level(logging.WARNING):
        check_space(tmp_path, 2**30, 3)
        assert not caplog.text
        check_space(tmp_path, 2**30, 4)
    assert "3.00 GiB free" in caplog.text and "the 4 of this run will not fit" in caplog.text
    with pytest.raises(OSError, match="3.00 GiB free, and a checkpoint takes 4.00 GiB"):
        check_space(tmp_path, 2**32, 1)


def test_full_disk_is_reported_before_training(tiny_opts, tmp_path, monkeypatch):
    opts = [*tiny_opts, "OUTPUT_DIR", str(tmp_path / "run")]
    trainer = Trainer(setup(Namespace(config_file="", opts=opts)))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100, 100, 1000))
    with pytest.raises(OSError, match="a checkpoint takes"):
        trainer.train()
    assert trainer.iter == 0 and not list((tmp_path / "run").glob("*.pth"))


def rows(*iterations) -> str:
    return "".join(json.dumps({"iteration": i, "loss": 0.5}) + "\n" for i in iterations)


@pytest.mark.parametrize(
    ("found", "start", "left"),
    [
        (rows(19, 39, 59), 40, rows(19, 39)),
        (rows(19, 39), 40, rows(19, 39)),
        (rows(19, 39, 59) + '{"iterati', 30, rows(19)),
        (rows(19, 39) + '{"iterati', None, rows(19, 39)),
        (rows(19, 39) + "\0\0\0\n", 60, rows(19, 39)),
        (rows(19, 39)[:-1], 60, rows(19)),  # complete but for the end of the line
        (rows(99, 119, 19, 39, 59), 40, rows(99, 119, 19, 39)),  # an older run before it
        ("", 40, ""),
    ],
)
def test_metrics_after_a_crash(tmp_path, found, start, left):
    path = tmp_path / "metrics.json"
    path.write_text(found)
    with open(path, "a") as writer:  # as Detectron2 opens it before
        cut_metrics(path, start)
        writer.write("more\n")
    assert path.read_text() == left + "more\n"


def test_no_metrics_yet(tmp_path):
    cut_metrics(tmp_path / "metrics.json", 40)
    assert not (tmp_path / "metrics.json").exists()
