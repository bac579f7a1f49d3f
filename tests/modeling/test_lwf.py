"""Learning without forgetting: the authors' number, every family's classifier, the whole model."""

from functools import partial

import pytest
import timm
import torch
import torchvision
from torch.testing import assert_close

from spnet_d2.engine.optimizer import parameter_groups
from spnet_d2.modeling.backbone import TimmFPN, create_trunk
from spnet_d2.modeling.lwf import LearningWithoutForgetting, imagenet_classifier, lwf_loss
from spnet_d2.modeling.swin import RuntimeShiftBlock, use_blocks
from spnet_d2.testing import deterministic_sampling

from .tiny import TRUNK, tiny_config, tiny_input, tiny_model

BOX_A, BOX_B = (10, 12, 44, 80), (60, 5, 100, 90)
LWF = ("MODEL.SPNET.LWF.ENABLED", True)


def test_reference_number():
    student = torch.tensor([[1.0, 2, -1], [0.5, 0, 3]])
    teacher = torch.tensor([[1.5, 1, -1], [0, 0, 2.0]])
    assert lwf_loss(student, teacher).mean().item() == pytest.approx(0.6177183, abs=1e-6)


def test_it_is_the_mean_over_images_and_classes():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 4, 6, generator=generator).double()
    total = 0.0
    for c, t in zip(student, teacher):
        log_p, q = (c / 3).log_softmax(0), (t / 3).softmax(0)
        for x, y in zip(log_p, q):
            total -= y * x.sigmoid().log() + (1 - y) * (1 - x.sigmoid()).log()
    assert_close(lwf_loss(student, teacher, 3.0).mean().double(), total / 24, rtol=1e-6, atol=0)


