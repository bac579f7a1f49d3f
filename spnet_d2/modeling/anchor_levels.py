"""Offsets of all anchors level by level, as the convolution gives them: they are never joined.

Shapes: ``N`` images, ``A_l`` anchors of a level, ``A`` of all, ``M`` sampled anchors, ``D``
embedding size.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .fixed_norm import offset_norm


def rows_of_levels(levels: list[Tensor], indices: Tensor) -> Tensor:
    """``torch.cat(levels)[indices]`` without the joined copy: (A_l, D) each, (n,) -> (n, D)."""
    image = torch.zeros_like(indices)
    return _rows([level[None] for level in levels], image, indices)


def norms_and_rows(levels: list[Tensor], image: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """
    Norms of all offsets, and the offsets of sampled anchors.

    The backward pass adds both gradients into one tensor per level.

    Args:
        levels: (N, A_l, D) each.
        image, place: (M,) of each sampled anchor, its image and its index in all levels joined.
            No anchor is there twice.

    Returns:
        (N, A) norms in float32, and (M, D) rows.
    """
    norms, rows = _NormsAndRows.apply(image, place, *levels)
    return norms, rows


class _NormsAndRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image: Tensor, place: Tensor, *levels: Tensor) -> tuple[Tensor, Tensor]:
        norms = [offset_norm(level) for level in levels]
        ctx.save_for_backward(image, place, *levels, *norms)
        return torch.cat(norms, dim=1), _rows(list(levels), image, place)

    @staticmethod
    @once_differentiable
    def backward(ctx, of_norms: Tensor, of_rows: Tensor) -> tuple[Tensor | None, ...]:
        image, place, *saved = ctx.saved_tensors
        levels, norms = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        gradients, first = [], 0
        parts = of_norms.split([level.shape[1] for level in levels], dim=1)
        for level, norm, gradient in zip(levels, norms, parts, strict=True):
            # The gradient of norm 0 is 0.
            share = (gradient / norm).masked_fill_(norm == 0, 0.0)
            # In float32, whatever the offsets are.
            total = (level * share[..., None]).contiguous()
            inside, row = _places(level, image, place - first)
            rows = of_rows.to(total.dtype).masked_fill(~inside[:, None], 0.0)
            total.view(-1, total.shape[-1]).index_add_(0, row, rows)
            gradients.append(total.to(level.dtype))
            first += level.shape[1]
        return None, None, *gradients


def _rows(levels: list[Tensor], image: Tensor, place: Tensor) -> Tensor:
    """Rows (M, D) of levels (N, A_l, D), by image and place in all levels joined."""
    rows, first = levels[0].new_zeros(len(place), levels[0].shape[-1]), 0
    for level in levels:
        inside, row = _places(level, image, place - first)
        rows = torch.where(inside[:, None], level.flatten(0, 1)[row], rows)
        first += level.shape[1]
    return rows


def _places(level: Tensor, image: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """
    Which anchors lie in a level, and rows (M,) of ``level.flatten(0, 1)``.

    Not by a mask, for whose size the host would wait. Anchors of other levels get rows that are
    spread out, so that adding zeros to them makes no two threads wait for each other.
    """
    size = level.shape[1]
    inside = (place >= 0) & (place < size)
    return inside, image * size + place.remainder(size)
