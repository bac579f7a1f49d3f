import pytest
import torch

from spnet_d2.config_reader import ConfigError, read_config
from spnet_d2.modeling import TimmFPN, create_trunk
from spnet_d2.modeling.backbone import last_stage
from spnet_d2.modeling.box_embedder import ReidEmbedder, RoiOptions, StageCopy, jitter_boxes
from tests.modeling.tiny import tiny_model

TRUNKS = [
    "convnext_atto",
    "swin_tiny_patch4_window7_224",
    "resnet18",
    "tf_efficientnet_lite0",
    "mobilenetv3_small_050",
    "test_convnext",
]


@pytest.mark.parametrize("name", TRUNKS)
def test_every_family_makes_a_pyramid_and_a_stage_copy(name):
    torch.manual_seed(0)
    backbone = TimmFPN(create_trunk(name, "")).eval()
    features = backbone(torch.rand(2, 3, 96, 160))
    shapes = backbone.output_shape()
    assert list(features) == ["p3", "p4", "p5", "p6", "p7"] == list(shapes)
    sizes = [(12, 20), (6, 10), (3, 5), (2, 3), (1, 2)]
    for (level, feature), size in zip(features.items(), sizes):
        assert feature.shape == (2, shapes[level].channels, *size)
        assert torch.isfinite(feature).all()
    copy = StageCopy(backbone).eval()
    feat4, feat5 = copy(torch.rand(3, copy.in_channels, 14, 14))
    assert feat4.shape == (3, backbone.channels)
    assert feat5.shape == (3, backbone.trunk_channels[2])
    empty4, empty5 = copy.train()(torch.rand(0, copy.in_channels, 14, 14))
    assert empty4.shape == (0, backbone.channels)
    assert empty5.shape == (0, backbone.trunk_channels[2])
    empty5.sum().backward()
    assert all(p.grad is not None for p in copy.parameters())


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "test_convnext"])
def test_stage_copy_is_the_trunks_last_stage(name):
    """On a stride-16 map it gives the stride-32 map; its weights are its own."""
    trunk = create_trunk(name, "", drop_path_rate=0.0).eval()
    stage = last_stage(trunk).eval()
    with torch.no_grad():
        _, c4, c5 = trunk(torch.rand(1, 3, 64, 64))
        torch.testing.assert_close(stage(c4), c5)
        for p in trunk.parameters():
            p.zero_()
        torch.testing.assert_close(stage(c4), c5)


def test_weights_from_a_file_and_from_a_state_dict(tmp_path):
    import timm

    torch.manual_seed(3)
    state = timm.create_model("test_convnext", pretrained=False).state_dict()
    torch.save({"state_dict": state}, tmp_path / "weights.pth")
    for source in (state, str(tmp_path / "weights.pth")):
        trunk = create_trunk("test_convnext", source)
        loaded = trunk.state_dict()["stages_0.blocks.0.conv_dw.weight"]
        assert torch.equal(loaded, state["stages.0.blocks.0.conv_dw.weight"])


def test_stochastic_depth_is_the_references():
    rates = [
        m.drop_prob
        for m in create_trunk("convnext_tiny", "").modules()
        if type(m).__name__ == "DropPath"
    ]
    # p_max * block / (blocks - 1); the first block has none.
    assert rates == pytest.approx([0.1 * b / 17 for b in range(1, 18)])


def test_frozen_batch_norms_stay_frozen_in_training():
    backbone = TimmFPN(create_trunk("resnet18", ""), freeze_bn=True).train()
    before = {k: v.clone() for k, v in backbone.trunk.state_dict().items() if "running" in k}
    backbone(torch.rand(2, 3, 64, 64))
    after = backbone.trunk.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert not backbone.trunk["bn1"].weight.requires_grad
    assert backbone.trunk["conv1"].weight.requires_grad


