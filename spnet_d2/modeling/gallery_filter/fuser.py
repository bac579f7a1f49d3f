"""Query-scene excitation: a scene as a query sees it.

Shapes: ``I`` scenes, ``Q`` queries, ``D`` embedding size. With unit vectors x of a query and y of a
scene, the scene as the query sees it is ``z = BN(y * sigmoid(x / temperature))``.
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
            y = unit_rows(scenes.float())
            gates = torch.sigmoid(unit_rows(queries.float()) / GATE_TEMPERATURE)
            if self.training and len(y) * len(gates) > 1:
                scale, shift = self._affine(*self._batch_statistics(gates, y))
            else:
                scale, shift = self.affine()
            return fused_cosines(gates * scale, y, y[own], shift)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Factor and summand (D,) of the batch norm at inference."""
        return self._affine(self.running_mean, self.running_var)

    def _affine(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.weight * torch.rsqrt(variance + _EPS)
        return scale, self.bias - scale * mean

    def _batch_statistics(self, gates: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (D,) of all pairs, which move the running ones."""
        mean = y.mean(dim=0) * gates.mean(dim=0)
        # Var(y g) of independent y and g: a sum of what is not negative, so nothing cancels.
        variance = y.var(dim=0, correction=0) * gates.square().mean(dim=0)
        variance = variance + y.mean(dim=0).square() * gates.var(dim=0, correction=0)
        with torch.no_grad():
            pairs = len(y) * len(gates)
            self.running_mean.lerp_(mean, _MOMENTUM)
            self.running_var.lerp_(variance * (pairs / (pairs - 1)), _MOMENTUM)
        return mean, variance


def fused_cosines(factors: Tensor, scenes: Tensor, own: Tensor, shift: Tensor) -> Tensor:
    """
    Cosines of ``factors * own + shift`` with ``factors * scene + shift``, by three products.

    Args:
        factors: (Q, D).
        scenes: (I, D).
        own: (Q, D), each query's own scene.
        shift: (D,).

    Returns:
        (Q, I).
    """
    f = unit_rows(factors * own + shift)
    dots = (f * factors) @ scenes.T + (f @ shift)[:, None]
    squares = factors.square() @ scenes.square().T + 2 * (factors * shift) @ scenes.T
    lengths = (squares + shift.square().sum()).clamp(min=1e-12).sqrt()
    return dots / lengths
