"""A scene as a query sees it.

Shapes: ``I`` scenes, ``Q`` queries, ``D`` embedding size. With x of a query and y of a scene it is
``z = BN(y * sigmoid(x / temperature))`` of unit vectors (query-scene excitation), ``z = BN(x + y)``
of vectors as they are, or ``z = y``.
"""

import torch
from torch import Tensor, nn

from ..precision import full_precision, unit_rows

# Of sigmoid(x / temperature).
GATE_TEMPERATURE = 0.2
_EPS = 1e-5
_MOMENTUM = 0.1


class Fuser(nn.Module):
    """
    The batch norm of all (query, scene) pairs, and cosines behind it, without their tensor.

    The pairs are an outer product, so their mean and variance, and all cosines, come of (I, D) and
    (Q, D) matrices alone. With fewer than two pairs the running statistics are used, and kept.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))

    def forward(self, queries: Tensor, scenes: Tensor, own: Tensor) -> Tensor:
        """
        Cosines of each query's own scene with all scenes, as the query sees them.

        Args:
            queries: (Q, D).
            scenes: (I, D).
            own: (Q,) number of each query's own scene.

        Returns:
            (Q, I) float32.
        """
        with full_precision(scenes):
            x, y = self._vectors(queries.float(), scenes.float())
            if self.training and len(y) * len(x) > 1:
                scale, shift = self._affine(*self._batch_statistics(x, y))
            else:
                scale, shift = self.affine()
            return fused_cosines(*self._factors(x, scale, shift), y, y[own])

    @staticmethod
    def _vectors(queries: Tensor, scenes: Tensor) -> tuple[Tensor, Tensor]:
        """Of which batch norm and cosines are: gates (Q, D), and scenes (I, D)."""
        return torch.sigmoid(unit_rows(queries) / GATE_TEMPERATURE), unit_rows(scenes)

    @staticmethod
    def _factors(x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """What a query's scenes are multiplied by (Q, D), and what is added, behind the norm."""
        return x * scale, shift

    @staticmethod
    def _moments(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance (D,) of all pairs, which are independent."""
        mean = y.mean(dim=0) * x.mean(dim=0)
        # Var(y g): a sum of what is not negative, so nothing cancels.
        variance = y.var(dim=0, correction=0) * x.square().mean(dim=0)
        return mean, variance + y.mean(dim=0).square() * x.var(dim=0, correction=0)

    def scoring(self) -> Tensor:
        """(3, D): factor, summand and 1 / gate temperature."""
        scale, shift = self.affine()
        return torch.stack([scale, shift, torch.full_like(scale, 1 / GATE_TEMPERATURE)])

    def affine(self) -> tuple[Tensor, Tensor]:
        """Factor and summand (D,) of the batch norm at inference."""
        return self._affine(self.running_mean, self.running_var)

    def _affine(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.weight * torch.rsqrt(variance + _EPS)
        return scale, self.bias - scale * mean

    def _batch_statistics(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the batch, which move the running ones."""
        mean, variance = self._moments(x, y)
        with torch.no_grad():
            pairs = len(y) * len(x)
            self.running_mean.lerp_(mean, _MOMENTUM)
            self.running_var.lerp_(variance * (pairs / (pairs - 1)), _MOMENTUM)
        return mean, variance


class SumFuser(Fuser):
    """The batch norm of sums."""

    @staticmethod
    def _vectors(queries: Tensor, scenes: Tensor) -> tuple[Tensor, Tensor]:
        return queries, scenes

    @staticmethod
    def _factors(x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        return scale.expand_as(x), x * scale + shift

    @staticmethod
    def _moments(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.mean(dim=0) + y.mean(dim=0)
        return mean, x.var(dim=0, correction=0) + y.var(dim=0, correction=0)

    def scoring(self) -> Tensor:
        """(2, D): factor and summand."""
        return torch.stack(self.affine())


class IdentityFuser(nn.Module):
    """Scenes as they are, whoever looks at them."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim
        self.register_buffer("gate", torch.zeros(dim), persistent=False)

    def forward(self, queries: Tensor, scenes: Tensor, own: Tensor) -> Tensor:
        """As :meth:`Fuser.forward`."""
        with full_precision(scenes):
            y = unit_rows(scenes.float())
            return y[own] @ y.T

    def scoring(self) -> Tensor:
        """(3, D): gates of 1/2 everywhere leave the cosine of two scenes as it is."""
        one = torch.ones_like(self.get_buffer("gate"))
        return torch.stack([one, one * 0, one * 0])


# "se": query-scene excitation.
FUSERS: dict[str, type[Fuser] | type[IdentityFuser]] = {
    "se": Fuser,
    "sum": SumFuser,
    "identity": IdentityFuser,
}


def fused_cosines(factors: Tensor, shift: Tensor, scenes: Tensor, own: Tensor) -> Tensor:
    """
    Cosines of ``factors * own + shift`` with ``factors * scene + shift``, by three products.

    Args:
        factors: (Q, D).
        shift: (D,) or (Q, D).
        scenes: (I, D).
        own: (Q, D), each query's own scene.

    Returns:
        (Q, I).
    """
    f = unit_rows(factors * own + shift)
    dots = (f * factors) @ scenes.T + (f * shift).sum(dim=1, keepdim=True)
    squares = factors.square() @ scenes.square().T + 2 * (factors * shift) @ scenes.T
    squares = squares + shift.square().sum(dim=-1, keepdim=True)
    return dots / squares.clamp(min=1e-12).sqrt()
