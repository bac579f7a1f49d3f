"""A backbone that is no timm model: one class with the interface of PyramidBackbone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import BACKBONE_REGISTRY
from torch import nn

from spnet_d2.modeling.backbone import PyramidBackbone
from tests.modeling.tiny import tiny_input, tiny_model

BOX_A, BOX_B = (10, 10, 50, 80), (60, 5, 110, 90)
OWN = ("MODEL.BACKBONE.NAME", "PlainBackbone")
WIDTHS = (8, 12, 16)


def downsampling(inputs, outputs, stride):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.ReLU())


class PlainBackbone(PyramidBackbone):
    """Three convolutions, and a pyramid that repeats the stride-16 map's channels."""

    def __init__(self, cfg, input_shape=None):
        super().__init__()
        self.trunk = nn.ModuleList(
            [downsampling(3, 8, 8), downsampling(8, 12, 2), downsampling(12, 16, 2)]
        )
        self.trunk_channels, self.channels = WIDTHS, 12
        self.fpn = nn.ModuleList(nn.Conv2d(width, 12, 1) for width in WIDTHS)
        self.frozen = cfg.MODEL.SPNET.BACKBONE.FREEZE

    def trunk_maps(self, x):
        maps = []
        for stage in self.trunk:
            maps.append(stage(maps[-1] if maps else x))
        return maps

    def pyramid(self, maps):
        levels = [lateral(x) for lateral, x in zip(self.fpn, maps)]
        for _ in range(2):
            levels.append(F.max_pool2d(levels[-1], 1, 2))
        return {f"p{i}": level for i, level in enumerate(levels, start=3)}

    def copy_last_stage(self):
        return copy.deepcopy(self.trunk[2])


@pytest.fixture(autouse=True)
def registered():
    BACKBONE_REGISTRY.register(PlainBackbone)
    yield
    del BACKBONE_REGISTRY._obj_map["PlainBackbone"]


@pytest.mark.parametrize(
    "options",
    [
        ("MODEL.SPNET.NUM_CASCADES", 1),
        ("MODEL.SPNET.SEPARATE_HEADS", True, "MODEL.SPNET.PATHWAY", "QC"),
        ("MODEL.SPNET.REID.LOSS", "momentum_queue", "MODEL.SPNET.MOMENTUM_TWIN.ENABLED", True),
    ],
)
def test_it_trains_a_step_and_detects(options):
    model = tiny_model(*OWN, *options)
    batch = [tiny_input(i, BOX_A, BOX_B) for i in range(2)]
    before = {name: p.clone() for name, p in model.backbone.named_parameters()}

    losses = model(batch)
    sum(losses.values()).backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()

    assert type(model.backbone) is PlainBackbone
    assert all(torch.isfinite(loss) for loss in losses.values())
    for name, parameter in model.backbone.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    with torch.no_grad():
        (found,) = model.eval()([tiny_input(3, BOX_A)])
    assert found["gt_embeddings"]["reid"].shape == (1, 16)


def test_levels_are_described_for_detectron2():
    shapes = tiny_model(*OWN).backbone.output_shape()
    assert [(s.channels, s.stride) for s in shapes.values()] == [
        (12, stride) for stride in (8, 16, 32, 64, 128)
    ]
