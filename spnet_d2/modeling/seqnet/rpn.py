"""The region proposal network of SeqNet and SeqNeXt.

One level of stride 16. Anchors, matching and coder are torchvision 0.4's, which the published
weights were trained with. Shapes: ``N`` images, ``A = 15`` anchors per position, ``P = H W A``.
"""

import math

import torch
import torch.nn.functional as F
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, pairwise_iou
from torch import Tensor, nn
from torchvision.ops import nms

STRIDE = 16
_SIZES = (32, 64, 128, 256, 512)
# Height by width.
_RATIOS = (0.5, 1.0, 2.0)
NUM_ANCHORS = len(_SIZES) * len(_RATIOS)
_SAMPLED, _POSITIVE_SHARE = 256, 0.5
_NMS = 0.7
_LEAST_SIDE = 1e-3
# Of logits, and of boxes after NMS, in training and at inference.
_BEFORE_NMS = {True: 12000, False: 6000}
_AFTER_NMS = {True: 2000, False: 300}


def cell_anchors() -> Tensor:
    """(A, 4) xyxy around the position; half extents are rounded, ratios come first."""
    sizes, roots = torch.tensor(_SIZES), torch.tensor(_RATIOS).sqrt()
    heights = (roots[:, None] * sizes).flatten()
    widths = (sizes / roots[:, None]).flatten()
    return (torch.stack([-widths, -heights, widths, heights], dim=1) / 2).round()


def anchors_of(height: int, width: int, cells: Tensor) -> Tensor:
    """(P, 4) of a map, position by position, row by row."""
    y, x = (STRIDE * torch.arange(n, device=cells.device) for n in (height, width))
    y, x = torch.meshgrid(y, x, indexing="ij")
    places = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (places + cells).reshape(-1, 4)


class RpnHead(nn.Module):
    """(N, C, H, W) -> objectness (N, P) and deltas (N, P, 4)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.cls_logits = nn.Conv2d(channels, NUM_ANCHORS, 1)
        self.bbox_pred = nn.Conv2d(channels, 4 * NUM_ANCHORS, 1)
        for layer in (self.conv, self.cls_logits, self.bbox_pred):
            assert layer.bias is not None
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.conv(x))
        logits = self.cls_logits(x).permute(0, 2, 3, 1).flatten(1)
        deltas = self.bbox_pred(x).permute(0, 2, 3, 1).reshape(len(x), -1, 4)
        return logits.float(), deltas.float()


class RegionProposals(nn.Module):
    """Where somebody may be: a head over anchors, its losses, and proposals."""

    cells: Tensor

    def __init__(self, channels: int, smooth: float):
        """
        Args:
            channels: C of the stride-16 map.
            smooth: beta of the box loss, 0 for plain L1.
        """
        super().__init__()
        self.head = RpnHead(channels)
        self.smooth = smooth
        self.register_buffer("cells", cell_anchors(), persistent=False)
        self.coder = Box2BoxTransform((1.0, 1.0, 1.0, 1.0), math.log(1000 / 16))
        self.matcher = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)

    def forward(
        self, x: Tensor, sizes: list[tuple[int, int]], given: list[Tensor] | None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """
        Args:
            x: (N, C, H, W).
            sizes: (height, width) of the N images, without padding.
            given: in training, (n, 4) boxes of each image.

        Returns:
            Proposals of each image, (k, 4) by falling score, and the losses.
        """
        logits, deltas = self.head(x)
        anchors = anchors_of(x.shape[2], x.shape[3], self.cells)
        with torch.no_grad():
            flat = deltas.detach().reshape(-1, 4)
            boxes = self.coder.apply_deltas(flat, anchors.repeat(len(x), 1)).view(len(x), -1, 4)
            proposals = [
                self._best(b, s, size) for b, s, size in zip(boxes, logits.detach(), sizes)
            ]
        return proposals, {} if given is None else self._losses(anchors, logits, deltas, given)

    def _best(self, boxes: Tensor, logits: Tensor, size: tuple[int, int]) -> Tensor:
        count = min(_BEFORE_NMS[self.training], len(logits))
        logits, order = logits.topk(count)
        found = Boxes(boxes[order])
        found.clip(size)
        keep = found.nonempty(_LEAST_SIDE)
        found, logits = found[keep].tensor, logits[keep]
        return found[nms(found, logits, _NMS)[: _AFTER_NMS[self.training]]]

    def _losses(
        self, anchors: Tensor, logits: Tensor, deltas: Tensor, given: list[Tensor]
    ) -> dict[str, Tensor]:
        classification, regression, sampled = [], [], 0
        for score, delta, boxes in zip(logits, deltas, given, strict=True):
            with torch.no_grad():
                matched, labels = self.matcher(pairwise_iou(Boxes(boxes), Boxes(anchors)))
                positive, negative = subsample_labels(labels, _SAMPLED, _POSITIVE_SHARE, 0)
            chosen = torch.cat([positive, negative])
            wanted = (labels[chosen] == 1).float()
            loss = F.binary_cross_entropy_with_logits
            classification.append(loss(score[chosen], wanted, reduction="sum"))
            if len(boxes):
                targets = self.coder.get_deltas(anchors[positive], boxes[matched[positive]])
                regression.append(box_loss(delta[positive], targets, self.smooth))
            sampled += len(chosen)
        total = sum(regression, 0.0 * deltas.sum())
        return {
            "loss_rpn_cls": sum(classification, 0.0 * logits.sum()) / max(sampled, 1),
            "loss_rpn_reg": total / max(sampled, 1),
        }


def box_loss(found: Tensor, wanted: Tensor, smooth: float) -> Tensor:
    """Sum of smooth L1 with this beta, of plain L1 for 0."""
    if smooth == 0:
        return F.l1_loss(found, wanted, reduction="sum")
    return F.smooth_l1_loss(found, wanted, beta=smooth, reduction="sum")
