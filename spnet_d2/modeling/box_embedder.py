"""Box embedders (paper section 3.2): RoI features -> re-id or localisation embedding.

RoI features are 14 x 14 and come from p3 alone, for boxes of every size (torchvision RoIAlign,
not ``aligned``, 2 samples per bin). A copy of the trunk's last stage turns them into two
vectors by global pooling: ``feat4`` of its input and ``feat5`` of its output. The pooling is a
maximum; of SOLIDER's Swin a mean, as in the authors' code.

Shapes: ``n`` boxes, ``C`` FPN channels, ``c5`` stride-32 channels, ``D_r`` re-id size, ``D``
localisation size.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from . import roi_align as row_sums
from .backbone import PyramidBackbone, freeze_batch_norms, in_fast_layout
from .fixed_norm import SafeBatchNorm1d
from .precision import widen
from .sync_batch_norm import synchronises

ROI_SIZE = 14
# p3's stride and RoIAlign's samples per bin and axis.
_SCALE = 1 / 8
_SAMPLES = 2
# RoIs at a time at inference, where batches don't change results: bounds the memory that images
# with many boxes take.
_EVAL_CHUNK = 512


ROI_POOLINGS = ("max", "avg")


@dataclass(frozen=True)
class RoiOptions:
    """
    How RoI features become vectors. The defaults are the paper's, the others are for small data.

    Attributes:
        pooling: one of ``ROI_POOLINGS``; "" as the authors pool with this trunk.
        stripes: horizontal stripes pooled apart, at most a map's rows.
        margin: share of the width left out on either side.
        freeze_stage: the copies of the trunk's last stage don't train.

    Raises:
        ValueError: a value that isn't allowed.
    """

    pooling: str = ""
    stripes: int = 1
    margin: float = 0.0
    freeze_stage: bool = False

    def __post_init__(self):
        if self.pooling not in ("", *ROI_POOLINGS):
            raise ValueError(
                f"RoI pooling is {self.pooling!r}, expected one of {ROI_POOLINGS}, or '' for the "
                "trunk's own."
            )
        if not 1 <= self.stripes <= ROI_SIZE:
            raise ValueError(
                f"RoI stripes are {self.stripes}, expected 1 (the paper's) to {ROI_SIZE}."
            )
        if not 0 <= self.margin <= 0.4:
            raise ValueError(f"RoI margin is {self.margin}, expected 0 (the paper's) to 0.4.")


_PAPERS = RoiOptions()


@dataclass(frozen=True)
class RoiMap:
    """
    p3 as RoIAlign reads it, made once for all calls of a step.

    Attributes:
        values: (N, C, H/8, W/8), float32 at least; contiguous, or as :mod:`.roi_align` reads it.
        dtype: of p3, and of the RoI features.
    """

    values: Tensor
    dtype: torch.dtype

    @classmethod
    def of(cls, p3: "Tensor | RoiMap") -> "RoiMap":
        """Of p3 in any memory layout and precision."""
        if isinstance(p3, RoiMap):
            return p3
        # Half precision has no place between the pixels of large images, bfloat16 not even all
        # pixels.
        values = widen(p3)
        return cls(values if row_sums.pays(values) else values.contiguous(), p3.dtype)


def with_image_index(boxes: list[Tensor]) -> Tensor:
    """N tensors (n_i, 4) -> RoIs (sum n_i, 5): the image's position, and the box."""
    return torch.cat([F.pad(b, (1, 0), value=i) for i, b in enumerate(boxes)])


