"""Settings of SeqNet and SeqNeXt, and the worked example of SeqNet's OIM."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch.nn.functional import normalize

from spnet_d2.config_reader import ConfigError
from spnet_d2.modeling.config_problems import check_model_config
from spnet_d2.modeling.seqnet.heads import NormAwareEmbedding
from spnet_d2.modeling.seqnet.oim import SeqNetOIM
from tests.modeling.tiny import tiny_config


@pytest.mark.parametrize("kind", ["SeqNet", "SeqNeXt"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.SPNET.REID.LOSS", "nt_xent"),
        ("MODEL.SPNET.TEST_PATHWAY", "QC"),
        ("MODEL.SPNET.NUM_CASCADES", 2),
        ("MODEL.SPNET.QC.ANCHORS_PER_PAIR", 32),
        ("MODEL.SPNET.SMALL_DATA.BOX_LOSS_WEIGHT", 5.0),
        ("MODEL.SPNET.SYNC_BN", True),
        ("SOLVER.ACCUMULATION_STEPS", 2),
        ("MODEL.BACKBONE.NAME", "build_resnet_backbone"),
        ("MODEL.RPN.POST_NMS_TOPK_TEST", 500),
    ],
)
def test_what_they_would_not_follow_is_refused(kind, key, value):
    cfg = tiny_config("MODEL.META_ARCHITECTURE", kind)
    check_model_config(cfg)
    cfg.merge_from_list([key, value])
    with pytest.raises(ConfigError, match=rf"{key} is {value!r}, (but|which).* {kind}"):
        build_model(cfg)


@pytest.mark.parametrize(
    ("trunk", "frozen"),
    [
        ("test_resnet", {"conv1", "bn1"}),
        ("test_convnext", {"stem_0", "stem_1"}),
        ("test_efficientnet", {"conv_stem", "bn1"}),
    ],
)
def test_the_stem_is_frozen_whatever_the_trunk(trunk, frozen):
    for kind, more in (("SeqNet", set()), ("SeqNeXt", {"layer1"})):
        cfg = tiny_config("MODEL.META_ARCHITECTURE", kind)
        cfg.MODEL.SPNET.BACKBONE.NAME = trunk
        layers = dict(build_model(cfg).backbone.named_children())
        fixed = {n for n, x in layers.items() if not any(p.requires_grad for p in x.parameters())}
        with_weights = {n for n in fixed if any(True for _ in layers[n].parameters())}
        assert with_weights == (frozen | more) & layers.keys()


@pytest.mark.parametrize("kind", ["SeqNet", "SeqNeXt"])
def test_fixed_trunk_and_stages(kind):
    """What SPNet's keys hold fixed stays as it is, and the rest trains."""
    cfg = tiny_config("MODEL.META_ARCHITECTURE", kind, "MODEL.SPNET.SMALL_DATA.FREEZE_ROI", True)
    cfg.MODEL.SPNET.BACKBONE.NAME = "test_resnet"
    cfg.MODEL.SPNET.BACKBONE.FREEZE = cfg.MODEL.SPNET.BACKBONE.FREEZE_BN = True
    torch.manual_seed(0)
    model = build_model(cfg).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    image = torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)
    people = Instances((96, 128))
    people.gt_boxes = Boxes(torch.tensor([[8.0, 8.0, 40.0, 90.0], [60.0, 4.0, 100.0, 80.0]]))
    people.gt_identities = people.gt_person_ids = torch.tensor([0, 1])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    sum(model([{"image": image, "image_id": 0, "instances": people}]).values()).backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if (value != before[name]).any()}
    fixed = ("backbone.", "roi_heads.first_head.", "roi_heads.second_head.")
    assert not [name for name in changed if name.startswith(fixed)]
    parts = {name.rpartition(".")[0] for name in changed}
    assert {"rpn.head.conv", "roi_heads.first_predictor.cls_score"} <= parts
    assert "roi_heads.embedding.projectors.1.1" in parts


def test_each_stage_samples_as_many_boxes_as_set():
    torch.manual_seed(0)
    for count in (6, 128):
        key = "MODEL.SPNET.ANCHORS_PER_IMAGE"
        heads = build_model(tiny_config("MODEL.META_ARCHITECTURE", "SeqNeXt", key, count)).roi_heads
        people = Instances((96, 128))
        people.gt_boxes = Boxes(torch.tensor([[8.0, 8.0, 40.0, 90.0]]))
        people.gt_identities = torch.tensor([0])
        boxes = torch.tensor([8.0, 8.0, 40.0, 90.0]).repeat(150, 1)
        boxes[::2] += 60
        sampled = heads._sample([boxes], [people])
        assert len(sampled.positive) == count and sampled.positive.sum() == count // 2


def test_oim_of_seqnet_is_that_of_its_authors():
    """Rows of unknown people are not averaged, and empty rows of the memory are in the sum."""
    loss = SeqNetOIM(4, 3, 2)
    i, j = torch.arange(6.0)[:, None], torch.arange(4.0)
    # The fifth row is background, which the loss does not see.
    rows, identities = [0, 1, 2, 3, 5], torch.tensor([0, 1, -1, 0, -1])
    found = [loss(normalize(torch.sin(i + 2 * j + 1 + k))[rows], identities) for k in range(3)]
    assert [x.item() for x in found] == pytest.approx([1.6094379, 19.846383, 22.219972], rel=1e-5)
    lut = [[-0.6290717, 0.1359775, 0.5158982, -0.5653567]]
    lut += [[-0.1160073, -0.6978831, 0.6968511, 0.1178984], [0.0] * 4]
    torch.testing.assert_close(loss.lut, torch.tensor(lut))
    queue = [[-0.6039470, 0.4137814, 0.2595593, -0.6298110]]
    queue += [[0.6202901, -0.3410806, -0.3364109, 0.6210732]]
    torch.testing.assert_close(loss.queue, torch.tensor(queue))


def test_norm_aware_embedding_is_that_of_its_authors():
    module = NormAwareEmbedding((3, 4), 5, rescaled=True)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            theirs = name.replace("projectors.0", "projectors.feat_res4")
            theirs = theirs.replace("projectors.1.", "projectors.feat_res5.", 1)
            k = torch.arange(1.0, parameter.numel() + 1, dtype=torch.float64)
            base = 1.0 if theirs.endswith("1.weight") or theirs == "rescaler.weight" else 0.0
            values = (0.5 if parameter.dim() == 2 else 0.3) * torch.sin(k + len(theirs)) + base
            parameter.copy_(values.view_as(parameter))
    i, j = torch.arange(4.0)[:, None], torch.arange(4.0)
    features = torch.cos(i + j[:3]), torch.sin(2 * i - j)
    x, logits = module(features)
    assert logits.tolist() == pytest.approx([-0.075884, -1.021468, 1.021697, 1.264383], abs=2e-5)
    wanted = [-0.394166, 0.479539, -0.035796, 0.294623, -0.725666]
    assert x[0].tolist() == pytest.approx(wanted, abs=2e-5)
    x, logits = module.eval()(features)
    assert logits.tolist() == pytest.approx([1.607453, 0.734297, 1.730618, 2.004811], abs=2e-5)
