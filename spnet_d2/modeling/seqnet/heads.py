"""The two heads of SeqNet and SeqNeXt, and the norm-aware embedding.

Shapes: ``n`` boxes, ``c4`` and ``c5`` channels of the stride-16 and stride-32 map, ``D`` re-id
size.
"""

import copy

import torch
import torch.nn.functional as F
from timm.models import FeatureListNet
from torch import Tensor, nn

from ..backbone import last_stage
from ..swin import SoliderSwin


class StageHead(nn.Module):
    """A copy of the trunk's last stage over RoI features (n, c4, 14, 14): maxima of both maps, or,
    of SOLIDER's Swin, means."""

    def __init__(self, trunk: FeatureListNet | SoliderSwin):
        super().__init__()
        self.stage = last_stage(trunk)
        self.solider = isinstance(trunk, SoliderSwin)

    def forward(self, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors ``feat4`` (n, c4) and ``feat5`` (n, c5)."""
        if not self.solider:
            return rois.amax(dim=(2, 3)), self.stage(rois).amax(dim=(2, 3))
        # Swin's blocks take no empty batch, and maps with channels last.
        some = rois if len(rois) else rois.new_zeros(1, *rois.shape[1:])
        means = self.stage(some.permute(0, 2, 3, 1)).mean(dim=(1, 2))
        return rois.mean(dim=(2, 3)), means[: len(rois)]


class ClassBoxPredictor(nn.Module):
    """The first head's linear layers: two class logits, background first, and two boxes' deltas."""

    def __init__(self, channels: int):
        super().__init__()
        self.cls_score = nn.Linear(channels, 2)
        self.bbox_pred = nn.Linear(channels, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, c5) -> logits (n, 2), deltas (n, 4) of people."""
        return self.cls_score(x).float(), self.bbox_pred(x).float()[:, 4:]


class NormedBoxPredictor(nn.Module):
    """SeqNet's second box regressor: linear and batch norm, of two classes."""

    def __init__(self, channels: int):
        super().__init__()
        self.bbox_pred = _projection(channels, 8)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c5) -> deltas (n, 4) of people."""
        return self.bbox_pred(x).float()[:, 4:]


class ScoreBoxPredictor(nn.Module):
    """SeqNeXt's second predictor: one logit and one box's deltas."""

    def __init__(self, channels: int):
        super().__init__()
        self.cls_score = nn.Linear(channels, 1)
        self.bbox_pred = nn.Linear(channels, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, c5) -> logits (n,), deltas (n, 4)."""
        return self.cls_score(x).float()[:, 0], self.bbox_pred(x).float()


class NormAwareEmbedding(nn.Module):
    """
    Re-id embedding and, by its length, whether somebody is there (Chen et al., CVPR 2020).

    ``feat4`` and ``feat5`` go through linear and batch norm each, to half of D; the length of both
    together is rescaled to a logit by another batch norm.
    """

    def __init__(self, channels: tuple[int, int], dim: int, rescaled: bool):
        """
        Args:
            channels: c4, c5.
            dim: D.
            rescaled: give a logit; SeqNeXt takes it from elsewhere.
        """
        super().__init__()
        sizes = (dim // 2, dim - dim // 2)
        self.projectors = nn.ModuleList(_projection(i, o) for i, o in zip(channels, sizes))
        self.rescaler = nn.BatchNorm1d(1) if rescaled else None

    def forward(self, features: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor | None]:
        """(n, c4), (n, c5) -> unit embeddings (n, D), logits (n,)."""
        parts = [
            _normed(projector[1], projector[0](x).float())  # type: ignore[index]
            for projector, x in zip(self.projectors, features, strict=True)
        ]
        vectors = torch.cat(parts, dim=1)
        lengths = vectors.norm(dim=1, keepdim=True)
        logits = None if self.rescaler is None else _normed(self.rescaler, lengths)[:, 0]
        return vectors / lengths.clamp(min=1e-12), logits


class SceneEmbedder(nn.Module):
    """A stage head and an embedding as one, of which a gallery filter makes its own."""

    def __init__(self, head: StageHead, embedding: NormAwareEmbedding, dim: int):
        super().__init__()
        self.head = head
        # A scene has no logit.
        self.embedding = copy.deepcopy(embedding)
        self.embedding.rescaler = None
        self.dim = dim

    def forward(self, rois: Tensor) -> Tensor:
        """(n, c4, s, s) -> unit embeddings (n, D)."""
        return self.embedding(self.head(rois))[0]


def _projection(size: int, to: int) -> nn.Sequential:
    """Linear layer and batch norm, whose weights start small."""
    linear, norm = nn.Linear(size, to), nn.BatchNorm1d(to)
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    nn.init.normal_(norm.weight, std=0.01)
    return nn.Sequential(linear, norm)


def _normed(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
    """One row has no statistics of its own: it takes the running ones, and leaves them."""
    if norm.training and len(x) <= 1:
        return F.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
        )
    return norm(x)
