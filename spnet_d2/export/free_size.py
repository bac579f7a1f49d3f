"""Layers that fit maps of any size in one graph.

The model's Swin blocks decide in Python whether a map is larger than a window, and timm's keep a
mask for each size: here the shift and the mask are computed from the map's size. Convolutions of
TensorFlow's padding compute it from the map's size, stage after stage: here it is a number.
"""

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn

from spnet_d2.modeling.swin import PadFirstBlock, RuntimeShiftBlock

# What timm adds to the attention between positions that lie side by side by shifting alone.
_APART = -100.0


class FreeSizeBlock(PadFirstBlock):
    """What the model's blocks compute, of maps of free size."""

    # Whether windows shift along sides of one window or less.
    always_shifts = True

    def _attn(self, x: Tensor) -> Tensor:
        (high, wide), channels = self.window_size, x.shape[-1]
        height, width = x.shape[1:3]
        padded_h, padded_w = ((n + w - 1) // w * w for n, w in ((height, high), (width, wide)))
        x = F.pad(x, (0, 0, 0, padded_w - width, 0, padded_h - height))
        rows, row_back, row_part = self._shift(padded_h, height, 0, x.device)
        columns, column_back, column_part = self._shift(padded_w, width, 1, x.device)
        x = x.index_select(1, rows).index_select(2, columns)
        windows = x.reshape(-1, padded_h // high, high, padded_w // wide, wide, channels)
        windows = windows.transpose(2, 3).reshape(-1, high * wide, channels)
        parts = (row_part[:, None] * 3 + column_part).reshape(
            padded_h // high, high, padded_w // wide, wide
        )
        parts = parts.transpose(1, 2).reshape(-1, high * wide)
        windows = self._attend(windows, parts)
        x = windows.reshape(-1, padded_h // high, padded_w // wide, high, wide, channels)
        x = x.transpose(2, 3).reshape(-1, padded_h, padded_w, channels)
        return x.index_select(1, row_back).index_select(2, column_back)[:, :height, :width]

    def _shift(self, padded: int, side: int, axis: int, device) -> tuple[Tensor, Tensor, Tensor]:
        """
        Of an axis of length ``padded``: where each position comes from when windows shift, and
        where it goes back; and which of three parts it is in, that don't attend to one another.
        """
        places = torch.arange(padded, device=device)
        window, shift = self.window_size[axis], self.target_shift_size[axis]
        moved = torch.full_like(places, shift)
        if not self.always_shifts:
            inside = torch.arange(side, device=device)
            # A tensor that is 0 or 1, where a Python condition would hold for one size alone.
            moved = moved * (inside.amax(dim=0) >= window)
        parts = (places >= padded - window).long() + (places >= padded - moved).long()
        there, back = places + moved, places - moved
        # Not by remainders of sizes, which the exporter does not know.
        there = torch.where(there >= padded, there - padded, there)
        return there, torch.where(back < 0, back + padded, back), parts

    def _attend(self, windows: Tensor, parts: Tensor) -> Tensor:
        """Attention in windows (N w, area, C), of which each image has w with ``parts``."""
        attn, area = self.attn, self.window_size[0] * self.window_size[1]
        qkv = attn.qkv(windows).reshape(-1, area, 3, attn.num_heads, attn.dim // attn.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
        scores = (q * attn.scale) @ k.transpose(-2, -1) + attn._get_rel_pos_bias()
        apart = (parts[:, None] != parts[:, :, None]).float() * _APART
        by_image = scores.reshape(-1, parts.shape[0], attn.num_heads, area, area)
        scores = (by_image + apart[:, None]).reshape(-1, attn.num_heads, area, area)
        mixed = scores.softmax(dim=-1) @ v
        return attn.proj(mixed.transpose(1, 2).reshape(-1, area, attn.dim))


class FreeSizeShiftBlock(FreeSizeBlock):
    """torchvision's: windows shift only along sides that are longer than one window."""

    always_shifts = False


class EvenConv2d(Conv2dSame):
    """TensorFlow's padding of maps whose sides the stride divides, as all in a padded image are."""

    def forward(self, x: Tensor) -> Tensor:
        sides = zip(self.kernel_size[::-1], self.stride[::-1], self.dilation[::-1], strict=True)
        missing = [max(0, (kernel - 1) * step + 1 - stride) for kernel, stride, step in sides]
        x = F.pad(x, [part for total in missing for part in (total // 2, total - total // 2)])
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


_LAYERS = {
    PadFirstBlock: FreeSizeBlock,
    RuntimeShiftBlock: FreeSizeShiftBlock,
    Conv2dSame: EvenConv2d,
}


M = TypeVar("M", bound=nn.Module)


def for_any_size(module: M) -> M:
    """``module``, or a copy whose layers take maps of any size; it shares no weights then."""
    if not any(type(layer) in _LAYERS for layer in module.modules()):
        return module
    module = copy.deepcopy(module)
    for layer in module.modules():
        if type(layer) in _LAYERS:
            layer.__class__ = _LAYERS[type(layer)]
    return module
