"""Authors' checkpoints with other trunks: the whole model equals one around torchvision's modules.

Names are the authors', values are as large as those of the recipe of ``tests/reference.py``.
"""

import copy
import re
from collections import OrderedDict
from unittest import mock

import numpy as np
import pytest
import torch
import torchvision
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn
from torch.testing import assert_close
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import StochasticDepth
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

from spnet_d2.checkpoint.llnl import build_from_llnl, infer_config
from spnet_d2.testing import deterministic_sampling
from tests import reference
from tests.checkpoint.test_backbone_weights import SoliderOracle, solider_state
from tests.reference import reference_shapes, reference_tensor


@pytest.fixture(scope="module", autouse=True)
def quick_values():
    """The recipe with random numbers of a generator, which are made ten times as fast."""
    generator = np.random.default_rng(0)
    with mock.patch.object(
        reference, "_uniform", lambda name, shape: generator.random(shape, "f4")
    ):
        yield


FEW_BOXES = [
    *("MODEL.SPNET.ANCHORS_PER_IMAGE", 32),
    *("MODEL.SPNET.TEST.PRE_TOPK", 40),
    *("MODEL.SPNET.TEST.QUERY_TOPK", 10),
]


class TorchvisionBackbone(Backbone):
    """torchvision's trunk and FPN, with the authors' parameter names."""

    def __init__(self, trunk, returned, channels):
        super().__init__()
        self.body = IntermediateLayerGetter(trunk, {k: f"p{i}" for i, k in enumerate(returned, 3)})
        self.channels = channels[1]
        extra = LastLevelP6P7(channels[2], self.channels)
        self.fpn = FeaturePyramidNetwork(list(channels), self.channels, extra_blocks=extra)
        self.nhwc = any(type(m).__name__ == "PatchMerging" for m in self.body.modules())

    def forward(self, x):
        return self.pyramid(self.trunk_maps(x))

    def trunk_maps(self, x):
        maps = self.body(x).values()
        return [m.permute(0, 3, 1, 2) if self.nhwc else m for m in maps]

    def pyramid(self, maps):
        return dict(self.fpn(OrderedDict(zip(("p3", "p4", "p5"), maps, strict=True))))

    def output_shape(self):
        return {f"p{i}": ShapeSpec(channels=self.channels, stride=2**i) for i in range(3, 8)}

    @property
    def size_divisibility(self):
        return 32


class TorchvisionStage(nn.Module):
    """torchvision's last stage and maximum pooling; stands for a ``StageCopy``."""

    def __init__(self, stage, nhwc):
        super().__init__()
        self.head = stage
        self.nhwc = nhwc

    def forward(self, rois):
        out = self.head(rois.permute(0, 2, 3, 1)) if self.nhwc else self.head(rois)
        return rois.amax(dim=(2, 3)), out.amax(dim=(1, 2) if self.nhwc else (2, 3))


def oracle_modules(name):
    """torchvision's backbone and stage of a trunk, stochastic depth off."""
    if name == "resnet50":
        trunk = torchvision.models.resnet50()
        stage, returned, channels = trunk.layer4, ("layer2", "layer3", "layer4"), (512, 1024, 2048)
    else:
        trunk = getattr(torchvision.models, name)().features
        for module in trunk.modules():
            if isinstance(module, StochasticDepth):
                module.p = 0.0
        stage, returned, channels = trunk[6:8], ("3", "5", "7"), (192, 384, 768)
        # A slice keeps the indices; the authors' copy counts from 0.
        stage = nn.Sequential(*stage)
    stage = copy.deepcopy(stage)
    backbone = TorchvisionBackbone(trunk, returned, channels)
    return backbone, TorchvisionStage(stage, backbone.nhwc)


def fill(module, prefix):
    """Load values for the names of a checkpoint; returns that part of it."""
    state = {}
    for key, tensor in module.state_dict().items():
        name = prefix + key
        if key.endswith("relative_position_index"):
            state[name] = tensor
        else:
            state[name] = reference_tensor(name, tuple(tensor.shape))
    module.load_state_dict({k.removeprefix(prefix): v for k, v in state.items()})
    return state


def head_state(c4, c5, memory):
    """Tensors of everything but backbone and stage copy."""
    shapes = {
        k: v
        for k, v in reference_shapes(memory=memory).items()
        if k.startswith("head.") and ".emb_head." not in k and "moco_" not in k
    }
    for name, shape in shapes.items():
        if name.endswith(("feature_head.emb_pred.weight", "feat_res4.0.weight")):
            shapes[name] = (shape[0], c4, *shape[2:])
        elif name.endswith("feat_res5.0.weight"):
            shapes[name] = (shape[0], c5)
    return {name: reference_tensor(name, shape) for name, shape in shapes.items()}


def checkpoint(name):
    """An authors' checkpoint with trunk ``name``, and the modules that it stands for."""
    backbone, stage = oracle_modules(name)
    state = fill(backbone, "backbone.") | fill(stage, "head.align_emb_head.emb_head.")
    c5 = backbone.fpn.inner_blocks[2][0].in_channels
    return state | head_state(backbone.channels, c5, "oim"), backbone, stage


