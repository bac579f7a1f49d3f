"""Momentum twin (He et al., CVPR 2020): a slow copy of the network that embeds people.

Its embeddings fill the momentum queue. It copies backbone, FPN and re-id embedder; batch norms
use their own statistics of its own batches, and stochastic depth is on, as in the student.
"""

import copy

import torch
from torch import Tensor, nn

from .backbone import TimmFPN
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
    def features(self, images: Tensor, student: TimmFPN, maps: list[Tensor]) -> Tensor:
        """
        The twin's p3.

        Args:
            images: (N, 3, H, W), normalised.
            student: the student's backbone.
            maps: what its trunk made of these images. They serve the twin, too, where its own
                trunk would give the same: both are constant and have equal weights.
        """
        if not (student.trunk_is_constant and _equal(self.backbone.trunk, student.trunk)):
            maps = self.backbone.trunk_maps(images)
        return self.backbone.finest(maps)

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


def _equal(a: nn.Module, b: nn.Module) -> bool:
    """Whether modules of the same kind have the same parameters and buffers."""
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)
