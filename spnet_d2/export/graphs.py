"""What is exported: modules of their own, made of the parts of a trained model.

They compute what :class:`~spnet_d2.modeling.SPNet` computes at inference, by operators that every
runtime knows, of sizes that are free. What chooses a number of boxes that depends on pixels (least
scores, NMS) stays outside: :mod:`.boxes`.

Shapes: ``N`` images of one size (H, W), ``A`` anchors of an image, ``k`` boxes kept, ``n`` boxes,
``Q`` queries, ``D`` / ``D_r`` localisation / re-id size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import roi_align

from spnet_d2.modeling import SPNet
from spnet_d2.modeling.backbone import FEATURES, PyramidBackbone
from spnet_d2.modeling.box_detector import BoxDetector
from spnet_d2.modeling.box_embedder import ROI_SIZE
from spnet_d2.modeling.losses import BOX_TRANSFORM
from spnet_d2.modeling.proposal_generator import (
    ANCHOR_SIZES,
    ANCHORS_PER_CELL,
    ASPECT_RATIOS,
    SwapPathProposalGenerator,
)
from spnet_d2.modeling.swap_path import SwapPath

# A score that no least score lets through: of places without an anchor, in small images.
NOBODY = -1.0
# RoIAlign: p3's stride, and samples per bin and axis.
_SCALE, _SAMPLES = 1 / 8, 2


class Pyramid(nn.Module):
    """Images -> pyramid levels and anchors: normalisation, padding, trunk, FPN."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: SPNet, backbone: PyramidBackbone):
        """
        Args:
            model: the trained SPNet, for its statistics.
            backbone: the model's, or one made for export of it.
        """
        super().__init__()
        self.backbone = backbone
        self.divisor = backbone.size_divisibility
        self.register_buffer("mean", model.pixel_mean.clone())
        self.register_buffer("std", model.pixel_std.clone())
        cells = AnchorGenerator(ANCHOR_SIZES, (ASPECT_RATIOS,) * len(ANCHOR_SIZES)).cell_anchors
        for i, cell in enumerate(cells):
            self.register_buffer(f"cell_{i}", cell.to(self.mean))

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """(N, 3, H, W) RGB 0..255 -> levels p3 .. p7, and anchors (A, 4) of the padded image."""
        height, width = image.shape[-2:]
        # Not by negative numbers: runtimes round their quotients towards zero.
        up = self.divisor - 1
        padded = [(side + up) // self.divisor * self.divisor for side in (height, width)]
        x = (image.float() - self.mean) / self.std
        x = F.pad(x, (0, padded[1] - width, 0, padded[0] - height))
        features = self.backbone(x)
        levels = [features[name] for name in FEATURES]
        anchors = [self._anchors(i, padded, level) for i, level in enumerate(levels)]
        return levels, torch.cat(anchors)

    def _anchors(self, i: int, padded: list[int], level: Tensor) -> Tensor:
        """Anchors (h w 9, 4) of a level, as ``grid_anchors`` has them."""
        y, x = (
            torch.arange(size, device=level.device) * (side // size)
            for side, size in zip(padded, level.shape[-2:], strict=True)
        )
        y, x = (grid.reshape(-1) for grid in torch.meshgrid(y, x, indexing="ij"))
        shifts = torch.stack([x, y, x, y], dim=1).float()
        return (shifts[:, None] + getattr(self, f"cell_{i}")).reshape(-1, 4)


class Head(nn.Module):
    """Offsets (..., D) -> logits (...) and deltas (..., 4): the model's box detector."""

    def __init__(self, detector: BoxDetector):
        super().__init__()
        self.transform = detector.class_head.transform
        self.logits = detector.class_head.logits
        self.box_head = detector.box_head

    def forward(self, offsets: Tensor) -> tuple[Tensor, Tensor]:
        norms = torch.linalg.vector_norm(self.transform(offsets), dim=-1)
        return self.logits(norms), self.box_head(offsets)


class Detector(nn.Module):
    """Object-centric: images -> p3, and the k best boxes of every image before NMS."""

    def __init__(self, pyramid: Pyramid, proposals: SwapPathProposalGenerator):
        """
        Args:
            pyramid: of the model.
            proposals: the model's proposal generator.
        """
        super().__init__()
        self.pyramid, self.head = pyramid, Head(proposals.box_detector)
        self.selection, self.positive = proposals.selection, proposals.positive_norm
        with torch.no_grad():
            # The bridge goes into the convolution.
            weight, bias = proposals.anchor_embedder.folded(proposals.swap_path.affine())
        self.anchors = AnchorConvolution(weight, bias, proposals.anchor_embedder.dim)
        # No more candidates than anchors are looked at.
        self.count = min(self.selection.topk_candidates, self.selection.pre_topk)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
            image: (N, 3, H, W) RGB, 0..255.

        Returns:
            p3 (N, C, h, w); boxes (N, k, 4), xyxy in pixels of ``image``, clipped; their scores
            (N, k) by falling score, ``NOBODY`` where there are fewer anchors than k.
        """
        levels, anchors = self.pyramid(image)
        offsets = self.anchors(levels)
        norms = torch.cat([cell_norms(x) for x in offsets], dim=1)
        nearest, there = best(norms, self.selection.pre_topk, self.positive)
        logits, deltas = self.head(rows_of_levels(offsets, nearest))
        scores = torch.where(there, logits.sigmoid(), NOBODY)
        scores, chosen = scores.topk(self.count, dim=1)
        deltas = deltas.gather(1, chosen[:, :, None].expand(-1, -1, 4))
        boxes = decode(deltas, anchors[nearest.gather(1, chosen)], image.shape[-2:])
        return levels[0], boxes, scores


class AnchorConvolution(nn.Module):
    """The anchor embedder of all levels, its channels as (9, D)."""

    def __init__(self, weight: Tensor, bias: Tensor, dim: int):
        super().__init__()
        self.dim = dim
        self.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        self.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """(N, C, h, w) each -> (N, 9, D, h w) each."""
        maps = [F.conv2d(x, self.weight, self.bias, padding=1) for x in levels]
        return [x.reshape(x.shape[0], ANCHORS_PER_CELL, self.dim, -1) for x in maps]


def cell_norms(x: Tensor) -> Tensor:
    """Norms (N, h w 9) of a level's (N, 9, D, h w), in the order of its anchors."""
    return torch.linalg.vector_norm(x, dim=2).transpose(1, 2).flatten(1)


def best(norms: Tensor, count: int, largest: bool) -> tuple[Tensor, Tensor]:
    """
    Positions of the best norms of each row, also of rows that have fewer.

    Returns:
        (N, count) indices into ``norms`` (N, A), and whether there is an anchor.
    """
    worst = -torch.inf if largest else torch.inf
    total = norms.shape[1]
    found = F.pad(norms, (0, count), value=worst).topk(count, dim=1, largest=largest).indices
    return found.clamp(max=total - 1), found < total


def rows_of_levels(levels: list[Tensor], indices: Tensor) -> Tensor:
    """
    Embeddings of anchors.

    Args:
        levels: (N, 9, D, h w) each.
        indices: (N, k), of anchors in their order over all levels.

    Returns:
        (N, k, D).
    """
    dim = levels[0].shape[2]
    rows, first = levels[0].new_zeros(()), 0
    for level in levels:
        size = level.shape[3]
        places = indices - first
        inside = (places >= 0) & (places < size * ANCHORS_PER_CELL)
        places = places.clamp(min=0).clamp(max=size * ANCHORS_PER_CELL - 1)
        cell, kind = places // ANCHORS_PER_CELL, places % ANCHORS_PER_CELL
        found = level.gather(3, cell[:, None, None].expand(-1, ANCHORS_PER_CELL, dim, -1)).gather(
            1, kind[:, None, None].expand(-1, -1, dim, -1)
        )[:, 0]
        rows = torch.where(inside[:, None], found, rows)
        first = first + size * ANCHORS_PER_CELL
    return rows.transpose(1, 2)


def decode(deltas: Tensor, boxes: Tensor, size) -> Tensor:
    """Refined boxes (..., 4) of deltas and boxes (..., 4), clipped to (height, width)."""
    refined = BOX_TRANSFORM.apply_deltas(deltas.reshape(-1, 4), boxes.reshape(-1, 4))
    height, width = size
    x, y = refined[:, 0::2].clamp(min=0), refined[:, 1::2].clamp(min=0)
    x, y = x.clamp(max=width), y.clamp(max=height)
    return torch.stack([x, y], dim=-1).reshape(boxes.shape)


class Encoder(nn.Module):
    """Query-centric: images -> p3, anchors and their embeddings."""

    def __init__(self, pyramid: Pyramid, proposals: SwapPathProposalGenerator):
        super().__init__()
        self.pyramid = pyramid
        embedder = proposals.anchor_embedder
        assert embedder.conv.bias is not None
        self.anchors = AnchorConvolution(embedder.conv.weight, embedder.conv.bias, embedder.dim)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, H, W) -> p3 (N, C, h, w), anchors (A, 4) and embeddings (N, A, D)."""
        levels, anchors = self.pyramid(image)
        maps = [
            x.permute(0, 3, 1, 2).reshape(x.shape[0], -1, self.anchors.dim)
            for x in self.anchors(levels)
        ]
        return levels[0], anchors, torch.cat(maps, dim=1)


class Matcher(nn.Module):
    """Query-centric: anchors of one image and queries -> the k best boxes of each query."""

    def __init__(self, proposals: SwapPathProposalGenerator):
        super().__init__()
        self.head, self.positive = Head(proposals.box_detector), proposals.positive_norm
        self.count = proposals.selection.query_topk

    def forward(
        self, anchors: Tensor, embeddings: Tensor, queries: Tensor, size: Tensor
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            anchors: (A, 4) and embeddings: (A, D), of :class:`Encoder`.
            queries: (Q, D) localisation embeddings.
            size: (2,) height and width of the image.

        Returns:
            boxes (Q, k, 4) and scores (Q, k), nearest first; ``NOBODY`` where there are fewer
            anchors than k.
        """
        # As the model does: the expanded square of the difference.
        squares = embeddings.square().sum(dim=1) - 2.0 * queries @ embeddings.T
        squares = squares + queries.square().sum(dim=1)[:, None]
        nearest, there = best(squares.clamp(min=0).sqrt(), self.count, self.positive)
        offsets = SwapPath.query_centric(queries[:, None], embeddings[nearest])
        logits, deltas = self.head(offsets)
        boxes = decode(deltas, anchors[nearest], size.float().unbind())
        return boxes, torch.where(there, logits.sigmoid(), NOBODY)


class Embedder(nn.Module):
    """p3 and boxes -> embeddings, re-id's or the localisation embeddings of a stage."""

    def __init__(self, embedder: nn.Module):
        super().__init__()
        self.embedder = embedder

    def forward(self, p3: Tensor, boxes: Tensor, image_index: Tensor) -> Tensor:
        """
        Args:
            p3: (N, C, h, w).
            boxes: (n, 4) xyxy in pixels of the image, n >= 1.
            image_index: (n,) whose boxes they are.

        Returns:
            (n, D or D_r).
        """
        rois = torch.cat([image_index[:, None].to(boxes.dtype), boxes], dim=1)
        pooled = roi_align(p3, rois, ROI_SIZE, _SCALE, _SAMPLES, aligned=False)
        return self.embedder(pooled)


class Stage(nn.Module):
    """A cascade stage behind its embedder: embeddings of boxes -> refined boxes and logits."""

    matrix: Tensor
    vector: Tensor

    def __init__(self, path: SwapPath, detector: BoxDetector):
        """
        Args:
            path, detector: of the stage.
        """
        super().__init__()
        self.head = Head(detector)
        with torch.no_grad():
            matrix, vector = path.affine()
        self.register_buffer("matrix", matrix.detach().clone())
        self.register_buffer("vector", vector.detach().clone())

    def offsets(self, embeddings: Tensor) -> Tensor:
        return F.linear(embeddings, self.matrix, self.vector)

    def forward(self, embeddings: Tensor, boxes: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            embeddings: (n, D) of boxes (n, 4).
            size: (2,) height and width of the images.

        Returns:
            (n, 4) and (n,).
        """
        logits, deltas = self.head(self.offsets(embeddings))
        return decode(deltas, boxes, size.float().unbind()), logits


class QueryStage(nn.Module):
    """The same of a model that was trained query-centrically, for queries."""

    def __init__(self, detector: BoxDetector):
        super().__init__()
        self.head = Head(detector)

    def forward(
        self, embeddings: Tensor, boxes: Tensor, size: Tensor, queries: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As :class:`Stage`; ``queries`` (n, D) are those that boxes were found for."""
        logits, deltas = self.head(SwapPath.query_centric(queries, embeddings))
        return decode(deltas, boxes, size.float().unbind()), logits
