"""Anchors -> anchor embeddings x_a -> swap path -> scored, refined proposals (the first stage).

Shapes: ``N`` images, ``A`` anchors of an image (all levels), ``D`` embedding size, ``K`` anchors
sampled per image or pair, ``M`` sampled anchors of the batch, ``Q`` queries, ``P`` pairs.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import nms

from . import training_statistics as statistics
from . import whole_batch
from .anchor_levels import norms_and_rows, rows_of_levels
from .backbone import FEATURES, STRIDES
from .box_detector import BoxDetector
from .fixed_norm import NormLogits, offset_norm
from .losses import BOX_TRANSFORM, anchor_loss, box_loss, clip_to_images, nms_per_query
from .matching import (
    ANCHOR_MATCHER,
    PredictedSamples,
    Samples,
    gather_samples,
    match_boxes,
)
from .pair_sampler import (
    MATCH_MODES,
    Pairs,
    Queries,
    count_kinds,
    label_pairs,
    sample_pairs,
    select_anchors,
)
from .precision import full_precision
from .sampling import sample_labels
from .swap_path import SwapPath, needs_bridges, query_distances
from .targets import Targets
from .winograd import Conv3x3, convolve

# Three scales 2^(0, 1/3, 2/3) per level, truncated, times three height / width ratios.
ANCHOR_SIZES = tuple(
    tuple(int(base * 2 ** (i / 3)) for i in range(3)) for base in (32, 64, 128, 256, 512)
)
ASPECT_RATIOS = (0.5, 1.0, 2.0)
ANCHORS_PER_CELL = len(ASPECT_RATIOS) * 3


class AnchorEmbedder(nn.Module):
    """A 3 x 3 convolution, shared by all levels, gives each of a cell's 9 anchors its x_a."""

    # At inference, what the last folded weights were made of, and these.
    _kept: tuple | None = None

    def __init__(self, in_channels: int, dim: int, bias: float):
        """
        Args:
            in_channels: C.
            dim: D.
            bias: every channel's bias at the start.
        """
        super().__init__()
        self.dim = dim
        self.conv = Conv3x3(in_channels, ANCHORS_PER_CELL * dim, 3, padding=1)
        nn.init.normal_(self.conv.weight, std=0.01)
        nn.init.constant_(self._bias, bias)

    @property
    def _bias(self) -> Tensor:
        assert self.conv.bias is not None
        return self.conv.bias

    def forward(
        self,
        features: list[Tensor],
        affine: "tuple[Tensor, Tensor] | SwapPath | None" = None,
    ) -> Tensor:
        """
        Embed the anchors of every cell.

        Args:
            features: levels (N, C, H_l, W_l).
            affine: M (D, D) and b (D,), or the swap path that has them, to get ``M x_a + b`` of
                all anchors for the price of x_a. Rounding differs from what two passes give.

        Returns:
            (N, A, D): level by level, row by row, cell by cell.
        """
        return torch.cat(self.by_level(features, affine), dim=1)

    def by_level(
        self, features: list[Tensor], affine: "tuple[Tensor, Tensor] | SwapPath | None" = None
    ) -> list[Tensor]:
        """What :meth:`forward` joins: (N, A_l, D) of each level."""
        weight, bias = self._weights(affine, features[0].device.type)
        return [
            x.permute(0, 2, 3, 1).reshape(len(x), -1, self.dim)
            for x in convolve(features, weight, bias)
        ]

    def train(self, mode: bool = True):
        self._kept = None
        return super().train(mode)

    def _weights(
        self, affine: "tuple[Tensor, Tensor] | SwapPath | None", kind: str
    ) -> tuple[Tensor, Tensor]:
        """Weight and bias of all levels' convolution; folded ones are kept between images."""
        if affine is None:
            return self.conv.weight, self._bias
        # Rounded once, not for every level: autocast remembers parameters only.
        half = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        if not isinstance(affine, SwapPath):
            return self._rounded(affine, half)
        sources = (self.conv.weight, self._bias, affine.bridge.weight, affine.bridge.bias)
        if self.training or torch.is_grad_enabled() or any(x.is_inference() for x in sources):
            return self._rounded(affine.affine(), half)
        # Whatever changes parameters, in place or by others, changes one of these.
        key = (half, *((x.data_ptr(), x._version, x.device) for x in sources))
        if self._kept is None or self._kept[0] != key:
            self._kept = key, self._rounded(affine.affine(), half)
        return self._kept[1]

    def _rounded(
        self, affine: tuple[Tensor, Tensor], half: torch.dtype | None
    ) -> tuple[Tensor, Tensor]:
        weight, bias = self.folded(affine)
        return (weight, bias) if half is None else (weight.to(half), bias.to(half))

    def folded(self, affine: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution that computes ``M x_a + b``, in float32."""
        matrix, vector = affine
        with full_precision(matrix):
            # Channels are the 9 anchors' embeddings one after another.
            weight = matrix @ self.conv.weight.view(ANCHORS_PER_CELL, self.dim, -1)
            bias = self._bias.view(ANCHORS_PER_CELL, self.dim) @ matrix.T + vector
        return weight.view_as(self.conv.weight), bias.flatten()


def grid_anchors(padded_size: tuple[int, int], features: list[Tensor]) -> Tensor:
    """
    Anchors of all levels, in the order of :class:`AnchorEmbedder`.

    Corners are integers. Strides are ``floor(padded size / map size)`` per axis, so those of p6
    and p7 can differ from 64 and 128. Anchors are neither clipped nor dropped, and padding has
    them too.

    Args:
        padded_size: height and width of the batch tensor.
        features: the maps, for their sizes and device.

    Returns:
        (A, 4) float32 xyxy pixels. The same tensor for the same sizes: don't change it.
    """
    sizes = tuple(tuple(map(int, f.shape[-2:])) for f in features)
    return _anchors(tuple(map(int, padded_size)), sizes, features[0].device)


def anchors_of_size(padded_size: tuple[int, int], device: torch.device) -> Tensor:
    """:func:`grid_anchors` of a size that p5's stride divides, before there are feature maps."""
    sizes, (height, width) = [], (side // STRIDES[0] for side in padded_size)
    for _ in FEATURES:
        sizes.append((height, width))
        height, width = -(-height // 2), -(-width // 2)
    return _anchors(tuple(map(int, padded_size)), tuple(sizes), device)


# Sizes of images repeat. Made on the host once, where their steps and shapes are.
@lru_cache(maxsize=16)
@torch.inference_mode(False)
@torch.no_grad()
def _anchors(
    padded_size: tuple[int, int], sizes: tuple[tuple[int, int], ...], device: torch.device
) -> Tensor:
    generator = AnchorGenerator(ANCHOR_SIZES, (ASPECT_RATIOS,) * len(ANCHOR_SIZES))
    strides = [[torch.tensor(p // s) for p, s in zip(padded_size, size)] for size in sizes]
    return torch.cat(generator.grid_anchors([list(s) for s in sizes], strides)).to(device)


def match_anchors(anchors: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """Labels and matched ground truth (N, A) of anchors (A, 4), see :func:`.match_boxes`."""
    found = [
        match_boxes(anchors, boxes, ANCHOR_MATCHER, ignore)
        for boxes, ignore in zip(targets.of_images(), targets.ignored(), strict=True)
    ]
    labels, matched = (torch.stack(column) for column in zip(*found))
    return labels, matched


@dataclass(frozen=True)
class AnchorSampling:
    """
    Which anchors train.

    Pairs are of images of one process, and of one part of its batch (gradient accumulation), each
    of which takes its share of their number. See :mod:`.pair_sampler`.

    Attributes:
        anchors_per_image: K of the object-centric pathway.
        anchors_per_pair: K of the query-centric pathway.
        pairs_per_batch: (query, image) pairs of a batch.
        match_mode: one of ``MATCH_MODES``, which pairs.
        match_conservative: leave out anchors of other people, which no published run does.

    Raises:
        ValueError: unknown ``match_mode``, or a number below 1.
    """

    anchors_per_image: int = 128
    anchors_per_pair: int = 64
    pairs_per_batch: int = 32
    match_mode: str = "algo1"
    match_conservative: bool = False

    def __post_init__(self):
        if self.match_mode not in MATCH_MODES:
            raise ValueError(f"match_mode is {self.match_mode!r}, expected one of {MATCH_MODES}.")
        check_counts(self, "anchors_per_image", "anchors_per_pair", "pairs_per_batch")

    @property
    def by_norm(self) -> bool:
        """Hard anchors belong to ``algo1``, the only mode with negative pairs."""
        return self.match_mode == "algo1"


@dataclass(frozen=True)
class Selection:
    """
    Which anchors become proposals at inference. The numbers are the authors' constants.

    Attributes:
        pre_topk: anchors kept by norm, of an image.
        query_topk: the same of a query and image, query-centric.
        score_thresh: floor of their scores, exclusive.
        topk_candidates, nms_thresh, detections_per_image: as in Faster R-CNN.

    Raises:
        ValueError: a number below 1.
    """

    pre_topk: int = 1000
    query_topk: int = 100
    score_thresh: float = 0.5
    topk_candidates: int = 300
    nms_thresh: float = 0.5
    detections_per_image: int = 300

    def __post_init__(self):
        check_counts(self, "pre_topk", "query_topk", "topk_candidates", "detections_per_image")


def check_counts(options: object, *names: str) -> None:
    """Refuse numbers below 1."""
    for name in names:
        if getattr(options, name) < 1:
            raise ValueError(f"{name} must be 1 or more, found {getattr(options, name)}.")


@PROPOSAL_GENERATOR_REGISTRY.register()
class SwapPathProposalGenerator(nn.Module):
    """The first stage: every anchor is scored by the norm of its offset embedding."""

    @configurable
    def __init__(
        self,
        in_channels: int,
        dim: int = 128,
        *,
        anchor_bias: float = -4.59511985013459,
        anchor_logits: str = "fixed_norm",
        cls_logits: str = "fixed_norm",
        positive_norm: bool = False,
        bridge: bool = True,
        box_loss_weight: float = 1.0,
        sampling: AnchorSampling | None = None,
        selection: Selection | None = None,
    ):
        """
        Args:
            in_channels: C of the pyramid.
            dim: D.
            anchor_bias: where anchor embeddings start, on every channel.
            anchor_logits, cls_logits: logits of the anchor loss and of the scores.
            positive_norm: large norms mean person.
            bridge: False where only queries make offsets.
            box_loss_weight: factor on ``loss_box_0``.
            sampling: which anchors and pairs train; default: the paper's.
            selection: which anchors become proposals at inference; default: the authors'.
        """
        super().__init__()
        self.sampling = sampling or AnchorSampling()
        self.selection = selection or Selection()
        self.positive_norm = positive_norm
        self.box_loss_weight = box_loss_weight

        self.anchor_embedder = AnchorEmbedder(in_channels, dim, anchor_bias)
        self.anchor_logits = NormLogits(dim, anchor_logits, positive_norm)
        self.swap_path = SwapPath(dim, bridge)
        self.box_detector = BoxDetector(dim, cls_logits, positive_norm)

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        options = cfg.MODEL.SPNET
        return {
            "in_channels": input_shape[FEATURES[0]].channels,
            "dim": options.EMBED_DIM,
            "anchor_bias": options.SMALL_DATA.ANCHOR_BIAS,
            "anchor_logits": options.ANCHOR_LOGITS,
            "cls_logits": options.CLS_LOGITS,
            "positive_norm": options.POSITIVE_NORM,
            "bridge": needs_bridges(cfg),
            "box_loss_weight": options.SMALL_DATA.BOX_LOSS_WEIGHT,
            "sampling": AnchorSampling(
                anchors_per_image=options.ANCHORS_PER_IMAGE,
                anchors_per_pair=options.QC.ANCHORS_PER_PAIR,
                pairs_per_batch=options.QC.PAIRS_PER_BATCH,
                match_mode=options.QC.MATCH_MODE,
            ),
            "selection": Selection(
                score_thresh=cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
                nms_thresh=cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
                detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
            ),
        }

    @property
    def anchors_per_image(self) -> int:
        """K of the object-centric pathway."""
        return self.sampling.anchors_per_image

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        targets: Targets | None = None,
        queries: list[Tensor] | Tensor | None = None,
        pairs: Pairs | None = None,
    ) -> tuple[PredictedSamples | list[Instances], dict[str, whole_batch.Share]]:
        """
        Args:
            images: the padded batch.
            features: pyramid levels.
            targets: ground truth, and regions whose background trains nothing (training).
            queries: chooses the query-centric pathway. In training, localisation embeddings (Q, D)
                of the batch's; at inference, those (Q_i, D) to look for in each image.
            pairs: in training, what :meth:`sample_pairs` chose of them.

        Returns:
            In training, the sampled anchors with their predictions, and ``loss_anchor`` and
            ``loss_box_0``, not divided yet (:func:`.whole_batch.means`). At inference no losses,
            and per image ``Instances`` with ``proposal_boxes`` and ``scores``, best first; with
            queries also ``query_index``, ascending, and best first within each query.
        """
        sizes = images.image_sizes
        if queries is None:
            # Nobody needs x_a: the bridge goes into the convolution.
            levels = [features[name] for name in FEATURES]
            anchors = grid_anchors(images.tensor.shape[-2:], levels)
            offsets = self.anchor_embedder.by_level(levels, self.swap_path)
            if self.training:
                assert targets is not None
                return self._train(anchors, offsets, targets)
            return self._propose_all(anchors, offsets, sizes), {}
        anchors, x_a = self.embed_anchors(images, features)
        if self.training:
            assert targets is not None and pairs is not None and isinstance(queries, Tensor)
            return self._train_pairs(anchors, x_a, targets, queries, pairs)
        return self.search(anchors, x_a, sizes, list(queries)), {}

    def embed_anchors(
        self, images: ImageList, features: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Anchors (A, 4) and their embeddings x_a (N, A, D)."""
        levels = [features[name] for name in FEATURES]
        return grid_anchors(images.tensor.shape[-2:], levels), self.anchor_embedder(levels)

    def search(
        self,
        anchors: Tensor,
        x_a: Tensor,
        image_sizes: list[tuple[int, int]],
        queries: list[Tensor],
    ) -> list[Instances]:
        """
        Proposals of every query; memory grows with (queries x A) of an image.

        Args:
            anchors: (A, 4) and x_a: (N, A, D), of :meth:`embed_anchors`.
            image_sizes: unpadded heights and widths.
            queries: per image localisation embeddings (Q_i, D).

        Returns:
            As :meth:`forward` with queries.
        """
        return [self._search(anchors, *x) for x in zip(x_a, image_sizes, queries, strict=True)]

    def sample_pairs(self, queries: Queries, num_images: int) -> Pairs:
        """Which of the batch's queries are searched in which images: on the host, see there."""
        limit = whole_batch.share_of(self.sampling.pairs_per_batch)
        pairs = sample_pairs(queries, num_images, limit, self.sampling.match_mode)
        if statistics.due():
            kinds = count_kinds(pairs, queries)
            statistics.record(**{f"num_pairs_{kind}": n for kind, n in kinds.items()})
        return pairs

    def _train(
        self, anchors: Tensor, offsets: list[Tensor], targets: Targets
    ) -> tuple[PredictedSamples, dict[str, whole_batch.Share]]:
        """Label all anchors, take the anchor loss over all, and sample K per image."""
        labels, matched = match_anchors(anchors, targets)
        self._record(labels, len(targets))
        image, chosen = sample_labels(labels, self.anchors_per_image)
        norms, sampled = norms_and_rows(offsets, image, chosen)
        logits = self.anchor_logits(norms)
        rows = targets.rows[image, matched[image, chosen]]
        samples = gather_samples(
            anchors[chosen], image, labels[image, chosen], rows, targets, self.anchors_per_image
        )
        predicted = samples.predicted(*self.box_detector(sampled))
        return predicted, self._losses(logits, labels, predicted)

    def _train_pairs(
        self, anchors: Tensor, x_a: Tensor, targets: Targets, queries: Tensor, pairs: Pairs
    ) -> tuple[PredictedSamples, dict[str, whole_batch.Share]]:
        """Take the anchor loss over all anchors of the pairs, and sample K of each."""
        queried = queries[pairs.query]
        parts = zip(queried.split(pairs.counts), x_a, strict=True)
        norms = torch.cat([query_distances(q, x) for q, x in parts])
        people = [Instances((0, 0), gt_boxes=Boxes(b)) for b in targets.of_images()]
        labels = label_pairs(
            pairs, anchors, people, self.sampling.match_conservative, list(targets.ignored())
        )
        self._record(labels, len(pairs))
        # No conservative or ignoring rule changes which anchors are taken, only what they count.
        chosen = select_anchors(
            pairs,
            norms,
            anchors,
            self.sampling.anchors_per_pair,
            self.positive_norm,
            self.sampling.by_norm,
        )
        k = chosen.shape[1]
        samples = Samples(
            boxes=anchors[chosen].flatten(0, 1),
            image_index=pairs.image.repeat_interleave(k),
            labels=labels.gather(1, chosen).flatten(),
            target_boxes=pairs.boxes.repeat_interleave(k, dim=0),
            target_ids=pairs.target_ids.repeat_interleave(k),
            pair=torch.arange(len(pairs), device=chosen.device).repeat_interleave(k),
            query=queried,
        )
        offsets = self.swap_path.query_centric(
            queried[:, None], x_a[pairs.image[:, None], chosen]
        ).flatten(0, 1)
        predicted = samples.predicted(*self.box_detector(offsets))
        return predicted, self._losses(self.anchor_logits(norms), labels, predicted)

    def _record(self, labels: Tensor, number: int) -> None:
        """Mean numbers of anchors that count, of an image or a pair."""
        if statistics.due():
            for name, label in (("pos", 1), ("neg", 0)):
                mean = (labels == label).sum() / max(1, number)
                statistics.record(**{f"num_{name}_anchors": mean})

    def _losses(
        self, logits: Tensor, labels: Tensor, samples: PredictedSamples
    ) -> dict[str, whole_batch.Share]:
        """Of all anchors' logits and labels, and of the sampled anchors' predictions."""
        box = box_loss(samples.deltas, samples.boxes, samples.target_boxes, samples.labels)
        return {
            "loss_anchor": anchor_loss(logits, labels),
            "loss_box_0": box * self.box_loss_weight,
        }

    def _propose_all(
        self, anchors: Tensor, offsets: list[Tensor], sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """Proposals of every image, from offsets (N, A_l, D) of the levels."""
        return [
            self._propose(anchors, [level[i] for level in offsets], size)
            for i, size in enumerate(sizes)
        ]

    def _propose(self, anchors: Tensor, offsets: list[Tensor], size: tuple[int, int]) -> Instances:
        """One image's anchors (A, 4) and offsets (A_l, D) of every level -> its proposals."""
        norms = torch.cat([offset_norm(level) for level in offsets])
        count = min(self.selection.pre_topk, len(norms))
        nearest = norms.topk(count, largest=self.positive_norm).indices
        logits, deltas = self.box_detector(rows_of_levels(offsets, nearest))
        scores = logits.sigmoid()

        passed = (scores > self.selection.score_thresh).nonzero()[:, 0]
        scores, best = scores[passed].topk(min(self.selection.topk_candidates, len(passed)))
        passed = passed[best]
        boxes = BOX_TRANSFORM.apply_deltas(deltas[passed], anchors[nearest[passed]])
        boxes = clip_to_images(boxes, size)
        keep = nms(boxes, scores, self.selection.nms_thresh)[: self.selection.detections_per_image]
        return Instances(size, proposal_boxes=Boxes(boxes[keep]), scores=scores[keep])

    def _search(
        self, anchors: Tensor, x_a: Tensor, size: tuple[int, int], queries: Tensor
    ) -> Instances:
        """One image's anchors (A, 4), (A, D) and queries (Q, D) -> proposals of every query."""
        count = min(self.selection.query_topk, len(anchors))
        norms = query_distances(queries, x_a)
        nearest = norms.topk(count, largest=self.positive_norm).indices
        offsets = self.swap_path.query_centric(queries[:, None], x_a[nearest])
        logits, deltas = self.box_detector(offsets)
        scores = logits.sigmoid()
        query, place = (scores > self.selection.score_thresh).nonzero(as_tuple=True)
        boxes = BOX_TRANSFORM.apply_deltas(deltas[query, place], anchors[nearest[query, place]])
        boxes = clip_to_images(boxes, size)
        keep = (
            nms_per_query(boxes, scores[query, place], query, self.selection.nms_thresh)
            .sort()
            .values
        )
        return Instances(
            size,
            proposal_boxes=Boxes(boxes[keep]),
            scores=scores[query, place][keep],
            query_index=query[keep],
        )
