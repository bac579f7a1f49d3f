"""Counted operations against counts by hand, and the command-line tool."""

import re

import pytest
import torch

from spnet_d2.analysis import inference_parts
from spnet_d2.analysis.operations import _part
from tests.fixtures.scripts import load_script
from tests.modeling.tiny import DIM, TRUNK, tiny_model


def by_name(*overrides, size=(90, 120), boxes=3):
    model = tiny_model(*overrides)
    return model, {p.name: p for p in inference_parts(model, size, boxes)}


def test_parts_by_hand():
    model, parts = by_name("MODEL.SPNET.NUM_CASCADES", 1, "MODEL.SPNET.SEPARATE_HEADS", True)
    # 96 x 128 padded: maps of 12 x 16, 6 x 8, 3 x 4, 2 x 2 and 1 x 1.
    cells = 12 * 16 + 6 * 8 + 3 * 4 + 2 * 2 + 1
    channels = model.backbone.channels
    assert parts["anchor embedder"].flops == cells * channels * 9 * 9 * DIM
    assert parts["bridge 0"].flops == cells * 9 * DIM * DIM
    scored = min(1000, cells * 9) * (4 * DIM * DIM + 4 * DIM)
    assert parts["box detector 0"].flops == scored
    assert parts["box detector 1"].flops == 3 * (4 * DIM * DIM + 4 * DIM)
    assert parts["re-id embedder"].times == 3
    fpn = parts["FPN"]
    assert fpn.parameters == sum(p.numel() for p in model.backbone.fpn.parameters())
    assert sum(p.parameters for p in parts.values()) == sum(p.numel() for p in model.parameters())


def test_boxes_and_rounds_multiply():
    few = by_name("MODEL.SPNET.NUM_CASCADES", 2, boxes=2)[1]
    many = by_name("MODEL.SPNET.NUM_CASCADES", 2, boxes=6)[1]
    assert many["re-id embedder"].flops == 3 * few["re-id embedder"].flops
    assert many["trunk"].flops == few["trunk"].flops
    # Shared heads: the re-id embedder serves every stage, and is counted once as parameters.
    assert few["re-id embedder, stage 2"].flops == few["re-id embedder"].flops
    assert few["re-id embedder, stage 2"].parameters == 0


def test_unused_localisation_embedder_is_named():
    parts = by_name("MODEL.SPNET.SEPARATE_HEADS", True)[1]
    assert parts["localisation embedder (unused)"].parameters > 0
    assert parts["localisation embedder (unused)"].flops == 0


def test_attention_is_counted():
    class Attention(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.scaled_dot_product_attention(x, x, x)

    found = _part("attention", Attention(), torch.zeros(2, 3, 5, 7)).flops
    assert found == 2 * (2 * 3) * 5 * 5 * 7


def test_mode_is_left_as_it_was_and_bridges_are_needed():
    model, _ = by_name()
    assert model.training
    with pytest.raises(ValueError, match="TEST_PATHWAY OC"):
        by_name("MODEL.SPNET.PATHWAY", "QC")


@pytest.fixture
def tool():
    return load_script("tools/analyze_model.py")


SMALL = [
    *("MODEL.SPNET.BACKBONE.NAME", TRUNK, "MODEL.SPNET.EMBED_DIM", "16"),
    *("MODEL.SPNET.REID_DIM", "16", "MODEL.SPNET.REID.QUEUE_SIZE", "8"),
]


def test_tool_prints_both_tables(tool, capsys):
    options = ["--size", "64", "96", "--memory", "--measure", "64,96", "--crop", "128"]
    tool.main([*options, "--batch", "4", *SMALL])
    text = capsys.readouterr().out
    assert "trunk" in text and "re-id embedder" in text and "total" in text
    assert "2 x 96 x 96:" in text and "activations: 4 x 128 x 128" in text
    assert "float32" in text


def test_tool_on_query_centric_pretraining(tool, capsys):
    queue = ["MODEL.SPNET.REID.LOSS", "momentum_queue", "MODEL.SPNET.MOMENTUM_TWIN.ENABLED", "True"]
    small = [*SMALL, "MODEL.SPNET.REID.QUEUE_SIZE", "64", "MODEL.SPNET.PATHWAY", "QC"]
    options = ["--memory", "--measure", "64,96", "--amp"]
    tool.main([*options, *small, *queue, "MODEL.SPNET.QC.PAIRS_PER_BATCH", "32"])
    text = capsys.readouterr().out
    # Two images of 8 people are the fewest that have 32 pairs: from there on a batch's pairs
    # are constant, and so is their part.
    assert re.findall(r"(\d) x 64 x 64", text) == ["2", "4"]
    assert float(re.search(r"Fit: (\S+) GiB", text)[1]) > 0
    assert "TEST_PATHWAY OC" in text and "bfloat16" in text


@pytest.mark.parametrize(
    "bad", [["MODEL.DEVICE"], ["--memory", "--measure", "64,64"]], ids=["odd", "one size"]
)
def test_bad_arguments(tool, bad, capsys):
    with pytest.raises(SystemExit):
        tool.main(bad)
    assert "error" in capsys.readouterr().err
