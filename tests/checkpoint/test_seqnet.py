"""Names of the Gallery Filter Network's authors: each finds its place, and none is left over."""

import pytest
import torch
from detectron2.modeling import build_model

from spnet_d2.checkpoint.seqnet import convert_state_dict, infer_config
from tests.fixtures.seqnet_shapes import seqnext_shapes, with_aliases


@pytest.mark.parametrize(
    ("trunk", "tensors", "names", "parameters"),
    [("convnext_base", 451, 626, 148.03), ("resnet50", 414, 665, 69.19)],
)
def test_published_models(trunk, tensors, names, parameters):
    """As many tensors and names as theirs have, and parameters (frozen norms have none there)."""
    shapes = seqnext_shapes(483, 500, 2048, gfn=True, trunk=trunk)
    published = with_aliases(shapes)
    assert (len(shapes), len(published)) == (tensors, names)
    state = {name: torch.empty(shape, device="meta") for name, shape in published.items()}
    cfg = infer_config(state)
    assert cfg.MODEL.SPNET.GFN.ENABLED and cfg.MODEL.SPNET.BACKBONE.NAME == trunk
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    found, expected = convert_state_dict(state), model.state_dict()
    counters = ("queue_head", "gallery_filter.step", "num_batches_tracked")
    assert found.keys() <= expected.keys()
    assert all(name.endswith(counters) for name in expected.keys() - found.keys())
    assert all(found[name].shape == expected[name].shape for name in found)
    total = sum(p.numel() for p in model.parameters()) / 1e6
    assert total == pytest.approx(parameters, rel=3e-3)