def pool_rois(p3: Tensor | RoiMap, boxes: Tensor | list[Tensor]) -> Tensor:
    """
    RoIAlign of boxes on p3.

    Args:
        p3: (N, C, H/8, W/8).
        boxes: RoIs (n, 5), the image's position and xyxy in pixels of the network's input; or N
            tensors (n_i, 4).

    Returns:
        (n, C, 14, 14), in the order of the boxes.

        Boxes that are not finite give NaN.
    """
    source = RoiMap.of(p3)
    rois = boxes if isinstance(boxes, Tensor) else with_image_index(boxes)
    # To be added: 0, or NaN.
    broken = torch.where(rois.isfinite().all(dim=1), 0.0, torch.nan).to(source.dtype)
    # RoIAlign would read outside of its memory.
    rois = rois.to(source.values.dtype).nan_to_num(0.0, 0.0, 0.0)
    if row_sums.pays(source.values):
        pooled = row_sums.align(source.values, rois, ROI_SIZE, _SCALE)
    else:
        pooled = roi_align(source.values, rois, ROI_SIZE, _SCALE, _SAMPLES, aligned=False)
    pooled = pooled.to(source.dtype)
    with torch.no_grad():
        pooled += broken[:, None, None, None]
    return pooled


def jitter_boxes(boxes: Tensor, share: float) -> Tensor:
    """Boxes (n, 4) whose sides moved by uniformly up to ``share`` of the box's shorter side."""
    shorter = (boxes[:, 2:] - boxes[:, :2]).amin(dim=1, keepdim=True)
    return boxes + torch.empty_like(boxes).uniform_(-share, share) * shorter


class RoiPooling(nn.Module):
    """RoI features -> vector ``feat4``: global pooling, of each stripe apart."""

    def __init__(self, backbone: PyramidBackbone, options: RoiOptions = _PAPERS):
        super().__init__()
        self.mean = (options.pooling or backbone.roi_pooling) == "avg"
        self.stripes = options.stripes
        self.margin = options.margin
        # Lengths of what ``forward`` gives.
        self.sizes = (self.num_stripes(ROI_SIZE) * backbone.channels,)

    def num_stripes(self, rows: int) -> int:
        """Stripes of a map with this number of rows."""
        return min(self.stripes, rows)

    def pool(self, maps: Tensor, dim: tuple[int, int] = (2, 3)) -> Tensor:
        """Pool over the axes ``dim`` (rows, columns), stripes from top to bottom."""
        rows, columns = maps.shape[dim[0]], maps.shape[dim[1]]
        # A tracer gives tensors as sizes.
        cut = round(self.margin * int(columns))
        maps = maps.narrow(dim[1], cut, columns - 2 * cut)
        stripes = maps.tensor_split(self.num_stripes(rows), dim=dim[0])
        pooled = [s.mean(dim=dim) if self.mean else s.amax(dim=dim) for s in stripes]
        return torch.cat(pooled, dim=1)

    def forward(self, rois: Tensor) -> tuple[Tensor]:
        """(n, C, 14, 14) -> (n, S C), alone in a tuple."""
        if len(rois) == 0:
            return (rois.flatten(1)[:, : self.sizes[0]],)
        return (self.pool(rois),)


