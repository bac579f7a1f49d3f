"""Box embedders (paper section 3.2): RoI features -> re-id or localisation embedding.

RoI features are 14 x 14 and come from p3 alone, for boxes of every size (torchvision RoIAlign,
not ``aligned``, 2 samples per bin). A copy of the trunk's last stage turns them into two
vectors by global pooling: ``feat4`` of its input and ``feat5`` of its output. The pooling is a
maximum; of SOLIDER's Swin a mean, as in the authors' code.

Shapes: ``n`` boxes, ``C`` FPN channels, ``c5`` stride-32 channels, ``D_r`` re-id size, ``D``
localisation size.
"""

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from .backbone import TimmFPN, freeze_batch_norms, in_fast_layout, last_stage
from .fixed_norm import SafeBatchNorm1d

ROI_SIZE = 14
# p3's stride and RoIAlign's samples per bin and axis.
_SCALE = 1 / 8
_SAMPLES = 2
# RoIs at a time at inference, where batches don't change results: bounds the memory that images
# with many boxes take.
_EVAL_CHUNK = 512


def pool_rois(p3: Tensor, boxes: list[Tensor]) -> Tensor:
    """
    RoIAlign of boxes on p3.

    Args:
        p3: (N, C, H/8, W/8).
        boxes: N tensors (n_i, 4), xyxy in pixels of the network's input.

    Returns:
        (sum n_i, C, 14, 14), image by image.

    Raises:
        FloatingPointError: a box is not finite; RoIAlign would read outside of its memory.
    """
    if not torch.cat(boxes).isfinite().all():
        raise FloatingPointError(
            "Boxes to embed are NaN or infinite: the predicted deltas diverged. Lower "
            "SOLVER.BASE_LR, or turn SOLVER.AMP.ENABLED off if it is on."
        )
    boxes = [b.to(p3.dtype) for b in boxes]
    return roi_align(p3, boxes, ROI_SIZE, _SCALE, _SAMPLES, aligned=False)


class StageCopy(nn.Module):
    """
    Own copy of the trunk's last stage, applied to RoI features.

    It is taken when the model is built, after the trunk got its pretrained weights.
    """

    def __init__(self, backbone: TimmFPN):
        super().__init__()
        c4, self.out_channels = backbone.trunk_channels[1:]
        if backbone.channels != c4:
            raise ValueError(
                f"MODEL.SPNET.BACKBONE.FPN_CHANNELS is {backbone.channels}, but RoI features "
                f"pass through the trunk's last stage, which takes {c4}. Set it to 0 or {c4}."
            )
        self.in_channels = c4
        self.stage = last_stage(backbone.trunk)
        # Lengths of ``feat4`` and ``feat5``.
        self.sizes = (backbone.roi_stripes * c4, backbone.roi_stripes * self.out_channels)
        self.channels_last = backbone.channels_last
        self.freeze_bn = backbone.freeze_bn
        self.reduce = {"max": torch.amax, "avg": torch.mean}[backbone.roi_pooling]
        self.stripes = backbone.roi_stripes
        self.stage.requires_grad_(not backbone.freeze_roi_stage)
        self.train(self.training)

    def train(self, mode: bool = True):
        super().train(mode)
        if self.freeze_bn:
            freeze_batch_norms(self.stage)
        return self

    def forward(self, rois: Tensor) -> tuple[Tensor, Tensor]:
        """(n, C, 14, 14) RoI features -> ``feat4`` (n, S C) and ``feat5`` (n, S c5)."""
        if len(rois) == 0:
            # Not every trunk takes empty batches. The zeros keep the graph connected, so that
            # distributed training finds a gradient for every parameter.
            zero = sum(p.sum() for p in self.parameters()) * 0.0
            return rois.flatten(1)[:, : self.sizes[0]], zero.expand(0, self.sizes[1])
        if self.channels_last:
            out = self.pool(self.stage(rois.permute(0, 2, 3, 1)), dim=(1, 2))
        else:
            out = self.pool(self.stage(in_fast_layout(rois, self.stage)), dim=(2, 3))
        return self.pool(rois, dim=(2, 3)), out

    def pool(self, maps: Tensor, dim: tuple[int, int]) -> Tensor:
        """Global pooling over the two axes ``dim``, of each stripe from top to bottom."""
        stripes = maps.tensor_split(self.stripes, dim=dim[0])
        return torch.cat([self.reduce(stripe, dim=dim) for stripe in stripes], dim=1)


class ReidEmbedder(nn.Module):
    """
    RoI features -> re-id embedding (not L2-normalised).

    ``feat4`` and ``feat5`` are each projected by Linear + non-affine batch norm, to ``D_r // 2``
    and the rest, and concatenated.
    """

    def __init__(self, backbone: TimmFPN, dim: int):
        """
        Args:
            backbone: gives the stage copy.
            dim: D_r.
        """
        super().__init__()
        self.copy = StageCopy(backbone)
        self.dim = dim
        sizes = (dim // 2, dim - dim // 2)
        inputs = self.copy.sizes
        self.projectors = nn.ModuleList(
            nn.Sequential(nn.Linear(i, o), SafeBatchNorm1d(o, affine=False))
            for i, o in zip(inputs, sizes, strict=True)
        )
        for projector in self.projectors:
            nn.init.normal_(projector[0].weight, std=0.01)
            nn.init.zeros_(projector[0].bias)

    def forward(self, rois: Tensor) -> Tensor:
        """(n, C, 14, 14) -> (n, D_r) float32."""
        features = self.copy(rois)
        parts = [p(f) for p, f in zip(self.projectors, features, strict=True)]
        return torch.cat(parts, dim=1).float()


class LocalisationEmbedder(nn.Module):
    """
    RoI features -> localisation embedding, for separate heads.

    A stage copy and a bias-free projection of ``feat5``: neither batch norm nor ``feat4``.
    """

    def __init__(self, backbone: TimmFPN, dim: int):
        """
        Args:
            backbone: gives the stage copy.
            dim: D.
        """
        super().__init__()
        self.copy = StageCopy(backbone)
        self.dim = dim
        self.projection = nn.Linear(self.copy.sizes[1], dim, bias=False)

    def forward(self, rois: Tensor) -> Tensor:
        """(n, C, 14, 14) -> (n, D) float32."""
        return self.projection(self.copy(rois)[1]).float()


def embed_boxes(embedder: nn.Module, p3: Tensor, boxes: list[Tensor]) -> Tensor:
    """
    Pool and embed boxes: one batch in training (its batch norms see it), chunks at inference.

    Args:
        embedder: a :class:`ReidEmbedder` or :class:`LocalisationEmbedder`.
        p3, boxes: as in :func:`pool_rois`.

    Returns:
        (sum n_i, D or D_r), image by image.
    """
    count = sum(map(len, boxes))
    if embedder.training or count <= _EVAL_CHUNK:
        return embedder(pool_rois(p3, boxes))
    chunks = [
        embedder(pool_rois(p3[i : i + 1], [part]))
        for i, box in enumerate(boxes)
        for part in box.split(_EVAL_CHUNK)
        if len(part)
    ]
    return torch.cat(chunks)
