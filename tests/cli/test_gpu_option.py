"""--num-gpus of tools that train."""

import argparse

import pytest
import torch

from spnet_d2.cli.gpu_option import add_gpu_option, choose_gpus


@pytest.mark.parametrize(
    "there, words, expected",
    [
        (0, [], 0),
        (4, [], 1),
        (4, ["--num-gpus", "0"], 0),
        (4, ["--num-gpus", "4"], 4),
    ],
)
def test_choice(monkeypatch, there, words, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    parser = argparse.ArgumentParser()
    add_gpu_option(parser)
    assert choose_gpus(parser, parser.parse_args(words).num_gpus) == expected


@pytest.mark.parametrize("number", [-1, 2])
def test_more_than_there_are(monkeypatch, number, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SystemExit):
        choose_gpus(argparse.ArgumentParser(), number)
    assert f"--num-gpus {number}, but PyTorch finds 1 GPUs" in capsys.readouterr().err
