"""Trunks compute what torchvision's and SOLIDER's do; files of others are named."""

import copy
import re

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from timm.layers import DropPath
from torch.testing import assert_close
from torchvision.ops import StochasticDepth

from spnet_d2.checkpoint.backbone_weights import load_backbone
from spnet_d2.checkpoint.torchvision_weights import (
    classifier_names,
    torchvision_to_timm,
    torchvision_weights,
)
from spnet_d2.checkpoint.weight_files import read_weights, unwrap
from spnet_d2.modeling import TimmFPN, create_trunk
from spnet_d2.modeling.box_embedder import StageCopy
from tests.fixtures.llnl_shapes import SOLIDER_SWINS, solider_shapes
from tests.oracles.trunks import SoliderOracle

# timm's name, torchvision's.
MODELS = {
    "convnext_tiny": "convnext_tiny",
    "convnext_small": "convnext_small",
    "convnext_base": "convnext_base",
    "swin_tiny_patch4_window7_224": "swin_t",
    "swin_small_patch4_window7_224": "swin_s",
    "swin_base_patch4_window7_224": "swin_b",
    "resnet50": "resnet50",
}
SMALL = ["convnext_tiny", "swin_tiny_patch4_window7_224", "resnet50"]


def empty_trunk(name):
    """A trunk without initial weights, for loading: it is made quickly."""
    with torch.device("meta"):
        return create_trunk(name, "").to_empty(device="cpu")


def torchvision_model(name):
    """A torchvision model whose norms, biases and layer scales do something."""
    model = getattr(torchvision.models, MODELS[name])()
    for parameter in model.parameters():
        if parameter.dim() in (1, 3):
            parameter.data.uniform_(-0.5, 1)
        elif parameter.dim() == 2:
            parameter.data.mul_(3)
    for module in model.modules():
        if isinstance(module, StochasticDepth):
            module.p = 0.0
    return model


def torchvision_maps(model, x):
    """Maps of strides 8, 16 and 32, (N, C, H, W), as the authors take them: no norm behind."""
    if hasattr(model, "layer1"):
        x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        maps = []
        for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
            x = layer(x)
            maps.append(x)
        return maps[1:]
    maps = []
    for index, module in enumerate(model.features):
        x = module(x)
        if index in (3, 5, 7):
            maps.append(x)
    return [m.permute(0, 3, 1, 2) for m in maps] if hasattr(model, "permute") else maps