def test_identity_fpn_passes_the_stride_16_map_on():
    trunk = create_trunk("resnet18", "").eval()
    backbone = TimmFPN(trunk, fpn_init="identity").eval()
    for lateral in (backbone.fpn.inner_blocks[0][0], backbone.fpn.inner_blocks[2][0]):
        torch.nn.init.zeros_(lateral.weight)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        features, (_, c4, _) = backbone(x), trunk(x)
    torch.testing.assert_close(features["p4"], c4)
    torch.testing.assert_close(features["p3"], c4.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_unknown_fpn_init():
    with pytest.raises(ValueError, match="identity"):
        TimmFPN(create_trunk("resnet18", ""), fpn_init="zeros")


@pytest.mark.parametrize("name", ["resnet18", "test_convnext", "swin_tiny_patch4_window7_224"])
def test_stripes_of_a_roi_are_pooled_apart(name):
    torch.manual_seed(0)
    trunk = create_trunk(name, "")
    backbone = TimmFPN(trunk).eval()
    copy = StageCopy(backbone, RoiOptions("avg", stripes=2)).eval()
    rois = torch.rand(3, copy.in_channels, 14, 14)
    with torch.no_grad():
        feat4, feat5 = copy(rois)
        whole4, whole5 = StageCopy(backbone, RoiOptions("avg")).eval()(rois)
    halves = torch.cat([rois[:, :, :7].mean((2, 3)), rois[:, :, 7:].mean((2, 3))], dim=1)
    torch.testing.assert_close(feat4, halves)
    # 7 rows: 4 and 3.
    top, bottom = feat5.chunk(2, dim=1)
    torch.testing.assert_close((4 * top + 3 * bottom) / 7, whole5)
    assert whole4.shape == (3, copy.in_channels)
    assert not torch.allclose(top, bottom)
    assert [part.shape for part in copy(rois[:0])] == [(0, size) for size in copy.sizes]


def test_a_map_has_no_more_stripes_than_rows():
    torch.manual_seed(0)
    backbone = TimmFPN(create_trunk("resnet18", "")).eval()
    rows = StageCopy(backbone, RoiOptions("avg", stripes=7)).eval()
    rois = torch.rand(2, backbone.channels, 14, 14)
    with torch.no_grad():
        feat4, feat5 = StageCopy(backbone, RoiOptions("avg", stripes=14)).eval()(rois)
        torch.testing.assert_close(feat5, rows(rois)[1])
    torch.testing.assert_close(feat4, rois.mean(3).transpose(1, 2).flatten(1))


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_margin_of_a_roi_is_not_pooled(name):
    torch.manual_seed(0)
    backbone = TimmFPN(create_trunk(name, "")).eval()
    copy = StageCopy(backbone, RoiOptions("avg", margin=1 / 7)).eval()
    rois = torch.rand(2, backbone.channels, 14, 14)
    with torch.no_grad():
        feat4, feat5 = copy(rois)
        out = copy.stage(rois.permute(0, 2, 3, 1) if copy.channels_last else rois)
    out = out.permute(0, 3, 1, 2) if copy.channels_last else out
    torch.testing.assert_close(feat4, rois[..., 2:-2].mean((2, 3)))
    torch.testing.assert_close(feat5, out[..., 1:-1].mean((2, 3)))


@pytest.mark.parametrize(("share", "sizes"), [(0.5, (3, 4)), (0.75, (5, 2)), (1.0, (7,))])
def test_share_of_feat4_in_the_re_id_embedding(share, sizes):
    torch.manual_seed(0)
    backbone = TimmFPN(create_trunk("resnet18", "")).eval()
    embedder = ReidEmbedder(backbone, 7, share).eval()
    assert tuple(p[0].out_features for p in embedder.projectors) == sizes
    assert any("stage" in name for name, _ in embedder.named_parameters()) == (share < 1)
    rois = torch.rand(2, backbone.channels, 14, 14)
    with torch.no_grad():
        found = embedder(rois)
        projector = embedder.projectors[0]
        torch.testing.assert_close(found[:, : sizes[0]], projector(rois.amax((2, 3))))
    assert found.shape == (2, 7) and embedder(rois[:0]).shape == (0, 7)


def test_jitter_moves_every_side_by_a_share_of_the_shorter_one():
    torch.manual_seed(0)
    boxes = torch.tensor([[10.0, 20.0, 50.0, 120.0]]).repeat(2000, 1)
    moves = jitter_boxes(boxes, 0.1) - boxes
    # Uniform in -4 .. 4, every side by itself.
    assert moves.abs().max() <= 4 and (moves.abs().amax(0) > 3.9).all()
    torch.testing.assert_close(moves.std(0), torch.full((4,), 4 / 3**0.5), rtol=0.05, atol=0)
    assert torch.corrcoef(moves.T).fill_diagonal_(0).abs().max() < 0.1


@pytest.mark.parametrize("share", [0.0, 0.1, 1.2, float("nan")])
def test_no_or_too_large_share_of_feat4(share):
    with pytest.raises(ValueError, match=r"feat4_share is .*dim \(7\)"):
        ReidEmbedder(TimmFPN(create_trunk("resnet18", "")), 7, share)


@pytest.mark.parametrize(
    "option", [{"pooling": "sum"}, {"stripes": 0}, {"stripes": 15}, {"margin": 0.5}]
)
def test_unknown_roi_pooling(option):
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=f"RoI {name} (is|are) .*, expected"):
        RoiOptions(**option)
    with pytest.raises(ConfigError, match=f"SMALL_DATA.ROI_{name.upper()} is .*, expected"):
        tiny_model(f"MODEL.SPNET.SMALL_DATA.ROI_{name.upper()}", value)


def test_frozen_stage_copy_passes_gradients_on():
    trunk = create_trunk("test_convnext", "")
    copy = StageCopy(TimmFPN(trunk), RoiOptions(freeze_stage=True))
    assert not any(p.requires_grad for p in copy.parameters())
    rois = torch.rand(2, copy.in_channels, 14, 14, requires_grad=True)
    copy(rois)[1].sum().backward()
    assert rois.grad.abs().sum() > 0


def test_frozen_p3_stays_while_coarser_levels_train():
    torch.manual_seed(0)
    backbone = TimmFPN(create_trunk("test_convnext", ""), freeze=True, freeze_p3=True).eval()
    x = torch.rand(1, 3, 64, 64)
    before = backbone(x)
    sum(level.square().sum() for level in before.values()).backward()
    torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1).step()
    after = backbone(x)
    assert torch.equal(before["p3"], after["p3"])
    assert not any(torch.allclose(before[name], after[name]) for name in ("p4", "p5", "p6", "p7"))


@pytest.mark.parametrize("rate, expected", [(-1.0, 0.1), (0.0, 0.0), (0.3, 0.3)])
def test_stochastic_depth_is_the_references_or_as_set(rate, expected):
    cfg = read_config(
        opts=["MODEL.SPNET.BACKBONE.PRETRAINED", "", "MODEL.SPNET.BACKBONE.DROP_PATH_RATE", rate]
    )
    trunk = TimmFPN.from_config(cfg)["trunk"]
    rates = [getattr(m, "drop_prob", 0.0) or 0.0 for m in trunk.modules()]
    assert max(rates) == pytest.approx(expected)
