"""RoIAlign on CPUs by weighted sums of a map's rows, of maps whose channels are last.

torchvision's takes one channel after another, and needs a copy of the map for that. Here every bin
is the weighted sum of the 16 positions that its 2 x 2 samples lie between, which is what
``embedding_bag`` computes, of all channels at once: six times as fast, eight times backward.

Shapes: ``n`` RoIs, ``C`` channels, ``B`` bins per side, ``S = 2`` samples per bin and axis.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .eager_cpu import is_eager_on_cpu

_SAMPLES = 2


def pays(values: Tensor) -> bool:
    """Whether a map (N, C, H, W) is one of those that :func:`align` is for."""
    return is_eager_on_cpu(values) and values.is_contiguous(memory_format=torch.channels_last)


def align(values: Tensor, rois: Tensor, bins: int, scale: float) -> Tensor:
    """
    ``torchvision.ops.roi_align(values, rois, bins, scale, 2, aligned=False)`` up to rounding.

    Args:
        values: (N, C, H, W), channels last.
        rois: (n, 5), the image's position and xyxy, finite.
        bins: B.
        scale: pixels of the map per pixel of the boxes.

    Returns:
        (n, C, B, B), channels last.
    """
    channels, height, width = values.shape[1:]
    x1, y1, x2, y2 = (rois[:, 1:] * scale).unbind(1)
    rows, row_weights = _positions(y1, y2, bins, height)
    columns, weights = _positions(x1, x2, bins, width)
    rows = rows + rois[:, 0].long()[:, None, None] * height
    # Rows and columns of every bin's samples, each with each: (n, B, B, 4, 4).
    places = (rows * width)[:, :, None, :, None] + columns[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * weights[:, None, :, None, :]
    pooled = F.embedding_bag(
        places.flatten(0, 2).flatten(1),
        values.permute(0, 2, 3, 1).reshape(-1, channels),
        per_sample_weights=weights.flatten(0, 2).flatten(1),
        mode="sum",
    )
    return pooled.view(len(rois), bins, bins, channels).permute(0, 3, 1, 2)


def _positions(start: Tensor, end: Tensor, bins: int, size: int) -> tuple[Tensor, Tensor]:
    """
    Where an axis is read for every bin, and how much each counts.

    Args:
        start, end: (n,) sides of RoIs, in pixels of the map.
        bins: B.
        size: of the map.

    Returns:
        Indices and weights (n, B, 2 S).
    """
    # In torchvision's order of operations, so that rounding is the same.
    bin_size = (end - start).clamp(min=1.0)[:, None, None] / bins
    steps = torch.arange(bins, device=start.device, dtype=start.dtype)[:, None]
    within = torch.arange(_SAMPLES, device=start.device, dtype=start.dtype) + 0.5
    at = start[:, None, None] + steps * bin_size + within * bin_size / _SAMPLES
    inside = (at >= -1.0) & (at <= size)
    # Finite sides may lie infinitely far apart in float32: such positions are not inside.
    at = at.nan_to_num(0.0).clamp(0.0, size - 1.0)
    low = at.long()
    share = at - low
    high = (low + 1).clamp(max=size - 1)
    weights = torch.stack([1 - share, share], dim=-1) * (inside / _SAMPLES)[..., None]
    return torch.stack([low, high], dim=-1).flatten(2), weights.flatten(2)