def torchvision_stage(model, x):
    """The last stage on (n, C, 14, 14) RoI features."""
    if hasattr(model, "layer4"):
        return model.layer4(x)
    if hasattr(model, "permute"):
        return model.features[7](model.features[6](x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    return model.features[7](model.features[6](x))


@pytest.fixture(scope="module", params=SMALL)
def pair(request):
    """A torchvision model and our trunk with its weights."""
    torch.manual_seed(0)
    name = request.param
    theirs = torchvision_model(name)
    trunk = create_trunk(name, torchvision_to_timm(theirs.state_dict(), name), 0.0)
    return name, theirs, trunk


# Not multiples of 32. Windows of 7 don't fit; at stride 16 and 32 the map is longer than a window
# along none of its sides, or along one.
@pytest.mark.parametrize("size", [(61, 78), (70, 230)])
def test_maps_are_torchvisions(pair, size):
    _, theirs, trunk = pair
    backbone = TimmFPN(trunk).eval()
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        for ours, expected in zip(
            backbone.trunk_maps(x), torchvision_maps(theirs.eval(), x), strict=True
        ):
            assert_close(ours, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_stage_copy_is_torchvisions(pair):
    _, theirs, trunk = pair
    backbone = TimmFPN(trunk)
    stage = StageCopy(backbone).eval()
    rois = torch.randn(3, backbone.channels, 14, 14)
    with torch.no_grad():
        feat4, feat5 = stage(rois)
        expected = torchvision_stage(theirs.eval(), rois)
    assert_close(feat4, rois.amax(dim=(2, 3)))
    assert_close(feat5, expected.amax(dim=(2, 3)))


def test_gradients_and_statistics_are_torchvisions(pair):
    """In training, stochastic depth off; ResNet's batch norms use and keep batch statistics."""
    name, theirs, trunk = pair
    theirs.train().zero_grad()
    trunk.train().zero_grad()
    x = torch.randn(2, 3, 70, 100)
    for maps in (trunk(x), torchvision_maps(theirs, x)):
        sum((m * m).mean() for m in maps).backward()
    expected = {k: p.grad for k, p in theirs.named_parameters() if p.grad is not None}
    expected = torchvision_to_timm(expected, name)
    gradients = {k: p.grad for k, p in trunk.named_parameters()}
    assert gradients.keys() == expected.keys()
    for key, gradient in gradients.items():
        scale = float(expected[key].abs().max())
        assert_close(gradient, expected[key], rtol=1e-3, atol=1e-4 * scale, msg=key)
    statistics = [k for k in trunk.state_dict() if "running" in k]
    assert bool(statistics) == (name == "resnet50")
    for key in statistics:
        assert_close(trunk.state_dict()[key], theirs.state_dict()[key])


@pytest.mark.parametrize("name", MODELS)
def test_names_shapes_and_stochastic_depth(name):
    """Of every size: nothing missing, nothing too much, torchvision's drop probabilities."""
    with torch.device("meta"):
        theirs = getattr(torchvision.models, MODELS[name])()
        trunk = create_trunk(name, "")
    converted = torchvision_to_timm(theirs.state_dict(), name)
    shapes = {k: v.shape for k, v in trunk.state_dict().items()}
    assert shapes == {k: v.shape for k, v in converted.items()}
    expected = [m.p for m in theirs.modules() if isinstance(m, StochasticDepth) and m.p]
    drops = [m.drop_prob for m in trunk.modules() if isinstance(m, DropPath)]
    # timm's Swin has two modules where torchvision uses one twice.
    assert drops[:: 2 if "swin" in name else 1] == pytest.approx(expected)
    with torch.device("meta"):
        stage = StageCopy(TimmFPN(trunk))
    own = [m.drop_prob for m in stage.modules() if isinstance(m, DropPath)]
    assert own == drops[len(drops) - len(own) :]


def test_another_model_than_named():
    with torch.device("meta"):
        state = torchvision.models.convnext_small().state_dict()
    with pytest.raises(ValueError, match="convnext_small.*not of 'convnext_tiny'"):
        torchvision_to_timm(state, "convnext_tiny.fb_in1k")
    with pytest.raises(ValueError, match="no names of torchvision's.*stem"):
        torchvision_to_timm({"stem.weight": torch.zeros(1)}, "convnext_tiny")


def test_torchvisions_download(monkeypatch):
    """The authors' ImageNet weights: torchvision's first ones."""
    asked = []

    def get_state_dict(self, *args, **kwargs):
        asked.append(str(self))
        return {}

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", get_state_dict)
    torchvision_weights("convnext_tiny.fb_in1k")
    torchvision_weights("swin_base_patch4_window7_224")
    assert asked == ["ConvNeXt_Tiny_Weights.IMAGENET1K_V1", "Swin_B_Weights.IMAGENET1K_V1"]
    for name in ("resnet50d", "convnext_tiny_hnf", "swin_base_patch4_window12_384"):
        with pytest.raises(ValueError, match=f"no weights for '{name}'"):
            torchvision_weights(name)


@pytest.mark.parametrize("name", SMALL)
def test_classifier_goes_along(name):
    """All names of timm's whole model, for those who need its classifier."""
    with torch.device("meta"):
        state = getattr(torchvision.models, MODELS[name])().state_dict()
        whole = timm.create_model(name).state_dict()
    shapes = {k: v.shape for k, v in classifier_names(state, name).items()}
    assert shapes == {k: v.shape for k, v in whole.items()}


# SOLIDER


def solider_state():
    """Tensors of SOLIDER's Swin-T by the names of its files."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in solider_shapes(*SOLIDER_SWINS["solider_swin_t"]).items():
        tensor = torch.randn(shape, generator=generator)
        state[name] = tensor / shape[1] ** 0.5 if len(shape) == 2 else 0.3 * tensor
    return state


@pytest.fixture(scope="module")
def solider():
    state = solider_state()
    return SoliderOracle(state), TimmFPN(create_trunk("solider_swin_tiny", state)).eval()


def test_solider_maps(solider):
    oracle, backbone = solider
    images = torch.randn(2, 3, 64, 160)
    with torch.no_grad():
        maps = backbone.trunk_maps(images)
        for i, image in enumerate(images):
            for ours, expected in zip(maps, oracle.maps(image), strict=True):
                assert_close(ours[i], expected, rtol=1e-4, atol=1e-5)


def test_solider_stage_copy_averages_and_shifts(solider):
    oracle, backbone = solider
    stage = StageCopy(backbone).eval()
    rois = torch.randn(2, 384, 14, 14)
    with torch.no_grad():
        feat4, feat5 = stage(rois)
        for i, roi in enumerate(rois):
            expected4, expected5 = oracle.stage(roi)
            assert_close(feat4[i], expected4)
            assert_close(feat5[i], expected5, rtol=1e-4, atol=1e-5)
    drops = [m.drop_prob for m in stage.modules() if isinstance(m, DropPath)]
    assert drops == pytest.approx([0.1 * b / 11 for b in (10, 10, 11, 11)])


def test_solider_files(solider, tmp_path, caplog):
    """A self-supervised checkpoint, or the network alone."""
    oracle, backbone = solider
    head = {"module.head.mlp.0.weight": torch.zeros(2, 2)}
    wrapped = {
        "student": {},
        "teacher": {f"module.backbone.{k}": v for k, v in oracle.state.items()} | head,
        "epoch": 100,
    }
    torch.save(wrapped, tmp_path / "solider.pth")
    trunk = empty_trunk("solider_swin_tiny")
    load_backbone(trunk, "solider_swin_tiny", read_weights(str(tmp_path / "solider.pth")))
    for key, tensor in trunk.state_dict().items():
        assert torch.equal(tensor, backbone.trunk.state_dict()[key])
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_solider_file_with_a_plain_swin(solider):
    oracle, backbone = solider
    with pytest.raises(ValueError, match="holds SOLIDER's Swin; set it to 'solider_swin_tiny'"):
        load_backbone(backbone.trunk, "swin_tiny_patch4_window7_224", oracle.state)
    incomplete = {k: v for k, v in oracle.state.items() if k != "semantic_embed_w.1.bias"}
    with pytest.raises(ValueError, match=r"1 missing, the first: body.layers_2.downsample.scale.b"):
        load_backbone(backbone.trunk, "solider_swin_tiny", incomplete)
    more = oracle.state | {"absolute_pos": torch.zeros(1)}
    with pytest.raises(ValueError, match="1 names don't belong to SOLIDER's Swin.*absolute"):
        load_backbone(backbone.trunk, "solider_swin_tiny", more)


def microsoft_state():
    """Microsoft's Swin-T file: merging at the end of a stage, buffers, a plain head."""
    state = {}
    with torch.device("meta"):
        shapes = timm.create_model("swin_tiny_patch4_window7_224").state_dict()
    for key, tensor in shapes.items():
        key = re.sub(r"layers\.(\d)\.down", lambda m: f"layers.{int(m[1]) - 1}.down", key)
        state[key.replace("head.fc", "head")] = torch.rand(tensor.shape)
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)
    return {"model": state}


@pytest.fixture(scope="module")
def random_solider():
    return create_trunk("solider_swin_tiny", "")


def test_random_solider_is_pytorchs_default(random_solider):
    block = random_solider.body["layers_0"].blocks[0]
    assert block.attn.qkv.weight.abs().max() <= 96**-0.5
    assert block.attn.qkv.bias.abs().max() > 0
    assert not block.attn.relative_position_bias_table.any()


def test_microsofts_file_for_both_swins(random_solider, caplog):
    """It has no conditioning: random there, and said so. Factors are near softplus(0)."""
    content = microsoft_state()
    plain = empty_trunk("swin_tiny_patch4_window7_224")
    load_backbone(plain, "swin_tiny_patch4_window7_224", content)
    assert not [r for r in caplog.records if r.levelname == "WARNING"]
    solider = copy.deepcopy(random_solider)
    load_backbone(solider, "solider_swin_tiny", content)
    assert "no conditioning" in caplog.text
    merging = plain["layers_2"].downsample
    expected = content["model"]["layers.1.downsample.reduction.weight"]
    assert torch.equal(merging.reduction.weight, expected)
    own = solider.body["layers_2"].downsample
    assert torch.equal(own.reduction.weight, expected)
    assert F.softplus(own.scale(own.semantics)).mean().item() == pytest.approx(0.693, abs=0.01)
    assert torch.equal(solider.norms[0].weight, torch.ones(192))


def test_tables_of_larger_windows_are_resized():
    content = microsoft_state()["model"]
    table = "layers.3.blocks.1.attn.relative_position_bias_table"
    content[table] = torch.full((23 * 23, 24), 0.5)
    trunk = empty_trunk("solider_swin_tiny")
    load_backbone(trunk, "solider_swin_tiny", content)
    loaded = trunk.state_dict()[f"body.{table.replace('s.3', 's_3', 1)}"]
    assert_close(loaded, torch.full((169, 24), 0.5))


# Other files


def test_luperson_resnet_in_a_moco_checkpoint(tmp_path):
    """Query encoder without its projection head; key encoder and queue stay out."""
    with torch.device("meta"):
        resnet = torchvision.models.resnet50().state_dict()
    encoder = {
        k: torch.rand(v.shape).to(v.dtype) for k, v in resnet.items() if not k.startswith("fc.")
    }
    state = {f"module.encoder_q.{k}": v for k, v in encoder.items()}
    state |= {f"module.encoder_k.{k}": torch.zeros_like(v) for k, v in encoder.items()}
    state |= {"module.encoder_q.fc.0.weight": torch.zeros(2, 2), "module.queue": torch.zeros(3)}
    torch.save({"arch": "resnet50", "epoch": 199, "state_dict": state}, tmp_path / "lup.pth")
    trunk = empty_trunk("resnet50")
    load_backbone(trunk, "resnet50", read_weights(str(tmp_path / "lup.pth")))
    assert trunk.state_dict().keys() == encoder.keys()
    for key, tensor in trunk.state_dict().items():
        assert torch.equal(tensor, encoder[key])


def test_random_resnet_is_torchvisions():
    """No batch norm starts at zero."""
    trunk = create_trunk("resnet50", "")
    assert torch.equal(trunk["layer4"][2].bn3.weight, torch.ones(2048))


def test_a_file_of_another_model_is_refused(tmp_path):
    state = timm.create_model("resnet34").state_dict()
    with pytest.raises(ValueError) as error:
        create_trunk("resnet18", {"state_dict": state})
    for part in ("NAME 'resnet18'", "too much", "layer1.2.conv1.weight", "weights of resnet18"):
        assert part in str(error.value)
    with pytest.raises(ValueError, match="missing, the first: stem_0.weight"):
        create_trunk("test_convnext", state)
    narrow = timm.create_model("resnet18").state_dict()
    narrow["layer1.0.conv1.weight"] = torch.zeros(32, 64, 3, 3)
    with pytest.raises(ValueError, match=r"1 of another shape.*\(32, 64, 3, 3\) instead of"):
        create_trunk("resnet18", narrow)
    with pytest.raises(ValueError, match="convnext_tiny.*not of 'test_convnext'"):
        with torch.device("meta"):
            theirs = torchvision.models.convnext_tiny().state_dict()
        create_trunk("test_convnext", theirs)
    with pytest.raises(FileNotFoundError, match="BACKBONE.PRETRAINED.*nothing.pth"):
        create_trunk("resnet18", str(tmp_path / "nothing.pth"))


@pytest.mark.parametrize("name", ["vit_small_patch16_224", "pass_vit", "deit_tiny_patch16_224"])
def test_plain_transformers_are_refused_by_name(name):
    with pytest.raises(ValueError, match=r"Plain vision transformers \(ViT, DeiT, PASS\).*512"):
        create_trunk(name, "")


def test_plain_transformers_are_refused_by_their_files():
    pass_file = {"cls_token": torch.zeros(1, 1, 8), "part_token1": torch.zeros(1, 1, 8)}
    with pytest.raises(ValueError, match="holds a plain vision transformer.*PASS"):
        load_backbone(create_trunk("resnet18", ""), "resnet18", {"teacher": pass_file})


def test_unwrap_takes_the_inner_network():
    tensor = torch.zeros(1)
    assert unwrap({"state_dict": {"module.model.a": tensor}, "epoch": 3}) == {"a": tensor}
    assert unwrap({"model": {"backbone.a": tensor, "neck.b": tensor}}) == {"a": tensor}
