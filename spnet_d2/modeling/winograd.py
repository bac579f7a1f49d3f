"""3 x 3 convolutions on CPUs with a quarter of the multiplications (Winograd's minimal filtering).

F(4 x 4, 3 x 3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016):
a tile d of 6 x 6 inputs gives 4 x 4 outputs by 36 products, where a plain convolution takes 144,

    Y = A^T [(G g G^T) * (B^T d B)] A,

summed over input channels, which makes 36 matrix products. Rounding stays as small as that of
oneDNN, which PyTorch uses on CPUs, but which doesn't do this. GPUs' libraries do it by themselves.
The anchor embedder and the FPN spend half of a detection in such convolutions.

Shapes: ``N`` images, ``C`` / ``K`` channels in / out, ``t`` rows and ``u`` columns of tiles.
"""

from collections.abc import Iterator
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .eager_cpu import is_eager_on_cpu

# Rows and columns of a tile's outputs, of filters, and of a tile.
TILE, _FILTER = 4, 3
_SIZE = TILE + _FILTER - 1
# Where polynomials of degree 5 are evaluated, beside infinity. The usual 0, +-1, +-2 round twice as
# coarsely.
_POINTS = (0, Fraction(2, 3), -Fraction(2, 3), Fraction(3, 2), -Fraction(3, 2))
# Tiles at a time: what lies between the transforms stays in caches.
_CHUNK = 256
# Smaller maps and thinner layers gain nothing.
_MIN_TILES, _MIN_CHANNELS = 32, 64


class Conv3x3(nn.Conv2d):
    """A convolution of 3 x 3 with padding 1 that is done this way where it pays."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H, W)."""
        assert self.bias is not None
        return convolve([x], self.weight, self.bias)[0]


def use_fast_convolutions(module: nn.Module) -> None:
    """Make the 3 x 3 convolutions of ``module`` :class:`Conv3x3`; weights and names stay."""
    for conv in module.modules():
        if type(conv) is nn.Conv2d and _is_plain(conv):
            conv.__class__ = Conv3x3


def _is_plain(conv: nn.Conv2d) -> bool:
    """Whether a convolution is of the kind that :func:`convolve` computes."""
    return (
        conv.kernel_size == (_FILTER, _FILTER)
        and conv.padding == (1, 1)
        and conv.padding_mode == "zeros"
        and conv.stride == conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.bias is not None
    )


