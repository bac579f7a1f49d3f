"""The swap path (paper section 3.2): where an offset embedding comes from.

Query-centric (QC):   x_o = x_q - x_a           offset of anchor embedding x_a from a query's x_q
Object-centric (OC):  x_o = g_phi(x_a) - x_a    the bridge layer g_phi predicts that query

Everything behind x_o is the same for both, which is why one weight set serves both. This module
is the only one that knows which pathway makes x_o.
"""

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from .precision import full_precision

PATHWAYS = ("OC", "QC")
# Where bridges start that a checkpoint lacks, see bridge_start.py.
BRIDGES = ("zeros", "least_squares")


def needs_bridges(cfg: CfgNode) -> bool:
    """Whether training or inference is object-centric."""
    options = cfg.MODEL.SPNET
    return "OC" in (options.PATHWAY, options.TEST_PATHWAY or options.PATHWAY)


class SwapPath(nn.Module):
    """
    One stage's swap path, with the bridge layer of its object-centric side.

    ``x_o = (W x_a + b) - x_a``; W and b start at zero, so x_o starts at -x_a. (The authors' code
    has another bridge, "direct", ``x_o = W x_a + b``, which no published run uses.)
    """

    def __init__(self, dim: int, bridge: bool = True):
        """
        Args:
            dim: D, size of the localisation embeddings.
            bridge: False for the query-centric side alone.
        """
        super().__init__()
        if bridge:
            self.bridge = nn.Linear(dim, dim)
            nn.init.zeros_(self.bridge.weight)
            nn.init.zeros_(self.bridge.bias)

    def object_centric(self, x_a: Tensor) -> Tensor:
        """Offsets of embeddings from the query that the bridge predicts, (..., D) -> (..., D)."""
        return F.linear(x_a, *self.affine())

    def affine(self) -> tuple[Tensor, Tensor]:
        """Matrix M (D, D) and vector b (D,) of ``x_o = M x_a + b``."""
        # (W - I) x_a + b: one pass over all anchors instead of two.
        identity = torch.eye(len(self.bridge.weight), device=self.bridge.weight.device)
        return self.bridge.weight - identity, self.bridge.bias

    @staticmethod
    def query_centric(x_q: Tensor, x_a: Tensor) -> Tensor:
        """Offsets of embeddings from given queries; shapes broadcast to (..., D)."""
        return x_q - x_a


def query_distances(x_q: Tensor, x_a: Tensor) -> Tensor:
    """
    ``w = ||x_q - x_a||`` of all queries and anchors of an image, without the differences.

    Args:
        x_q: (Q, D).
        x_a: (A, D).

    Returns:
        (Q, A) float32. In training of exact differences. At inference by expanding the square,
        a matrix product, which rounds distances to 0.001 of the longer embedding at worst.
    """
    with full_precision(x_a):
        if torch.is_grad_enabled() and (x_q.requires_grad or x_a.requires_grad):
            return _Distances.apply(x_q, x_a)
        return _expanded_distances(x_q.float(), x_a.float())


# Numbers at a time, of the largest matrix that distances are computed by.
_CHUNK = 1 << 26


def _expanded_distances(x_q: Tensor, x_a: Tensor) -> Tensor:
    """``sqrt(|q|^2 + |a|^2 - 2 q a)``, not below 0."""
    squares = torch.addmm(x_a.square().sum(dim=1), x_q, x_a.T, alpha=-2.0)
    return squares.add_(x_q.square().sum(dim=1)[:, None]).clamp_(min=0).sqrt_()


def _exact_distances(x_q: Tensor, x_a: Tensor) -> Tensor:
    """Of the differences, a part of the anchors at a time."""
    step = max(1, _CHUNK // max(1, x_q.numel()))
    parts = [torch.linalg.vector_norm(x_q[:, None] - a, dim=2) for a in x_a.split(step)]
    return torch.cat(parts, dim=1)


class _Distances(torch.autograd.Function):
    """
    Euclidean distances whose backward pass needs no differences either: two matrix products.

    The gradient of distance 0 is 0.
    """

    @staticmethod
    def forward(ctx, x_q: Tensor, x_a: Tensor) -> Tensor:
        if x_a.is_cuda:
            # There, cdist starts a block of threads for every pair.
            w = _exact_distances(x_q.float(), x_a.float())
        else:
            mode = "donot_use_mm_for_euclid_dist"
            w = torch.cdist(x_q.float(), x_a.float(), compute_mode=mode)
        ctx.save_for_backward(x_q, x_a, w)
        return w

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x_q, x_a, w = ctx.saved_tensors
        with full_precision(x_a):
            q, a = x_q.float(), x_a.float()
            share = (gradient / w).masked_fill_(w == 0, 0.0)
            to_q = q * share.sum(dim=1, keepdim=True) - share @ a
            to_a = torch.addcmul(share.T @ -q, a, share.sum(dim=0)[:, None])
        return to_q.to(x_q.dtype), to_a.to(x_a.dtype)
