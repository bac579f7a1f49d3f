"""Parameter groups by prefix and clipping by the global norm."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from spnet_d2.engine import build_optimizer
from spnet_d2.engine.optimizer import clip_by_global_norm, clip_gradient, parameter_groups


class Toy(nn.Module):
    """Names as in SPNet: a trunk, an FPN beside it, and a head."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.trunk = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
        self.backbone.fpn = nn.Linear(3, 3)
        self.head = nn.Linear(3, 1)

    def forward(self, x):
        return self.head(self.backbone.fpn(self.backbone.trunk(x)))


def names_of(model, group):
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)] for p in group["params"]}


def test_one_group_without_a_backbone_rate(default_cfg):
    (group,) = parameter_groups(default_cfg, Toy())
    assert (group["lr"], group["weight_decay"]) == (1e-4, 5e-4)
    assert len(group["params"]) == 8  # norms and biases as well


def test_trunk_has_its_own_rate_and_decay(default_cfg):
    default_cfg.SOLVER.BACKBONE_LR, default_cfg.SOLVER.BACKBONE_WEIGHT_DECAY = 1e-5, 0.0
    model = Toy()
    trunk, rest = parameter_groups(default_cfg, model)
    assert (trunk["lr"], trunk["weight_decay"]) == (1e-5, 0.0)
    assert (rest["lr"], rest["weight_decay"]) == (1e-4, 5e-4)
    assert all(name.startswith("backbone.trunk.") for name in names_of(model, trunk))
    assert {"backbone.fpn.weight", "head.bias"} <= names_of(model, rest)
    assert len(trunk["params"]) + len(rest["params"]) == 8


def test_frozen_parameters_are_left_out_and_shared_ones_counted_once(default_cfg):
    model = Toy()
    model.backbone.trunk.requires_grad_(False)
    model.twin = model.head
    (group,) = parameter_groups(default_cfg, model)
    assert names_of(model, group) == {
        "backbone.fpn.weight",
        "backbone.fpn.bias",
        "head.weight",
        "head.bias",
    }


def test_decay_of_norms_and_biases_can_be_set(default_cfg):
    default_cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0
    default_cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.1
    model = Toy()
    decays = {g["weight_decay"]: names_of(model, g) for g in parameter_groups(default_cfg, model)}
    assert decays[0.0] == {"backbone.trunk.1.weight"}
    assert all(name.endswith("bias") for name in decays[0.1]) and len(decays[0.1]) == 4


def test_adamw_and_sgd(default_cfg):
    adamw = build_optimizer(default_cfg, Toy())
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.defaults["betas"] == (0.9, 0.999) and adamw.defaults["eps"] == 1e-8
    default_cfg.SOLVER.OPTIMIZER = "SGD"
    sgd = build_optimizer(default_cfg, Toy())
    assert isinstance(sgd, torch.optim.SGD) and sgd.defaults["momentum"] == 0.9


@pytest.mark.parametrize("kind", ["ADAMW", "SGD"])
def test_fused_kernels_give_the_plain_numbers(default_cfg, kind):
    default_cfg.SOLVER.OPTIMIZER, default_cfg.SOLVER.MOMENTUM = kind, 0.9
    found, expected = Toy(), Toy()
    expected.load_state_dict(found.state_dict())
    fused = build_optimizer(default_cfg, found)
    plain = build_optimizer(default_cfg, expected)
    assert all(group["fused"] for group in fused.param_groups)
    for group in plain.param_groups:
        group.update(fused=False, foreach=False)
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        for model, optimizer in ((found, fused), (expected, plain)):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    assert_close(found.state_dict(), expected.state_dict(), rtol=1e-6, atol=1e-7)


def test_errors_list_the_choices(default_cfg):
    default_cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "global"
    with pytest.raises(ValueError, match="'global', expected 'full_model'.*'norm'.*'value'"):
        build_optimizer(default_cfg, Toy())
    default_cfg.SOLVER.OPTIMIZER = "LION"
    with pytest.raises(ValueError, match="'LION', expected one of ADAMW, SGD"):
        build_optimizer(default_cfg, Toy())
    with pytest.raises(ValueError, match="no trainable parameter"):
        build_optimizer(default_cfg, Toy().requires_grad_(False))


def two_parameters():
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    return a, b


def test_clip_is_by_the_norm_over_all_groups():
    a, b = two_parameters()
    optimizer = torch.optim.SGD([{"params": [a]}, {"params": [b]}], lr=1.0)
    optimizer = clip_by_global_norm(optimizer, max_norm=1.0)
    assert optimizer.grad_norm is None
    optimizer.step()
    assert optimizer.grad_norm == pytest.approx(5.0)
    # Detectron2's own "norm" would make both of them 1.
    assert a.tolist() == pytest.approx([-0.6, 0.0], abs=1e-5)
    assert b.tolist() == pytest.approx([-0.8], abs=1e-5)