class StageCopy(nn.Module):
    """
    Own copy of the trunk's last stage, applied to RoI features.

    It is taken when the model is built, after the trunk got its pretrained weights.
    """

    def __init__(self, backbone: PyramidBackbone, options: RoiOptions = _PAPERS):
        super().__init__()
        self.in_channels, self.out_channels = backbone.trunk_channels[1:]
        self.stage = backbone.copy_last_stage()
        self.pooling = RoiPooling(backbone, options)
        # Lengths of ``feat4`` and ``feat5``, whose map is half as high.
        stripes5 = self.pooling.num_stripes(ROI_SIZE // 2)
        self.sizes = (*self.pooling.sizes, stripes5 * self.out_channels)
        self.channels_last = backbone.channels_last
        self.freeze_bn = backbone.freeze_bn
        self.stage.requires_grad_(not options.freeze_stage)
        self.train(self.training)

    def train(self, mode: bool = True):
        super().train(mode)
        if self.freeze_bn:
            freeze_batch_norms(self.stage)
        return self

    def forward(self, rois: Tensor) -> tuple[Tensor, Tensor]:
        """(n, C, 14, 14) RoI features -> ``feat4`` (n, S C) and ``feat5`` (n, S5 c5)."""
        (feat4,) = self.pooling(rois)
        if len(rois) == 0 and not synchronises(self.stage):
            # Not every trunk takes empty batches. The zeros keep the graph connected, so that
            # distributed training finds a gradient for every parameter.
            zero = sum((p.sum() for p in self.parameters()), rois.new_zeros(())) * 0.0
            return feat4, zero.expand(0, self.sizes[1])
        if self.channels_last:
            return feat4, self.pooling.pool(self.stage(rois.permute(0, 2, 3, 1)), dim=(1, 2))
        return feat4, self.pooling.pool(self.stage(in_fast_layout(rois, self.stage)))


class ReidEmbedder(nn.Module):
    """
    RoI features -> re-id embedding (not L2-normalised).

    ``feat4`` and ``feat5`` are each projected by Linear + non-affine batch norm, to ``D_r // 2``
    and the rest, and concatenated. Without a share for ``feat5``, there is no stage copy.
    """

    def __init__(
        self,
        backbone: PyramidBackbone,
        dim: int,
        feat4_share: float = 0.5,
        options: RoiOptions = _PAPERS,
    ):
        """
        Args:
            backbone: gives the stage copy.
            dim: D_r.
            feat4_share: how much of D_r is ``feat4``'s, rounded down.
            options: of the pooling.

        Raises:
            ValueError: ``feat4`` would get nothing, or more than there is.
        """
        super().__init__()
        if not 1 <= dim * feat4_share <= dim:
            raise ValueError(
                f"feat4_share is {feat4_share}, expected a share of dim ({dim}) between one "
                "dimension and all (1.0)."
            )
        from_feat4 = math.floor(dim * feat4_share)
        copy = StageCopy if from_feat4 < dim else RoiPooling
        self.copy = copy(backbone, options)
        self.dim = dim
        sizes = (from_feat4, dim - from_feat4)
        self.projectors = nn.ModuleList(_projector(i, o) for i, o in zip(self.copy.sizes, sizes))

    def forward(self, rois: Tensor) -> Tensor:
        """(n, C, 14, 14) -> (n, D_r) float32."""
        features = self.copy(rois)
        parts = []
        for projector, feature in zip(self.projectors, features, strict=True):
            linear, norm = projector.children()
            # The norms' results can be too large for half precision.
            parts.append(norm(widen(linear(feature))))
        return torch.cat(parts, dim=1)


def _projector(size: int, dim: int) -> nn.Sequential:
    linear = nn.Linear(size, dim)
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear, SafeBatchNorm1d(dim, affine=False))


class LocalisationEmbedder(nn.Module):
    """
    RoI features -> localisation embedding, for separate heads.

    A stage copy and a bias-free projection of ``feat5``: neither batch norm nor ``feat4``.
    """

    def __init__(self, backbone: PyramidBackbone, dim: int, options: RoiOptions = _PAPERS):
        """
        Args:
            backbone: gives the stage copy.
            dim: D.
            options: of the pooling.
        """
        super().__init__()
        self.copy = StageCopy(backbone, options)
        self.dim = dim
        self.projection = nn.Linear(self.copy.sizes[1], dim, bias=False)

    def forward(self, rois: Tensor) -> Tensor:
        """(n, C, 14, 14) -> (n, D) float32."""
        return self.projection(self.copy(rois)[1]).float()


def embed_boxes(embedder: nn.Module, p3: Tensor | RoiMap, boxes: Tensor | list[Tensor]) -> Tensor:
    """
    Pool and embed boxes: one batch in training (its batch norms see it), chunks at inference.

    Args:
        embedder: a :class:`ReidEmbedder` or :class:`LocalisationEmbedder`.
        p3, boxes: as in :func:`pool_rois`.

    Returns:
        (n, D or D_r), in the order of the boxes.
    """
    source = RoiMap.of(p3)
    rois = boxes if isinstance(boxes, Tensor) else with_image_index(boxes)
    if embedder.training or len(rois) <= _EVAL_CHUNK:
        return embedder(pool_rois(source, rois))
    return torch.cat([embedder(pool_rois(source, part)) for part in rois.split(_EVAL_CHUNK)])
