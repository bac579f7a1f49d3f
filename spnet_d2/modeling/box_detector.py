"""Box detector (paper section 3.3): offset embedding x_o -> class logit and box deltas."""

from torch import Tensor, nn

from .fixed_norm import LOGIT_TYPES, NormLogits, offset_norm
from .precision import full_precision


def mlp(dim: int, depth: int = 4) -> nn.Sequential:
    """``depth`` times Linear(D, D) and ReLU."""
    layers = []
    for _ in range(depth):
        layers += [nn.Linear(dim, dim), nn.ReLU()]
    return nn.Sequential(*layers)


class ClassHead(nn.Module):
    """Foreground logit of an offset embedding: of its norm, or of the norm of an MLP of it."""

    def __init__(self, dim: int, kind: str = "fixed_norm", positive: bool = False):
        """
        Args:
            dim: D.
            kind: a kind of :class:`NormLogits`, or ``"mlp"``: four layers before FixedNorm.
            positive: as in :class:`NormLogits`.

        Raises:
            ValueError: unknown ``kind``.
        """
        super().__init__()
        if kind not in (*LOGIT_TYPES, "mlp"):
            raise ValueError(f"Unknown class head {kind!r}, expected {(*LOGIT_TYPES, 'mlp')}.")
        self.transform = mlp(dim) if kind == "mlp" else nn.Identity()
        self.logits = NormLogits(dim, "fixed_norm" if kind == "mlp" else kind, positive)

    def forward(self, offsets: Tensor) -> Tensor:
        """(..., D) offsets -> (...) float32 logits."""
        return self.logits(offset_norm(self.transform(offsets)))


class BoxDetector(nn.Module):
    """Class head and box head of one stage."""

    def __init__(self, dim: int, logits: str = "fixed_norm", positive: bool = False):
        super().__init__()
        self.class_head = ClassHead(dim, logits, positive)
        self.box_head = nn.Sequential(mlp(dim), nn.Linear(dim, 4))

    def forward(self, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            offsets: (..., D) x_o.

        Returns:
            (...) float32 logits and (..., 4) float32 deltas (dx, dy, dw, dh).
        """
        # Few boxes go through these small layers: half precision would save nothing.
        with full_precision(offsets):
            offsets = offsets.float()
            return self.class_head(offsets), self.box_head(offsets)
