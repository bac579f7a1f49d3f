"""ConvNeXt blocks without gradients, on CPUs: a map's positions in pieces that stay in caches.

A block's MLP is four times as wide as its map. Of a frame of 1500 x 844 pixels, every block of the
first stage would write and read maps of 125 MB. Numbers are the same up to rounding.
"""

import torch
from timm.layers import Mlp
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from .eager_cpu import is_eager_on_cpu

# Positions at a time. With fewer, the matrix products of wide layers are slower.
_CHUNK = 2048


class ChunkedBlock(ConvNeXtBlock):
    """timm's block, whose norm and MLP take pieces where nothing is kept for a backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        if not self._in_pieces(x):
            return super().forward(x)
        y = self.conv_dw(x).permute(0, 2, 3, 1)
        y = self._mlp(y.reshape(-1, y.shape[-1])).view(y.shape).permute(0, 3, 1, 2)
        return self.drop_path(y).add_(self.shortcut(x))

    def _mlp(self, rows: Tensor) -> Tensor:
        """Norm, MLP and layer scale of positions (n, C)."""
        result = torch.empty_like(rows)
        for given, part in zip(rows.split(_CHUNK), result.split(_CHUNK), strict=True):
            made = self.mlp(self.norm(given))
            part.copy_(made) if self.gamma is None else torch.mul(made, self.gamma, out=part)
        return result

    def _in_pieces(self, x: Tensor) -> bool:
        # A pass that counts for gradient accumulation computes as the one that trains.
        counts = self.training and self.conv_dw.weight.requires_grad
        return is_eager_on_cpu(x) and not (
            torch.is_grad_enabled() or counts or torch.is_autocast_enabled("cpu")
        )


def use_chunked_blocks(trunk: nn.Module) -> None:
    """Make the ConvNeXt blocks of ``trunk`` :class:`ChunkedBlock`; weights and names stay."""
    for block in trunk.modules():
        # The MLPs of ConvNeXt V2 have norms over all positions.
        if type(block) is ConvNeXtBlock and type(block.mlp) is Mlp and not block.use_conv_mlp:
            block.__class__ = ChunkedBlock