def convolve(maps: list[Tensor], weight: Tensor, bias: Tensor) -> list[Tensor]:
    """
    ``F.conv2d(x, weight, bias, padding=1)`` of every map, equal up to rounding.

    Args:
        maps: (N, C, H_l, W_l) each.
        weight: (K, C, 3, 3).
        bias: (K,).

    Returns:
        (N, K, H_l, W_l) each; channels last where it was done in tiles.
    """
    fast = [pays(x, weight) for x in maps]
    in_tiles = [x for x, f in zip(maps, fast, strict=True) if f]
    # Filters are transformed, and their gradient is added up, once for all maps.
    made = iter(_Winograd.apply(transform_filters(weight), bias, *in_tiles) if in_tiles else ())
    return [
        next(made) if f else F.conv2d(x, weight, bias, padding=1)
        for x, f in zip(maps, fast, strict=True)
    ]


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether a convolution of ``x`` with ``weight`` gains, and can be done this way at all."""
    if not is_eager_on_cpu(x, weight):
        return False
    height, width = x.shape[-2:]
    return (
        not torch.is_autocast_enabled("cpu")
        # In the other layout are maps that keep to torchvision's numbers (see `in_fast_layout`).
        and x.is_contiguous(memory_format=torch.channels_last)
        and min(weight.shape[:2]) >= _MIN_CHANNELS
        and len(x) * -(-height // TILE) * -(-width // TILE) >= _MIN_TILES
    )


def transform_filters(weight: Tensor) -> Tensor:
    """Filters (K, C, 3, 3) -> ``G g G^T`` (36, K, C)."""
    squares = weight.reshape(-1, _FILTER * _FILTER).T
    return (TO_FILTERS @ squares).view(_SIZE * _SIZE, *weight.shape[:2])


class _Winograd(torch.autograd.Function):
    """The convolution for transformed filters; the backward pass is done in tiles, too."""

    @staticmethod
    def forward(ctx, filters: Tensor, bias: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(filters, *maps)
        return tuple(_forward(x, filters, bias) for x in maps)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        filters, *maps = ctx.saved_tensors
        need_filters, need_bias, *need_maps = ctx.needs_input_grad
        grad_filters = torch.zeros_like(filters) if need_filters else None
        grad_bias = filters.new_zeros(filters.shape[1]) if need_bias else None
        grad_maps = [
            _backward(x, filters, grad, need, grad_filters, grad_bias)
            for x, grad, need in zip(maps, grads, need_maps, strict=True)
        ]
        return grad_filters, grad_bias, *grad_maps


def _forward(x: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, K, H, W), channels last."""
    by_channel = filters.transpose(1, 2)
    height, width = x.shape[-2:]
    padded = _pad(x)
    rows, columns = -(-height // TILE), -(-width // TILE)
    y = x.new_empty(len(x), rows, TILE, columns, TILE, len(bias))
    for i, part, strip in _strips(len(x), rows, columns):
        tiles = _transform(TO_TILES, _cut(padded[i, strip]))
        products = torch.bmm(tiles, by_channel)
        outputs = _transform(TO_OUTPUTS, products) + bias
        _squares(y[i, part]).copy_(outputs.view(TILE, TILE, -1, columns, len(bias)))
    y = y.view(len(x), rows * TILE, columns * TILE, -1)[:, :height, :width]
    return y.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def _backward(
    x: Tensor,
    filters: Tensor,
    grad: Tensor,
    need_x: bool,
    grad_filters: Tensor | None,
    grad_bias: Tensor | None,
) -> Tensor | None:
    """
    The gradient of a map, if needed, from that of its outputs (N, K, H, W).

    Those of filters and bias are added to ``grad_filters`` and ``grad_bias``, where given.
    """
    height, width = x.shape[-2:]
    padded = _pad(x)
    grad_x = torch.zeros_like(padded) if need_x else None
    grad = F.pad(grad.permute(0, 2, 3, 1), (0, 0, 0, -width % TILE, 0, -height % TILE))
    rows, columns = grad.shape[1] // TILE, grad.shape[2] // TILE
    grad = grad.reshape(len(x), rows, TILE, columns, TILE, -1)
    for i, part, strip in _strips(len(x), rows, columns):
        squares = _squares(grad[i, part]).reshape(TILE * TILE, -1, grad.shape[-1])
        if grad_bias is not None:
            grad_bias += squares.sum(dim=(0, 1))
        products = _transform(TO_OUTPUTS.T, squares)
        if grad_filters is not None:
            tiles = _transform(TO_TILES, _cut(padded[i, strip]))
            grad_filters.baddbmm_(products.transpose(1, 2), tiles)
        if grad_x is not None:
            tiles = _transform(TO_TILES.T, torch.bmm(products, filters))
            _paste(tiles, grad_x[i, strip], columns)
    if grad_x is None:
        return None
    return grad_x[:, 1 : height + 1, 1 : width + 1].permute(0, 3, 1, 2)


def _transform(matrix: Tensor, squares: Tensor) -> Tensor:
    """(b, a) times squares (a, tiles, channels) -> (b, tiles, channels)."""
    return (matrix @ squares.flatten(1)).view(-1, *squares.shape[1:])


def _pad(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, TILE t + 2, TILE u + 2, C) with zeros around."""
    height, width = x.shape[-2:]
    around = (0, 0, 1, 1 + -width % TILE, 1, 1 + -height % TILE)
    return F.pad(x.permute(0, 2, 3, 1), around).contiguous()


def _strips(images: int, rows: int, columns: int) -> Iterator[tuple[int, slice, slice]]:
    """Image, rows of tiles and rows of the padded input, of pieces of about ``_CHUNK`` tiles."""
    step = max(1, _CHUNK // columns)
    for i in range(images):
        for first in range(0, rows, step):
            last = min(rows, first + step)
            yield i, slice(first, last), slice(TILE * first, TILE * last + 2)


def _cut(strip: Tensor) -> Tensor:
    """Overlapping tiles of a padded strip: (TILE t + 2, TILE u + 2, C) -> (36, t u, C)."""
    tiles = strip.unfold(0, _SIZE, TILE).unfold(1, _SIZE, TILE)
    return tiles.permute(3, 4, 0, 1, 2).reshape(_SIZE * _SIZE, -1, strip.shape[-1])


def _paste(tiles: Tensor, strip: Tensor, columns: int) -> None:
    """Add overlapping tiles (36, t u, C) where :func:`_cut` takes them from."""
    tiles = tiles.view(_SIZE, _SIZE, -1, columns, tiles.shape[-1])
    height, width = (TILE * n for n in tiles.shape[2:4])
    for i in range(_SIZE):
        for j in range(_SIZE):
            strip[i : i + height : TILE, j : j + width : TILE] += tiles[i, j]


def _squares(outputs: Tensor) -> Tensor:
    """Outputs (t, TILE, u, TILE, K) seen as (TILE, TILE, t, u, K)."""
    return outputs.permute(1, 3, 0, 2, 4)


def _times(a: list[Fraction], b: list[Fraction]) -> list[Fraction]:
    """The product of two polynomials, lowest coefficient first."""
    product = [Fraction(0)] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            product[i + j] += x * y
    return product


def _matrices(points: tuple[Fraction | int, ...]) -> tuple[list, list, list]:
    """A^T, G and B^T for polynomials that are evaluated at ``points`` and at infinity."""
    outputs = [[Fraction(p) ** i for p in points] + [i == TILE - 1] for i in range(TILE)]
    filters, tiles = [], []
    for p in points:
        others = [q for q in points if q != p]
        lagrange, scale = [Fraction(1)], Fraction(1)
        for q in others:
            lagrange, scale = _times(lagrange, [-Fraction(q), Fraction(1)]), scale * (p - q)
        filters.append([Fraction(p) ** i / scale for i in range(_FILTER)])
        tiles.append([*lagrange, 0])
    vanishing = [Fraction(1)]
    for q in points:
        vanishing = _times(vanishing, [-Fraction(q), Fraction(1)])
    return outputs, [*filters, [0] * (_FILTER - 1) + [1]], [*tiles, vanishing]


def _both_ways(matrix: list) -> Tensor:
    """What ``M x M^T`` does to a square x, as one matrix for its flattened values."""
    rows = torch.tensor([[float(x) for x in row] for row in matrix], dtype=torch.float64)
    return torch.kron(rows, rows).float()


TO_OUTPUTS, TO_FILTERS, TO_TILES = map(_both_ways, _matrices(_POINTS))
