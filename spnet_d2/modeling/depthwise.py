"""Depthwise 7 x 7 convolutions on CPUs, whose weights' gradient is computed as a convolution.

``dw[c, i, j] = sum over n, y, x of grad[n, c, y, x] * input[n, c, y + i, x + j]`` is a depthwise
convolution as well: of the padded inputs, with the outputs' gradient as filters. oneDNN, which
PyTorch uses on CPUs, takes fifteen times as long for this gradient as for the outputs, with as many
multiplications. Its own forward convolution does it in a third of that. ConvNeXt spends a tenth of
a training step there.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .eager_cpu import is_eager_on_cpu

_KERNEL = 7
# Rows at a time, and numbers of about that many images: they stay in caches, and sums stay short.
_ROWS, _NUMBERS = 16, 1 << 18


class DepthwiseConv(nn.Conv2d):
    """A depthwise convolution of stride 1 with padding, where it pays with this gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        if not self._pays(x):
            return super().forward(x)
        return _Depthwise.apply(x, self.weight, self.bias)

    def _pays(self, x: Tensor) -> bool:
        return (
            is_eager_on_cpu(x, self.weight)
            and torch.is_grad_enabled()
            and self.weight.requires_grad
            and torch.backends.mkldnn.is_available()
            and not torch.is_autocast_enabled("cpu")
        )


def use_fast_depthwise(module: nn.Module) -> None:
    """Make such convolutions of ``module`` :class:`DepthwiseConv`; weights and names stay."""
    for conv in module.modules():
        if type(conv) is nn.Conv2d and _is_plain(conv):
            conv.__class__ = DepthwiseConv


def _is_plain(conv: nn.Conv2d) -> bool:
    return (
        conv.groups == conv.in_channels == conv.out_channels > 1
        and conv.kernel_size == (_KERNEL, _KERNEL)
        and conv.padding == (_KERNEL // 2, _KERNEL // 2)
        and conv.padding_mode == "zeros"
        and conv.stride == conv.dilation == (1, 1)
    )


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=_KERNEL // 2, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        grad_x = None
        if need_x:
            padding = [_KERNEL // 2] * 2
            sizes = [len(weight)], [1, 1], padding, [1, 1], False, [0, 0], len(weight)
            mask = [True, False, False]
            grad_x, _, _ = torch.ops.aten.convolution_backward(grad, x, weight, *sizes, mask)
        grad_weight = weight_gradient(x, grad) if need_weight else None
        return grad_x, grad_weight, grad.sum(dim=(0, 2, 3)) if need_bias else None


def weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """
    The gradient of a depthwise convolution's weights.

    Args:
        x: its inputs (N, C, H, W).
        grad: the gradient of its outputs, of the same shape.

    Returns:
        (C, 1, 7, 7)
    """
    channels, size = x.shape[1], (_KERNEL, _KERNEL)
    total = x.new_zeros(channels, 1, *size)
    if len(x) == 0:
        return total
    for inputs, filters in _strips(x, grad):
        found = F.conv2d(inputs, filters, groups=len(filters))
        total += found.view(-1, channels, 1, *size).sum(dim=0)
    return total


def _strips(x: Tensor, grad: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """
    Rows of some images, every channel of each a group of its own.

    Yields:
        Inputs (1, n C, rows + 6, W + 6) with zeros around the map, and as filters the gradient of
        the rows' outputs (n C, 1, rows, W).
    """
    _, channels, height, width = x.shape
    around = _KERNEL // 2
    images = max(1, _NUMBERS // (channels * min(height, _ROWS) * width))
    for first in range(0, height, _ROWS):
        last = min(height, first + _ROWS)
        low, high = max(0, first - around), min(height, last + around)
        above = low - first + around
        strips = x[:, :, low:high].split(images), grad[:, :, first:last].split(images)
        for part, filters in zip(*strips, strict=True):
            rows = last - first + 2 * around
            inputs = x.new_zeros(len(part), channels, rows, width + 2 * around)
            inputs[:, :, above : above + high - low, around : around + width] = part
            yield (
                inputs.view(1, -1, *inputs.shape[2:]),
                filters.reshape(-1, 1, last - first, width),
            )
