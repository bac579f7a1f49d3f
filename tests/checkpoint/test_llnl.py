"""Authors' checkpoints: architecture read off names, nothing lost, nothing guessed."""

import pytest
import torch

from spnet_d2.checkpoint.llnl import build_from_llnl, convert_state_dict, infer_config
from tests.fixtures.reference import reference_shapes


def zeros(**architecture):
    """A checkpoint with the right names and shapes."""
    dtype = {True: torch.int64, False: torch.float32}
    return {
        name: torch.zeros(shape, dtype=dtype[name.endswith("tracked")])
        for name, shape in reference_shapes(**architecture).items()
    }


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ({}, (0, False, 128)),
        ({"cascades": 2}, (2, False, 128)),
        ({"cascades": 2, "separate": True, "reid_dim": 2048}, (2, True, 2048)),
        ({"separate": True}, (0, True, 128)),
    ],
)
def test_architecture_is_inferred(architecture, expected):
    options = infer_config(zeros(**architecture)).MODEL.SPNET
    found = (options.NUM_CASCADES, options.SEPARATE_HEADS, options.REID_DIM)
    assert found == expected
    assert options.BACKBONE.NAME == "convnext_tiny"
    assert (options.EMBED_DIM, options.REID.NUM_IDENTITIES) == (128, 50)


def test_lightning_file_and_prefix():
    state = zeros()
    wrapped = {"state_dict": {f"model.{k}": v for k, v in state.items()}, "epoch": 29}
    assert convert_state_dict(wrapped).keys() == convert_state_dict(state).keys()
    assert len(convert_state_dict(state)) == len(state) + 1  # the queue's position


def test_sizes_of_the_published_models():
    """Parameters of SPNet-S's fine-tuning model: 55.91 million."""
    model = build_from_llnl(zeros())
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(55.91, abs=0.01)


def test_unmapped_name_is_named():
    state = zeros() | {"head.gfn.head.weight": torch.zeros(3)}
    with pytest.raises(ValueError, match="head.gfn.head.weight"):
        convert_state_dict(state)


def test_missing_and_misshaped_names_are_named():
    state = zeros()
    del state["head.regression_head.0.head.bias"]
    state["backbone.fpn.extra_blocks.p6.bias"] = torch.zeros(7)
    with pytest.raises(ValueError, match="box_detector.box_head.1.bias.*extra_blocks.p6.bias"):
        build_from_llnl(state)


def test_foreign_checkpoint():
    with pytest.raises(ValueError, match="no checkpoint of the authors'.*conv1.weight"):
        build_from_llnl({"conv1.weight": torch.zeros(3)})


@pytest.mark.parametrize("form", [lambda x: [v for p in x.items() for v in p], dict.items, dict])
def test_overrides_come_last(form):
    """Keys and values in turn, in pairs, or as a mapping; a value may be a pair itself."""
    given = {"MODEL.SPNET.ANCHORS_PER_IMAGE": 256, "TEST.PROTOCOLS": ("G50", "G100")}
    model = build_from_llnl(zeros(), overrides=form(given))
    assert model.proposal_generator.anchors_per_image == 256
