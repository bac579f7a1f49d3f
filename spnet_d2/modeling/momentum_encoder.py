"""Momentum encoder (He et al., CVPR 2020): a slow copy of the network that embeds people.

Its embeddings fill the momentum queue. It copies backbone, FPN and re-id embedder. Its batch norms
have running statistics of their own, and stochastic depth is on, as in the student.
"""

import copy
import logging

import torch
from torch import Tensor, nn

from .backbone import PyramidBackbone
from .box_embedder import RoiMap, embed_boxes

logger = logging.getLogger(__name__)


class MomentumTwin(nn.Module):
    """Exponential moving average of the student's parameters (not of its buffers)."""

    def __init__(
        self, backbone: PyramidBackbone, reid_embedder: nn.Module, momentum: float = 0.9999
    ):
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
        # Whether an optimiser moves it, see `SPNet.move_twin_with`.
        self.follows = False
        self._mentioned = False
        # Whether its trunk equals the student's, and of which versions of their tensors that holds.
        self._same_trunk = False
        self._compared: list[tuple[int, int]] = []

    @torch.no_grad()
    def features(self, images: Tensor, student: PyramidBackbone, maps: list[Tensor]) -> Tensor:
        """
        The momentum encoder's p3.

        Args:
            images: (N, 3, H, W), normalised.
            student: the student's backbone.
            maps: what its trunk made of these images. They serve the momentum encoder, too, where
                its own trunk would give the same: both are constant and have equal weights.
        """
        if not (student.trunk_is_constant and self._has_trunk_of(student)):
            maps = self.backbone.trunk_maps(images)
        return self.backbone.finest(maps)

    @torch.no_grad()
    def embed(self, p3: Tensor | RoiMap, boxes: Tensor | list[Tensor]) -> Tensor:
        """RoIs (n, 5), or boxes (n_i, 4) per image, -> (n, D_r)."""
        return embed_boxes(self.reid_embedder, p3, boxes)

    @torch.no_grad()
    def update(self, backbone: PyramidBackbone, reid_embedder: nn.Module) -> None:
        """Move towards the student: by ``SPNet.move_twin_with`` before the optimiser's step."""
        pairs = [(self.backbone.fpn, backbone.fpn), (self.reid_embedder, reid_embedder)]
        if not (backbone.trunk_is_constant and self._has_trunk_of(backbone)):
            # Of an equal one that stays as it is, the average is that one.
            pairs.append((self.backbone.trunk, backbone.trunk))
        twins, students = (
            [p.detach() for pair in pairs for p in pair[i].parameters()] for i in (0, 1)
        )
        torch._foreach_lerp_(twins, students, 1 - self.momentum)

    def mention_standstill(self) -> None:
        """Say once that nobody moves it, when gradients are taken."""
        if self.follows or self._mentioned or not torch.is_grad_enabled():
            return
        self._mentioned = True
        logger.warning(
            "The momentum encoder follows no optimiser, so its weights stay as they are. In a "
            "training loop of your own, call model.move_twin_with(optimizer) before it; "
            "spnet_d2.engine.Trainer does."
        )

    def _has_trunk_of(self, student: PyramidBackbone) -> bool:
        """
        Whether the trunks have equal parameters and buffers.

        They are compared on the device only if a tensor was replaced or written to since last time:
        in training with a frozen trunk once, and after a checkpoint was loaded.
        """
        pairs = [_tensors(self.backbone.trunk), _tensors(student.trunk)]
        now = [(x.data_ptr(), x._version) for tensors in pairs for x in tensors]
        if now != self._compared:
            self._same_trunk = all(torch.equal(x, y) for x, y in zip(*pairs, strict=True))
            self._compared = now
        return self._same_trunk


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
