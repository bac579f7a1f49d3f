"""tools/make_starter.py: its options, and a training set that is not mixed with another."""

import os

import pytest
import torch

from spnet_d2.starter.recipe import train_part
from tests.fixtures.scripts import load_script


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/make_starter.py")


def test_arguments(tool, capsys):
    for words, message in (
        ([], "nothing to train on: give --data or --video"),
        (["--video", "a.mp4"], "--video needs --detector"),
        (["--data", "a=a", "--copies", "-1"], "0 or more"),
        (["--data", "a=a", "SEED"], "KEY VALUE pairs"),
    ):
        with pytest.raises(SystemExit):
            tool.parse_args(["--reid", "reid.yaml", *words])
        assert message in capsys.readouterr().err


def test_a_finished_training_set_is_taken_for_the_same_options_only(tool, tmp_path):
    def made(*words):
        args = tool.parse_args(["--reid", "reid.yaml", "--data", "a=a", *words])
        tool.make_data(args, tmp_path)

    (tmp_path / "datasets.yaml").touch()
    made()
    made()
    with pytest.raises(ValueError, match="made with other settings .--sheets 5000 -> 5"):
        made("--sheets", "5")


def test_a_finished_training_is_taken_for_the_same_settings_only(tmp_path):
    (tmp_path / "model_final.pth").touch()
    settings = ["SOLVER.MAX_ITER", "300", "MODEL.DEVICE", "cpu"]
    assert train_part("starter/adapt_oc", tmp_path, settings, 0).name == "model_final.pth"
    train_part("starter/adapt_oc", tmp_path, [*settings[:2], "MODEL.DEVICE", "cuda"], 1)
    with pytest.raises(ValueError, match="SOLVER.MAX_ITER 300 -> 1000"):
        train_part("starter/adapt_oc", tmp_path, ["SOLVER.MAX_ITER", "1000"], 0)


def test_each_part_begins_with_the_one_before(tool, tmp_path, monkeypatch):
    """And the mean of the last two is fitted; trainings and fit are others' tests."""
    starts, fitted = [], []

    def train(config, output, opts, num_gpus):
        where = dict(zip(opts[::2], opts[1::2])).get("MODEL.WEIGHTS")
        starts.append((config, where))
        output.mkdir()
        torch.save({"model": {"w": torch.tensor([float(len(starts))])}}, output / "model_final.pth")
        return output / "model_final.pth"

    monkeypatch.setattr(tool, "train_part", train)
    monkeypatch.setattr(tool, "make_data", lambda args, folder: None)
    monkeypatch.setattr(tool.lite0_weights, "write_lite0_weights", lambda path: path.touch())

    def fit(*args, opts):
        fitted.append(args)
        args[-1].touch()

    monkeypatch.setattr(tool, "fit_projections", fit)
    words = ["--reid", "reid.yaml", "--data", "a=a", "--output", str(tmp_path), "--num-gpus", "0"]
    tool.run(tool.parse_args(words))
    assert starts == [
        ("starter/pretrain_qc", None),
        ("starter/finetune_oc", str(tmp_path / "pretrain" / "model_final.pth")),
        ("starter/finetune_oc_large", str(tmp_path / "finetune" / "model_final.pth")),
    ]
    mean = tmp_path / "mean.pth"
    assert torch.load(mean, weights_only=True)["model"]["w"].tolist() == [2.5]
    fit_once = [("starter/finetune_oc", mean, tmp_path / "data", tmp_path / "starter.pth")]
    assert fitted == fit_once

    monkeypatch.setattr(tool, "train_part", lambda config, output, *_: output / "model_final.pth")
    tool.run(tool.parse_args(words))
    assert fitted == fit_once, "what is finished is skipped"
    os.utime(tmp_path / "large" / "model_final.pth", (2**32, 2**32))
    tool.run(tool.parse_args(words))
    assert fitted == 2 * fit_once, "the last part was trained again"
