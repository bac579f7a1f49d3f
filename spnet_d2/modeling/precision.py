"""Mixed precision: what is computed in half of it, and what keeps the rest exact and finite.

Convolutions and linear layers of trunk, FPN, anchor embedder, swap path and box embedders run under
autocast. Boxes, norms of offsets, class and box heads, batch norms of embeddings, similarities and
losses are float32.

On GPUs "float32" is strict: neither matrix products nor convolutions use TF32. In half precision
what stays float32 may use it, except within full_precision, as similarities are computed.
"""

import contextlib
import logging
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

PRECISIONS = ("float32", "float16", "bfloat16")
# Rows this short have no direction.
_SHORTEST = 1e-6
# Intel's CPUs with a unit for matrix products in bfloat16 say so by this. With instructions alone
# (avx512_bf16), bfloat16 is slower than float32, which has faster convolutions here.
_BFLOAT16_FLAG = "amx_bf16"


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
    return _in_precision(torch.device(device).type, precision)


@contextlib.contextmanager
def _in_precision(kind: str, precision: str) -> Iterator[None]:
    rounded = precision != "float32" and (kind, precision) != ("cpu", "float16")
    with contextlib.ExitStack() as stack:
        if kind == "cuda":
            stack.enter_context(_tf32(rounded))
        if rounded:
            stack.enter_context(torch.autocast(kind, getattr(torch, precision)))
        yield


@contextlib.contextmanager
def full_precision(x: Tensor) -> Iterator[None]:
    """A context in which operations on the device of ``x`` keep the precision they are given."""
    kind = x.device.type
    with torch.autocast(kind, enabled=False):
        if kind == "cuda":
            with _tf32(False):
                yield
        else:
            yield


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Whether a GPU's float32 matrix products and convolutions may round factors to 10 bits."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@cache
def has_bfloat16() -> bool:
    """Whether this CPU multiplies matrices in bfloat16 faster than in float32."""
    try:
        return _BFLOAT16_FLAG in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


def inference_precision(device: torch.device | str, precision: str) -> str:
    """
    What inference in a precision is on a device: float16 on CPUs is bfloat16, or float32.

    The first such fall-back is logged.
    """
    if precision != "float16" or torch.device(device).type != "cpu":
        return precision
    found = "bfloat16" if has_bfloat16() else "float32"
    _log_once(
        f"MODEL.SPNET.TEST.PRECISION is {found} on the CPU: float16 needs a GPU"
        + (", and this CPU has no amx_bf16." if found == "float32" else ".")
    )
    return found


@cache
def _log_once(line: str) -> None:
    logger.info(line)


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
