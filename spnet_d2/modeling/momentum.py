"""Momentum twin (He et al., CVPR 2020): a slow copy of the network that embeds people.

Its embeddings fill the momentum queue. It copies backbone, FPN and re-id embedder; batch norms
use their own statistics of its own batches, and stochastic depth is on, as in the student.
"""

import copy

import torch
from torch import Tensor, nn

from .backbone import FEATURES
from .box_embedder import embed_boxes


class MomentumTwin(nn.Module):
    """Exponential moving average of the student's parameters (not of its buffers)."""

    def __init__(self, backbone: nn.Module, reid_embedder: nn.Module, momentum: float = 0.9999):
        """
        Args:
            backbone, reid_embedder: the student's modules; they are copied.
            momentum: weight of the old parameter.
        """
        super().__init__()
        self.momentum = momentum
        self.backbone = copy.deepcopy(backbone)
        self.reid_embedder = copy.deepcopy(reid_embedder)
        self.requires_grad_(False)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the twin's p3."""
        return self.backbone(images)[FEATURES[0]]

    @torch.no_grad()
    def embed(self, p3: Tensor, boxes: list[Tensor]) -> Tensor:
        """Boxes (n_i, 4) per image -> (sum n_i, D_r)."""
        return embed_boxes(self.reid_embedder, p3, boxes)

    @torch.no_grad()
    def update(self, backbone: nn.Module, reid_embedder: nn.Module) -> None:
        """Move towards the student: once per training step, before the optimiser's."""
        for twin, student in ((self.backbone, backbone), (self.reid_embedder, reid_embedder)):
            torch._foreach_lerp_(
                list(twin.parameters()),
                [p.detach() for p in student.parameters()],
                1 - self.momentum,
            )