# A Swin in small.
SWIN = {"embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 1, 2, 2)}


@pytest.mark.parametrize(
    "name",
    ["test_convnext", "test_resnet", "test_efficientnet", "swin_tiny_patch4_window7_224"],
    ids=["convnext", "resnet", "efficientnet", "swin"],
)
def test_classifier_on_the_trunk_is_the_whole_timm_model(name, tmp_path, monkeypatch):
    """Trunk and classifier, loaded from a whole model's file, give that model's logits."""
    sizes = {}
    if "swin" in name:
        monkeypatch.setattr(timm, "create_model", partial(timm.create_model, **SWIN))
        sizes = {"strict_img_size": False, "always_partition": True}
    whole = timm.create_model(name, **sizes).eval()
    use_blocks(whole, RuntimeShiftBlock)
    file = tmp_path / "weights.pth"
    torch.save(whole.state_dict(), file)
    backbone = TimmFPN(create_trunk(name, str(file)))
    lwf = LearningWithoutForgetting(backbone, imagenet_classifier(name, str(file))).eval()
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = whole(x)
        c5 = backbone.eval().trunk_maps(x)[-1]
        assert_close(lwf._classify(lwf.classifier, c5), expected, rtol=1e-4, atol=1e-5)
        loss = lwf(x, c5).mean()
    # A new student is its own teacher.
    assert_close(loss, lwf_loss(expected, expected).mean())


def test_classifier_from_torchvisions_weights(tmp_path):
    """What the authors started from: torchvision's names, and its logits."""
    name = "convnext_tiny"
    whole = torchvision.models.convnext_tiny().eval()
    file = tmp_path / "weights.pth"
    torch.save(whole.state_dict(), file)
    backbone = TimmFPN(create_trunk(name, str(file))).eval()
    classifier = imagenet_classifier(name, str(file)).eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert_close(classifier(backbone.trunk_maps(x)[-1]), whole(x), rtol=1e-4, atol=1e-5)


def test_model_trains_the_classifier_and_keeps_the_teacher():
    model = tiny_model(*LWF)
    teacher = [p.clone() for p in model.lwf.teacher.parameters()]
    batch = [tiny_input(0, BOX_A, BOX_B), tiny_input(1)]
    without = tiny_model()
    state = model.state_dict()
    without.load_state_dict({name: state[name] for name in without.state_dict()})
    with deterministic_sampling():
        losses, plain = model(batch), without(batch)
    assert list(losses) == [*plain, "loss_lwf"]
    for name in plain:
        assert_close(losses[name], plain[name])

    losses["loss_lwf"].backward()
    for module in (model.lwf.classifier, model.backbone.trunk):
        grads = [p.grad for p in module.parameters()]
        assert all(g is not None and g.isfinite().all() for g in grads)
        assert any(g.abs().sum() > 0 for g in grads)
    assert all(p.grad is None for p in model.backbone.fpn.parameters())
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    for before, after in zip(teacher, model.lwf.teacher.parameters(), strict=True):
        assert torch.equal(before, after)


def test_temperature_is_the_authors():
    assert tiny_model(*LWF).lwf.temperature == 2.0


def test_only_the_classifier_is_optimised_and_with_the_rate_of_the_heads():
    model = tiny_model(*LWF)
    cfg = tiny_config("SOLVER.BACKBONE_LR", 1e-5, "SOLVER.BACKBONE_WEIGHT_DECAY", 0.0)
    trunk, rest = parameter_groups(cfg, model)
    optimised = {id(p) for p in rest["params"]}
    assert all(id(p) in optimised for p in model.lwf.classifier.parameters())
    assert {id(p) for p in trunk["params"]} == {id(p) for p in model.backbone.trunk.parameters()}
    frozen = [*model.lwf.teacher.parameters(), *model.lwf.teacher_classifier.parameters()]
    assert not optimised & {id(p) for p in frozen}


def test_all_of_it_is_under_one_name():
    """So that fine-tuning, which has none of it, can leave it out by its prefix."""
    with_lwf, without = tiny_model(*LWF).state_dict(), tiny_model().state_dict()
    extra = set(with_lwf) - set(without)
    assert set(without) <= set(with_lwf)
    assert extra and all(name.startswith("lwf.") for name in extra)
    assert {name.split(".")[1] for name in extra} == {"classifier", "teacher", "teacher_classifier"}
    assert not any("fpn" in name for name in extra)


@pytest.mark.parametrize(
    "overrides",
    [
        ("MODEL.SPNET.PATHWAY", "QC"),
        ("MODEL.SPNET.BACKBONE.FREEZE", True, "MODEL.SPNET.BACKBONE.FREEZE_BN", True),
        ("MODEL.SPNET.BACKBONE.NAME", "test_resnet", "MODEL.SPNET.BACKBONE.FREEZE_BN", True),
    ],
    ids=["query-centric", "frozen", "batch-norms"],
)
def test_with_other_options(overrides):
    model = tiny_model(*LWF, *overrides)
    losses = model([tiny_input(0, BOX_A), tiny_input(1)])
    assert torch.isfinite(sum(losses.values()))
    sum(losses.values()).backward()
    assert "loss_lwf" in losses


def test_re_id_alone_drops_it():
    losses = tiny_model(*LWF, "MODEL.SPNET.REID.ONLY", True)([tiny_input(0, BOX_A)])
    assert list(losses) == ["loss_reid"]


def test_inference_does_without():
    x = [tiny_input(0, BOX_A)]
    with torch.no_grad():
        (output,) = tiny_model(*LWF).eval()(x)
    assert "instances" in output


class TestErrors:
    def test_no_such_model(self):
        with pytest.raises(ValueError, match="no timm model.*LWF.ENABLED"):
            imagenet_classifier("solider_swin_base", "")

    def test_file_without_a_classifier(self, tmp_path):
        file = tmp_path / "trunk.pth"
        state = timm.create_model(TRUNK).state_dict()
        torch.save({k: v for k, v in state.items() if not k.startswith("head.")}, file)
        with pytest.raises(ValueError, match="must include the classifier.*PRETRAINED"):
            imagenet_classifier(TRUNK, str(file))

    def test_model_without_classes(self):
        with pytest.raises(ValueError, match="no classes"):
            imagenet_classifier("convnext_tiny.dinov3_lvd1689m", "")
