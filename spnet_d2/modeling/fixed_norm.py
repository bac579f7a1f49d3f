"""Offset norm -> logit: FixedNorm (paper section 3.3) and its ablations.

Shapes: ``D`` embedding size, ``w = ||x_o||`` of any shape.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .precision import full_precision

LOGIT_TYPES = ("fixed_norm", "noscale", "batch_norm")


def chi_moments(dim: int) -> tuple[float, float]:
    """
    Mean and standard deviation of the norm of a standard normal vector (chi distribution).

    ``mu = sqrt(2) Gamma((d + 1) / 2) / Gamma(d / 2)``, ``s = sqrt(d - mu^2)``. By log-gamma,
    since Gamma itself overflows from d = 343 on.

    Raises:
        ValueError: ``dim`` is not positive.
    """
    if dim < 1:
        raise ValueError(f"An embedding has at least 1 dimension, got {dim}.")
    mean = math.sqrt(2.0) * math.exp(math.lgamma((dim + 1) / 2) - math.lgamma(dim / 2))
    return mean, math.sqrt(dim - mean**2)


class SafeBatchNorm1d(nn.BatchNorm1d):
    """
    Batch norm that takes batches of any size, as the authors' does.

    With one row or none there are no batch statistics: the running ones are used and left as
    they are (the counter still advances).
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) < 2:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


class NormLogits(nn.Module):
    """
    Turns the norm ``w`` of an offset embedding into the foreground logit.

    The background logit of the authors' two-column output is the constant -1e6, so its
    probability and its part of every loss are exactly 0: it is left out here.

    =============  ======================================================================
    kind           foreground logit
    =============  ======================================================================
    fixed_norm     ``-(w - mu) / s`` with :func:`chi_moments` of D: no parameters
    noscale        ``-w``
    batch_norm     ``-BN(w)``, one affine channel over all norms of the call
    =============  ======================================================================
    """

    def __init__(self, dim: int, kind: str = "fixed_norm", positive: bool = False):
        """
        Args:
            dim: D, size of the offset embeddings.
            kind: one of ``LOGIT_TYPES``.
            positive: large norms mean foreground (flips the sign).

        Raises:
            ValueError: unknown ``kind``.
        """
        super().__init__()
        if kind not in LOGIT_TYPES:
            raise ValueError(f"Unknown logits {kind!r}, expected one of {LOGIT_TYPES}.")
        self.kind = kind
        self.positive = positive
        self.mean, self.std = chi_moments(dim)
        if kind == "batch_norm":
            self.norm = SafeBatchNorm1d(1)

    def forward(self, w: Tensor) -> Tensor:
        """
        Args:
            w: norms, any shape.

        Returns:
            Logits of that shape, float32.
        """
        w = w.float()
        if self.kind == "fixed_norm":
            z = (w - self.mean) / self.std
        elif self.kind == "batch_norm":
            z = self.norm(w.reshape(-1, 1)).reshape(w.shape)
        else:
            z = w
        return z if self.positive else -z


def offset_norm(offsets: Tensor) -> Tensor:
    """``w = ||x_o||_2`` over the last axis, in float32 also under autocast."""
    with full_precision(offsets):
        # Not of a copy in float32, which the graph would keep beside them.
        return torch.linalg.vector_norm(offsets, dim=-1, dtype=torch.float32)
