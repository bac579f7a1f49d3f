"""Mixed precision: what is computed in half of it, and what keeps the rest exact and finite.

Convolutions and linear layers of trunk, FPN, anchor embedder, swap path and box embedders run under
autocast. Boxes, norms of offsets, class and box heads, batch norms of embeddings, similarities and
losses are float32.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

PRECISIONS = ("float32", "float16", "bfloat16")
# Rows this short have no direction.
_SHORTEST = 1e-6


def autocast(device: torch.device | str, precision: str) -> contextlib.AbstractContextManager:
    """
    A context in which convolutions and linear layers compute in a precision.

    Args:
        device: of the model. CPUs emulate float16, slowly: there it is as float32.
        precision: one of ``PRECISIONS``; float32 leaves a context around this one as it is.

    Raises:
        ValueError: another precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"A precision is one of {', '.join(PRECISIONS)}, found {precision!r}.")
    kind = torch.device(device).type
    if precision == "float32" or (kind, precision) == ("cpu", "float16"):
        return contextlib.nullcontext()
    return torch.autocast(kind, getattr(torch, precision))


def full_precision(x: Tensor) -> torch.autocast:
    """A context in which operations on the device of ``x`` keep the precision they are given."""
    return torch.autocast(x.device.type, enabled=False)


@contextlib.contextmanager
def no_gradients(x: Tensor) -> Iterator[None]:
    """
    ``torch.no_grad`` for layers that train elsewhere in the same context of autocast.

    Under it, PyTorch before pull request 165068 keeps their rounded weights without a graph, and
    takes these where the layers train: they would get no gradient.

    Args:
        x: says the device.
    """
    kind = x.device.type
    rounding = torch.autocast(kind, enabled=torch.is_autocast_enabled(kind), cache_enabled=False)
    with torch.no_grad(), rounding:
        yield


def widen(x: Tensor) -> Tensor:
    """``x`` in float32, or in what it has if that is more."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def unit_rows(x: Tensor) -> Tensor:
    """
    L2-normalise rows (n, D), in float32 at least.

    A row of norm 0 has no direction: it stays 0 and gets no gradient, where ``F.normalize`` would
    multiply its gradient by 1e12.
    """
    with full_precision(x):
        x = widen(x)
        norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        # Not `norm > _SHORTEST`: rows of NaN stay NaN.
        short = norm <= _SHORTEST
        return (x / norm.masked_fill(short, 1.0)).masked_fill(short, 0.0)
