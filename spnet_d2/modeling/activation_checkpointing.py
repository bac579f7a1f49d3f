"""Activation checkpointing: recompute a trunk's blocks in the backward pass instead of storing.

A training step then keeps each block's input alone. It takes a forward pass of the trunk more, and
gives the same numbers: random states are repeated (stochastic depth), and batch norms don't take
the second pass into their running statistics.
"""

import contextlib
from collections.abc import Hashable, Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@contextlib.contextmanager
def unchanged_statistics(module: nn.Module) -> Iterator[None]:
    """Let batch norms in ``module`` update copies of their buffers, which are then dropped."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    own = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        for name, buffer in norm._buffers.items():
            norm._buffers[name] = None if buffer is None else buffer.clone()
    try:
        yield
    finally:
        for norm, buffers in zip(norms, own, strict=True):
            norm._buffers.update(buffers)


class _Checkpointed(nn.Module):
    """Mixed into a block's class, rather than wrapped around it: names of weights stay."""

    def forward(self, *args, **kwargs):
        run = super().forward
        if not (self.training and torch.is_grad_enabled()):
            return run(*args, **kwargs)
        return checkpoint(
            run, *args, use_reentrant=False, context_fn=partial(_contexts, self), **kwargs
        )


def _contexts(block: nn.Module):
    """Contexts of a block's first run and of its repetition."""
    return contextlib.nullcontext(), unchanged_statistics(block)


@cache
def _checkpointed_class(kind: Hashable) -> Any:
    assert isinstance(kind, type)
    return type(f"Checkpointed{kind.__name__}", (_Checkpointed, kind), {})


def find_blocks(trunk: nn.Module) -> list[nn.Module]:
    """The innermost listed modules of more than one layer: residual blocks, in trunks with any."""
    listed = [
        child
        for parent in trunk.modules()
        if isinstance(parent, _CONTAINERS)
        for child in parent.children()
        if not isinstance(child, _CONTAINERS) and _layers(child) > 1
    ]
    known = set(listed)
    return [m for m in listed if not any(x in known for x in m.modules() if x is not m)]


def _layers(module: nn.Module) -> int:
    """Number of modules inside that have weights of their own."""
    return sum(
        m is not module and next(m.parameters(recurse=False), None) is not None
        for m in module.modules()
    )


def checkpoint_blocks(trunk: nn.Module) -> None:
    """
    Checkpoint every block of ``trunk``, and of every later copy of it or of its stages.

    Raises:
        ValueError: it has no blocks.
    """
    blocks = find_blocks(trunk)
    if not blocks:
        raise ValueError(
            f"No blocks to checkpoint in {type(trunk).__name__} "
            "(MODEL.SPNET.ACTIVATION_CHECKPOINTING)."
        )
    for block in blocks:
        kind: Any = type(block)
        block.__class__ = _checkpointed_class(kind)