def test_small_gradients_are_not_touched():
    a, b = two_parameters()
    clip_by_global_norm(torch.optim.SGD([a, b], lr=1.0), max_norm=5.1).step()
    assert a.tolist() == [-3.0, 0.0] and b.tolist() == [-4.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_gradient_stops_before_the_parameters_change(bad):
    a, b = two_parameters()
    b.grad = torch.tensor([bad])
    optimizer = clip_by_global_norm(torch.optim.SGD([a, b], lr=1.0), max_norm=1.0)
    with pytest.raises(FloatingPointError, match=r"norm of the gradient is (nan|inf)"):
        optimizer.step()
    assert a.tolist() == [0.0, 0.0] and b.tolist() == [0.0]


def test_clip_sees_unscaled_gradients_under_a_grad_scaler():
    a, b = two_parameters()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = clip_by_global_norm(torch.optim.SGD([a, b], lr=1.0), max_norm=1.0)
    a.grad, b.grad = None, None
    scaler.scale(3.0 * a[0] + 4.0 * b[0]).backward()
    scaler.step(optimizer)
    assert optimizer.grad_norm == pytest.approx(5.0)
    assert b.tolist() == pytest.approx([-0.8], abs=1e-5)


def test_a_fused_optimizer_is_given_unscaled_gradients_too():
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    parameters = [two_parameters() for _ in range(2)]
    for (a, b), fused in zip(parameters, (True, False), strict=True):
        optimizer = torch.optim.AdamW([a, b], lr=1.0, fused=fused)
        optimizer = clip_by_global_norm(optimizer, max_norm=1.0)
        a.grad, b.grad = None, None
        scaler.scale(3.0 * a[0] + 4.0 * b[0]).backward()
        scaler.step(optimizer)
        scaler.update()
        assert optimizer.grad_norm == pytest.approx(5.0)
    for fused, plain in zip(*parameters, strict=True):
        assert_close(fused, plain)


def test_the_norm_can_be_known_before_the_step():
    a, b = two_parameters()
    optimizer = clip_by_global_norm(torch.optim.SGD([a, b], lr=1.0), max_norm=1.0)
    assert optimizer.clip().item() == pytest.approx(5.0)
    optimizer.step()
    assert a.tolist() == pytest.approx([-0.6, 0.0], abs=1e-5)
    # The next step looks by itself again, also if this one was left out.
    for forget in (optimizer.step, optimizer.zero_grad):
        optimizer.clip()
        forget()
        b.grad = torch.tensor([math.nan])
        with pytest.raises(FloatingPointError):
            optimizer.step()


def test_any_optimizer_has_a_norm():
    a, b = two_parameters()
    assert clip_gradient(torch.optim.SGD([a, b])).item() == pytest.approx(5.0)
    assert a.grad.tolist() == [3.0, 0.0]


def test_a_checkpoint_does_not_choose_the_kernels():
    """A run that began on a GPU goes on with a CPU's, and the other way round."""
    a, b = two_parameters()
    fused = clip_by_global_norm(torch.optim.AdamW([a, b], lr=0.5, fused=True), 1.0)
    fused.step()
    other = clip_by_global_norm(torch.optim.AdamW(two_parameters()), 1.0)
    other.load_state_dict(fused.state_dict())
    assert not other.param_groups[0]["fused"] and other.param_groups[0]["lr"] == 0.5
    other.step()


@pytest.mark.parametrize("kind", ["norm", "value"])
def test_detectron2_clip_types_still_work(default_cfg, kind):
    default_cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = kind
    default_cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.5
    default_cfg.SOLVER.OPTIMIZER, default_cfg.SOLVER.BASE_LR = "SGD", 1.0
    model = nn.Linear(1, 1, bias=False)
    before = model.weight.item()
    optimizer = build_optimizer(default_cfg, model)
    model.weight.grad = torch.tensor([[9.0]])
    optimizer.step()
    decay = default_cfg.SOLVER.WEIGHT_DECAY * before
    assert model.weight.item() == pytest.approx(before - 0.5 - decay, abs=1e-5)


def test_clipping_can_be_off(default_cfg):
    default_cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    default_cfg.SOLVER.OPTIMIZER, default_cfg.SOLVER.BASE_LR = "SGD", 1.0
    default_cfg.SOLVER.WEIGHT_DECAY = 0.0
    model = nn.Linear(1, 1, bias=False)
    before = model.weight.item()
    optimizer = build_optimizer(default_cfg, model)
    model.weight.grad = torch.tensor([[900.0]])
    optimizer.step()
    assert model.weight.item() == pytest.approx(before - 900.0)


@pytest.fixture(params=["off", "full_model", "norm", "value"])
def any_clipping(default_cfg, request):
    """Configs of every kind of gradient clipping."""
    clip = default_cfg.SOLVER.CLIP_GRADIENTS
    clip.ENABLED = request.param != "off"
    if clip.ENABLED:
        clip.CLIP_TYPE = request.param
    return default_cfg


def test_every_optimizer_refuses_a_gradient_of_nan(any_clipping):
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.clone()
    optimizer = build_optimizer(any_clipping, model)
    model.weight.grad = torch.tensor([[1.0, math.nan]])
    with pytest.raises(FloatingPointError, match="norm of the gradient is nan"):
        optimizer.step()
    assert torch.equal(model.weight, before)


def test_hooks_of_a_step_run_once_and_after_the_gradient_was_looked_at(any_clipping):
    model = nn.Linear(2, 1, bias=False)
    optimizer = build_optimizer(any_clipping, model)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append(None))
    # As a resumed run does.
    optimizer.load_state_dict(optimizer.state_dict())
    model.weight.grad = torch.tensor([[1.0, math.nan]])
    with pytest.raises(FloatingPointError):
        optimizer.step()
    assert not calls
    model.weight.grad = torch.ones(1, 2)
    optimizer.step()
    assert len(calls) == 1
