"""Optimiser: AdamW (or SGD) in groups by learning rate, clipped by the gradient's global norm."""

import math
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import Tensor, nn

# Names of the timm trunk's parameters start with this. The FPN, and the RoI heads' copies of the
# trunk's last stage, belong to the rest.
TRUNK_PREFIX = "backbone.trunk."

_NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


def parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict]:
    """
    Trainable parameters, grouped by learning rate and weight decay.

    ``SOLVER.BACKBONE_LR`` and ``BACKBONE_WEIGHT_DECAY`` (each, unless negative) hold for the
    trunk, ``BASE_LR`` and ``WEIGHT_DECAY`` for the rest. Norms and biases decay like everything
    else, unless ``WEIGHT_DECAY_NORM`` / ``WEIGHT_DECAY_BIAS`` say otherwise.

    Returns:
        list[dict]: ``params``, ``lr`` and ``weight_decay``, in the order of first appearance.
        Frozen parameters are in none; a parameter that two modules share is in one.
    """
    solver = cfg.SOLVER
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            lr, decay = solver.BASE_LR, solver.WEIGHT_DECAY
            if f"{module_name}.{name}".startswith(TRUNK_PREFIX):
                lr = solver.BACKBONE_LR if solver.BACKBONE_LR >= 0 else lr
                decay = solver.BACKBONE_WEIGHT_DECAY if solver.BACKBONE_WEIGHT_DECAY >= 0 else decay
            if isinstance(module, _NORMS) and solver.WEIGHT_DECAY_NORM is not None:
                decay = solver.WEIGHT_DECAY_NORM
            if name == "bias":
                lr *= solver.BIAS_LR_FACTOR
                if solver.WEIGHT_DECAY_BIAS is not None:
                    decay = solver.WEIGHT_DECAY_BIAS
            groups.setdefault((lr, decay), []).append(parameter)
    return [
        {"params": params, "lr": lr, "weight_decay": decay}
        for (lr, decay), params in groups.items()
    ]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """
    Build the optimiser named by ``SOLVER.OPTIMIZER``, with gradient clipping if it is on.

    Its ``step`` raises FloatingPointError, and does nothing, where the gradient is infinite or NaN.

    Raises:
        ValueError: an unknown optimiser or clip type, or a model with nothing to train.
    """
    groups = parameter_groups(cfg, model)
    if not groups:
        raise ValueError("The model has no trainable parameter, so there is nothing to optimise.")
    name = cfg.SOLVER.OPTIMIZER
    if name not in _OPTIMIZERS:
        raise ValueError(
            f"SOLVER.OPTIMIZER is {name!r}, expected one of {', '.join(sorted(_OPTIMIZERS))}."
        )
    return _add_clipping(cfg, _OPTIMIZERS[name](cfg, groups))


def _adamw(cfg: CfgNode, groups: list[dict]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        groups, lr=cfg.SOLVER.BASE_LR, betas=(0.9, 0.999), eps=1e-8, **_implementation(groups)
    )


def _sgd(cfg: CfgNode, groups: list[dict]) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        groups,
        lr=cfg.SOLVER.BASE_LR,
        momentum=cfg.SOLVER.MOMENTUM,
        nesterov=cfg.SOLVER.NESTEROV,
        **_implementation(groups),
    )


def _implementation(groups: list[dict]) -> dict[str, bool]:
    """Fused kernels, which pass through the parameters once, where PyTorch has them."""
    kinds = {p.device.type for group in groups for p in group["params"]}
    return {"fused": True} if kinds <= {"cpu", "cuda"} else {}


_OPTIMIZERS = {"ADAMW": _adamw, "SGD": _sgd}


def _add_clipping(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE == "full_model":
        return clip_by_global_norm(optimizer, clip.CLIP_VALUE, clip.NORM_TYPE)
    # Nothing is clipped to an infinite norm, but the gradient is looked at.
    optimizer = clip_by_global_norm(optimizer, math.inf)
    if not clip.ENABLED:
        return optimizer
    if clip.CLIP_TYPE not in ("value", "norm"):
        raise ValueError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip.CLIP_TYPE!r}, expected 'full_model' (norm "
            "over all parameters), or Detectron2's 'norm' (of each parameter) or 'value'."
        )
    return _run_hooks_once(maybe_add_gradient_clipping(cfg, optimizer))


def _run_hooks_once(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """
    Keep hooks of ``step`` from running twice where its class only wraps its base's ``step``.

    That one runs them. PyTorch would make this one run them as well, before the gradient was
    looked at, as soon as a state is loaded.
    """
    step: Any = type(optimizer).step
    step.hooked = True
    return optimizer


def clip_by_global_norm(
    optimizer: torch.optim.Optimizer, max_norm: float, norm_type: float = 2.0
) -> torch.optim.Optimizer:
    """
    Make ``optimizer.step`` first scale the gradient so that its norm is at most ``max_norm``.

    The norm is over all parameters of all groups. It happens inside ``step`` because a
    ``GradScaler`` has unscaled the gradients by then, also those of a fused optimiser. Whoever has
    to know the norm before can call ``clip()``, which gives it without waiting for the device;
    ``step`` then clips no more, and takes for granted that the norm was found finite.

    Args:
        optimizer: changed in place. ``optimizer.grad_norm`` will be the norm before clipping of
            the last ``step`` that clipped, or None before the first.

    ``step`` raises:
        FloatingPointError: the norm is infinite or NaN; the parameters are not touched.
    """
    base: Any = type(optimizer)

    class FullModelClipping(base):
        def clip(self) -> Tensor:
            """Clip the gradient; its norm before that, a scalar on the device."""
            params = [p for group in self.param_groups for p in group["params"]]
            self.clipped = True
            return nn.utils.clip_grad_norm_(params, max_norm, norm_type)

        def step(self, closure=None):
            if not self.clipped:
                norm = self.clip().item()
                self.clipped = False
                if not math.isfinite(norm):
                    raise FloatingPointError(f"The norm of the gradient is {norm}.")
                self.grad_norm = norm
            self.clipped = False
            return super().step(closure)

        def zero_grad(self, set_to_none: bool = True):
            self.clipped = False
            super().zero_grad(set_to_none)

    FullModelClipping.__name__ = f"{base.__name__}WithFullModelClipping"
    # Changing the class keeps the state and the hooks of the optimiser that was given.
    clipping: Any = optimizer
    clipping.__class__ = FullModelClipping
    clipping.grad_norm, clipping.clipped = None, False
    # A fused optimiser would be given scaled gradients.
    clipping._step_supports_amp_scaling = False
    optimizer.register_load_state_dict_pre_hook(_keep_implementation)
    return _run_hooks_once(optimizer)


def _keep_implementation(optimizer: torch.optim.Optimizer, state: dict) -> dict:
    """A checkpoint's optimiser may have run on another kind of device: take this one's kernels."""
    # Of another number of groups it is refused, and which of them are whose doesn't matter here.
    own = optimizer.param_groups[0]
    kernels = {key: own[key] for key in ("fused", "foreach") if key in own}
    return {**state, "param_groups": [{**group, **kernels} for group in state["param_groups"]]}


def clip_gradient(optimizer: torch.optim.Optimizer) -> Tensor:
    """
    The norm of the gradient, on its device, which an optimiser of :func:`build_optimizer` clips.

    Args:
        optimizer: any other one, too; its gradient stays as it is.
    """
    if hasattr(optimizer, "clip"):
        return optimizer.clip()
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return nn.utils.clip_grad_norm_(params, math.inf)