def image(i, height, width, *boxes):
    torch.manual_seed(i)
    rows = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    ids = torch.arange(len(rows))
    instances = Instances(
        (height, width),
        gt_boxes=Boxes(rows),
        gt_classes=torch.zeros(len(rows), dtype=torch.int64),
        gt_person_ids=ids,
        gt_identities=ids,
    )
    pixels = torch.rand(3, height, width) * 255
    return {"image": pixels, "height": height, "width": width, "instances": instances}


def batch():
    """Two images of unequal sizes."""
    people = (10, 20, 50, 100), (60, 10, 85, 90)
    return [image(0, 110, 90, *people), image(1, 70, 128, (8, 4, 40, 64), (50, 6, 88, 66))]


@pytest.fixture(scope="module", params=["swin_t", "resnet50"])
def models(request):
    """The converted model, and the same around torchvision's modules."""
    state, backbone, stage = checkpoint(request.param)
    # What SPNet ignores of a whole Swin.
    extra = {"backbone.norm.weight": torch.zeros(768)} if request.param == "swin_t" else {}
    lightning = {"state_dict": {f"model.{k}": v for k, v in (state | extra).items()}}
    model = build_from_llnl(lightning, overrides=FEW_BOXES)
    oracle = copy.copy(model)
    oracle._modules = dict(model._modules)
    oracle.backbone = backbone
    oracle.roi_heads = copy.deepcopy(model.roi_heads)
    oracle.roi_heads.reid_embedder.copy = stage
    return model, oracle


def test_detections_of_both_pathways(models):
    model, oracle = (m.eval() for m in models)
    inputs = batch()
    with torch.no_grad():
        padded = ImageList.from_tensors([x["image"] / 255 - 0.5 for x in inputs], 32).tensor
        for level, expected in oracle.backbone(padded).items():
            found = model.backbone(padded)[level]
            assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        outputs, expected = model(inputs), oracle(inputs)
        for ours, theirs in zip(outputs, expected, strict=True):
            compare(ours["instances"], theirs["instances"])
            for kind in ("reid", "loc"):
                assert_close(
                    ours["gt_embeddings"][kind], theirs["gt_embeddings"][kind], rtol=1e-4, atol=1e-4
                )
        assert sum(len(x["instances"]) for x in outputs) > 0
        # Everybody is searched for in both images.
        loc = torch.cat([x["gt_embeddings"]["loc"] for x in outputs])
        queries = {"reid": loc, "loc": loc}
        inputs = [{**x, "queries": queries} for x in inputs]
        for ours, theirs in zip(model(inputs), oracle(inputs), strict=True):
            for pair in zip(ours["query_instances"], theirs["query_instances"], strict=True):
                compare(*pair)


def compare(ours, theirs):
    assert len(ours) == len(theirs)
    assert_close(ours.pred_boxes.tensor, theirs.pred_boxes.tensor, rtol=0, atol=0.01)
    assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=1e-5)
    cosine = torch.cosine_similarity(ours.reid_embeddings, theirs.reid_embeddings)
    assert (cosine > 0.9999).all()


def test_losses(models):
    model, oracle = (m.train() for m in models)
    with deterministic_sampling():
        losses, expected = model(batch()), oracle(batch())
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(expected[name].item(), rel=1e-4), name
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    ours = model.backbone.fpn.inner_blocks[0][0].weight.grad
    theirs = oracle.backbone.fpn.inner_blocks[0][0].weight.grad
    assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def test_solider_checkpoint():
    """Each copy holds a whole Swin; the stage copy's own weights are those that count."""
    trunk = solider_state()
    copied = {k: v + 0.01 if v.is_floating_point() else v for k, v in trunk.items()}
    state = {f"backbone.swin.{k}": v for k, v in trunk.items()}
    state |= {f"head.align_emb_head.emb_head.swin.{k}": v for k, v in copied.items()}
    extra = LastLevelP6P7(768, 384)
    fpn = FeaturePyramidNetwork([192, 384, 768], 384, extra_blocks=extra)
    state |= fill(fpn, "backbone.fpn.")
    state |= head_state(384, 768, "oim")
    assert infer_config(state).MODEL.SPNET.BACKBONE.NAME == "solider_swin_tiny"
    model = build_from_llnl(state).eval()
    x = torch.randn(1, 3, 64, 96)
    roi = torch.randn(1, 384, 14, 14)
    with torch.no_grad():
        maps = OrderedDict((str(i), m[None]) for i, m in enumerate(SoliderOracle(trunk).maps(x[0])))
        for ours, expected in zip(model.backbone(x).values(), fpn(maps).values(), strict=True):
            assert_close(ours, expected, rtol=1e-3, atol=1e-4)
        feat4, feat5 = model.roi_heads.reid_embedder.copy(roi)
        expected4, expected5 = SoliderOracle(copied).stage(roi[0])
    assert_close(feat4[0], expected4)
    assert_close(feat5[0], expected5, rtol=1e-3, atol=1e-4)
    name = "head.align_emb_head.emb_head.swin.stages.0.wrong"
    with pytest.raises(ValueError, match=re.escape(name)):
        build_from_llnl(state | {name: torch.zeros(1)})
