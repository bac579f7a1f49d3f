"""The cascade stages after the anchors, one by one, and re-id embeddings of the final boxes.

Shapes: ``n`` boxes, ``M`` sampled boxes of the batch, ``D`` / ``D_r`` localisation / re-id size,
``T`` cascade stages.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from detectron2.config import configurable
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.structures import Boxes, Instances
from detectron2.structures.boxes import matched_pairwise_iou
from torch import Tensor, nn

from . import training_statistics as statistics
from .backbone import FEATURES, PyramidBackbone, trains_batch_norms
from .box_detector import BoxDetector
from .box_embedder import (
    LocalisationEmbedder,
    ReidEmbedder,
    RoiMap,
    RoiOptions,
    embed_boxes,
    jitter_boxes,
    with_image_index,
)
from .losses import BOX_TRANSFORM, box_loss, class_loss, clip_to_images, nms_per_query
from .matching import (
    FOREGROUND_IOU,
    PredictedSamples,
    Samples,
    gather_samples,
    join_rois,
    leave_out_ignored,
    match_refined,
)
from .pair_sampler import limit_per_pair
from .precision import no_gradients
from .reid_losses import ReidLoss, build_reid_loss
from .sampling import sample_labels
from .swap_path import SwapPath, needs_bridges
from .targets import Targets
from .whole_batch import Share

# Beside the levels, p3 as RoI pooling takes it: made once for all stages.
ROI_MAP = "roi_map"
# IoU from which a refined box trains re-id.
REID_IOU = 0.7
Features = dict[str, Tensor | RoiMap]


def roi_map(features: Features) -> RoiMap:
    """What boxes are pooled from."""
    return RoiMap.of(features.get(ROI_MAP, features[FEATURES[0]]))


@dataclass(frozen=True)
class CascadeOptions:
    """
    The stages after the anchors.

    Attributes:
        stages: T.
        cls_logits, positive_norm, bridge: as in the proposal generator.
        query_centric: offsets come from queries, in training and when searching.
        boxes_per_image: K, boxes sampled per image and stage (object-centric).
        box_loss_weight: factor on ``loss_box_t``.
        nms_thresh: IoU of duplicates, at inference.

    Raises:
        ValueError: a negative T.
    """

    stages: int = 0
    cls_logits: str = "fixed_norm"
    positive_norm: bool = False
    bridge: bool = True
    query_centric: bool = False
    boxes_per_image: int = 128
    box_loss_weight: float = 1.0
    nms_thresh: float = 0.5

    def __post_init__(self):
        if self.stages < 0:
            raise ValueError(f"stages can't be negative, found {self.stages}.")


@dataclass(frozen=True)
class ReidOptions:
    """
    Re-id embeddings, and the boxes that train them.

    Attributes:
        dim: D_r.
        feat4_share: how much of D_r is ``feat4``'s, see :class:`~.box_embedder.ReidEmbedder`.
        gt_only: only ground-truth boxes train re-id.
        per_pair: most boxes of a (query, image) pair that do.
        box_jitter: in training, sides of ground-truth boxes move by up to this share of the
            shorter side.
        loss_weight: factor on ``loss_reid``.

    Raises:
        ValueError: a jitter that isn't allowed.
    """

    dim: int = 128
    feat4_share: float = 0.5
    gt_only: bool = False
    per_pair: int = 16
    box_jitter: float = 0.0
    loss_weight: float = 1.0

    def __post_init__(self):
        if not 0 <= self.box_jitter < 0.5:
            raise ValueError(f"box_jitter is {self.box_jitter}, expected 0 to less than 0.5.")


@dataclass
class GroundTruthEmbeddings:
    """
    What the batch's ground-truth boxes are embedded as, before anchors and cascade.

    Query-centric training needs them as queries, and re-id as positives.

    Attributes:
        reid: (n, D_r).
        loc: (n, D); None where nobody needs it. The same tensor as ``reid`` with shared heads.
        teacher: (n, D_r) by the momentum encoder, if there is one.
    """

    reid: Tensor
    loc: Tensor | None = None
    teacher: Tensor | None = None

    def of_queries(self, rows: Tensor) -> "GroundTruthEmbeddings":
        """Those of some boxes (Q,)."""
        teacher = None if self.teacher is None else self.teacher[rows]
        loc = None if self.loc is None else self.loc[rows]
        return GroundTruthEmbeddings(self.reid[rows], loc, teacher)


@ROI_HEADS_REGISTRY.register()
class SPNetROIHeads(nn.Module):
    """
    Box embedders, ``T`` cascade stages and the re-id loss.

    With shared heads the re-id embedder gives the localisation embeddings too; separate heads
    have a localisation embedder per stage (one at least, which embeds queries).
    """

    @configurable
    def __init__(
        self,
        backbone: PyramidBackbone,
        reid_loss: ReidLoss,
        dim: int = 128,
        *,
        separate_heads: bool = False,
        cascade: CascadeOptions | None = None,
        reid: ReidOptions | None = None,
        roi_options: RoiOptions | None = None,
    ):
        """
        Args:
            backbone: gives the embedders' stage copies.
            reid_loss: takes the re-id embeddings.
            dim: D.
            separate_heads: own localisation embedders.
            cascade: the stages; default: none.
            reid: how re-id trains; default: as the paper does.
            roi_options: how RoI features become vectors; default: as the paper does.

        Raises:
            ValueError: shared heads with ``dim != reid.dim``.
        """
        super().__init__()
        cascade, reid = cascade or CascadeOptions(), reid or ReidOptions()
        if not separate_heads and dim != reid.dim:
            raise ValueError(
                f"Shared heads use one embedding for re-id and localisation: dim is {dim} but "
                f"reid.dim is {reid.dim}. Make them equal, or set separate_heads."
            )
        self.cascade = cascade
        self.reid = reid
        self.num_cascades = cascade.stages
        self.query_centric = cascade.query_centric
        self.reid_iou_thresh = REID_IOU

        roi = roi_options or RoiOptions()
        self.reid_embedder = ReidEmbedder(backbone, reid.dim, reid.feat4_share, roi)
        count = max(1, cascade.stages) if separate_heads else 0
        self.loc_embedders = nn.ModuleList(
            LocalisationEmbedder(backbone, dim, roi) for _ in range(count)
        )
        self.swap_paths = nn.ModuleList(
            SwapPath(dim, cascade.bridge) for _ in range(cascade.stages)
        )
        self.box_detectors = nn.ModuleList(
            BoxDetector(dim, cascade.cls_logits, cascade.positive_norm)
            for _ in range(cascade.stages)
        )
        self.reid_loss = reid_loss

    @classmethod
    def from_config(cls, cfg, backbone: PyramidBackbone):
        options, small = cfg.MODEL.SPNET, cfg.MODEL.SPNET.SMALL_DATA
        return {
            "backbone": backbone,
            "reid_loss": build_reid_loss(cfg),
            "dim": options.EMBED_DIM,
            "separate_heads": options.SEPARATE_HEADS,
            "cascade": CascadeOptions(
                stages=options.NUM_CASCADES,
                cls_logits=options.CLS_LOGITS,
                positive_norm=options.POSITIVE_NORM,
                bridge=needs_bridges(cfg),
                query_centric=options.PATHWAY == "QC",
                boxes_per_image=options.ANCHORS_PER_IMAGE,
                box_loss_weight=small.BOX_LOSS_WEIGHT,
                nms_thresh=cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
            ),
            "reid": ReidOptions(
                dim=options.REID_DIM,
                feat4_share=small.FEAT4_SHARE,
                gt_only=options.REID.GT_ONLY,
                per_pair=options.QC.ANCHORS_PER_PAIR // 4,
                box_jitter=small.BOX_JITTER,
                loss_weight=options.REID.LOSS_WEIGHT,
            ),
            "roi_options": RoiOptions(
                small.ROI_POOLING, small.ROI_STRIPES, small.ROI_MARGIN, small.FREEZE_ROI
            ),
        }

    @property
    def id_field(self) -> str:
        """Ground-truth field with the identities that the re-id loss takes."""
        return self.reid_loss.id_field

    def loc_embedder(self, t: int) -> nn.Module:
        """What embeds the boxes that stage ``t`` (1 .. T) refines."""
        return self.loc_embedders[t - 1] if self.loc_embedders else self.reid_embedder

    def embed_boxes(
        self, features: Features, boxes: Tensor | list[Tensor], with_loc: bool = True
    ) -> GroundTruthEmbeddings:
        """
        Embed given boxes (ground truth, queries).

        Args:
            features: pyramid levels, also with :data:`ROI_MAP`.
            boxes: RoIs (n, 5), or N tensors (n_i, 4), see :func:`~.box_embedder.pool_rois`.
            with_loc: False where localisation embeddings are not needed.

        Returns:
            Their embeddings. Separate heads give ``loc`` only if it is needed.
        """
        p3 = roi_map(features)
        given = boxes = boxes if isinstance(boxes, Tensor) else with_image_index(boxes)
        if self.training and self.reid.box_jitter:
            jittered = jitter_boxes(boxes[:, 1:], self.reid.box_jitter)
            given = torch.cat([boxes[:, :1], jittered], dim=1)
        reid = embed_boxes(self.reid_embedder, p3, given)
        if not self.loc_embedders:
            return GroundTruthEmbeddings(reid, reid)
        loc = self.loc_embedder(1)
        if with_loc:
            return GroundTruthEmbeddings(reid, embed_boxes(loc, p3, boxes))
        if trains_batch_norms(loc):
            # In the authors' code its norms see ground truth in the object-centric pathway, too.
            with no_gradients(p3.values):
                embed_boxes(loc, p3, boxes)
        return GroundTruthEmbeddings(reid)

    def losses(
        self,
        features: Features,
        samples: PredictedSamples,
        targets: Targets,
        gt: GroundTruthEmbeddings,
        teacher: Callable[[Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor | Share]:
        """
        Train the stages and re-id.

        Args:
            features: pyramid levels, also with :data:`ROI_MAP`.
            samples: the anchors, with predictions.
            targets: ground truth.
            gt: embeddings of its boxes. Ground truth and refined boxes are separate batches to an
                embedder's batch norms.
            teacher: the momentum encoder's embeddings of RoIs (n, 5).

        Returns:
            ``loss_box_t`` and ``loss_cls_t`` for t = 1 .. T, not divided yet
            (:func:`.whole_batch.means`), and ``loss_reid``.
        """
        p3 = roi_map(features)
        losses: dict[str, Tensor | Share] = {}
        for t in range(1, self.num_cascades + 1):
            refine = _refine_pairs if self.query_centric else self._resample
            sampled = refine(samples, targets)
            x_a = embed_boxes(self.loc_embedder(t), p3, sampled.rois)
            samples = sampled.predicted(*self._stage(t, x_a, sampled.query_rows))
            losses[f"loss_cls_{t}"] = class_loss(samples.logits, samples.labels)
            box = box_loss(samples.deltas, samples.boxes, samples.target_boxes, samples.labels)
            losses[f"loss_box_{t}"] = box * self.cascade.box_loss_weight

        losses["loss_reid"] = self._reid_loss(p3, samples, targets, gt, teacher)
        return losses

    def _reid_loss(
        self,
        p3: RoiMap,
        samples: PredictedSamples,
        targets: Targets,
        gt: GroundTruthEmbeddings,
        teacher: Callable[[Tensor], Tensor] | None,
    ) -> Tensor:
        """The re-id loss of refined boxes and, behind them, ground truth."""
        embeddings, ids, by_teacher = [gt.reid], [targets.ids], [gt.teacher]
        if not self.reid.gt_only:
            rois, box_ids = self._reid_rois(samples, targets.sizes)
            embeddings.insert(0, embed_boxes(self.reid_embedder, p3, rois))
            ids.insert(0, box_ids)
            by_teacher.insert(0, teacher(rois) if teacher else None)
            statistics.record(num_reid_boxes=len(rois))
        joined = [x for x in by_teacher if x is not None]
        more = {"teacher": torch.cat(joined) if joined else None, "num_gt": len(targets.ids)}
        taken = {name: more[name] for name in self.reid_loss.takes}
        loss = self.reid_loss(torch.cat(embeddings), torch.cat(ids), **taken)
        return loss * self.reid.loss_weight

    def _stage(self, t: int, x_a: Tensor, query: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits (n,) and deltas (n, 4) of stage ``t`` for boxes' embeddings (n, D)."""
        path = self.swap_paths[t - 1]
        assert isinstance(path, SwapPath)
        if self.query_centric and query is not None:
            return self.box_detectors[t - 1](path.query_centric(query, x_a))
        return self.box_detectors[t - 1](path.object_centric(x_a))

    def _reid_rois(self, samples: PredictedSamples, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """RoIs (n, 5) that train re-id, and their identities (n,)."""
        boxes = _refine(samples, sizes)
        # Any box close to its own target counts, background that grew onto it included.
        ious = matched_pairwise_iou(Boxes(boxes), Boxes(samples.target_boxes))
        close = ious >= self.reid_iou_thresh
        if samples.pair is not None:
            close = limit_per_pair(close, samples.pair, self.reid.per_pair)
        rows = close.nonzero()[:, 0]
        return join_rois(samples.image_index, boxes)[rows], samples.target_ids[rows]

    def _resample(self, samples: PredictedSamples, targets: Targets) -> Samples:
        """The last stage's refined boxes and the ground truth, matched and sampled anew."""
        boxes = torch.cat([_refine(samples, targets.sizes), targets.boxes])
        image = torch.cat([samples.image_index, targets.image_index])
        labels, rows = match_refined(boxes, image, targets)
        # Each image's boxes in a row of their own, ground truth behind the others.
        places = image.argsort(stable=True)
        image = image[places]
        column = torch.arange(len(image), device=image.device) - torch.searchsorted(image, image)
        shape = (len(targets), samples.per_image + targets.rows.shape[1])
        table = labels.new_full(shape, -1).index_put((image, column), labels[places])
        position = image.new_zeros(shape).index_put((image, column), places)
        image, column = sample_labels(table, self.cascade.boxes_per_image)
        chosen = position[image, column]
        return gather_samples(
            boxes[chosen],
            image,
            labels[chosen],
            rows[chosen],
            targets,
            self.cascade.boxes_per_image,
        )

    def detect(
        self,
        features: Features,
        image_sizes: list[tuple[int, int]],
        proposals: list[Instances],
        queries: list[Tensor] | None = None,
    ) -> list[Instances]:
        """
        Refine and embed proposals at inference.

        After each stage overlapping boxes are suppressed, best logit first; the last stage's
        score is the final one and is not thresholded again.

        Args:
            features: pyramid levels.
            image_sizes: unpadded heights and widths.
            proposals: per image ``proposal_boxes``, ``scores`` and, for queries, ``query_index``.
            queries: per image localisation embeddings (Q_i, D). The stages use them if the model
                was trained query-centrically, else their bridges, as the authors' code does.

        Returns:
            Per image ``pred_boxes``, ``scores``, ``pred_classes``, ``reid_embeddings`` (n, D_r)
            and ``query_index`` if given, in the network's input frame.
        """
        p3 = roi_map(features)
        boxes = [p.proposal_boxes.tensor for p in proposals]
        scores = [p.scores for p in proposals]
        index = [
            p.query_index if p.has("query_index") else torch.zeros_like(p.scores).long()
            for p in proposals
        ]
        for t in range(1, self.num_cascades + 1):
            counts = [len(b) for b in boxes]
            x_a = embed_boxes(self.loc_embedder(t), p3, boxes)
            query = torch.cat([q[i] for q, i in zip(queries, index)]) if queries else None
            logits, deltas = self._stage(t, x_a, query)
            for i, (z, d) in enumerate(zip(logits.split(counts), deltas.split(counts))):
                refined = BOX_TRANSFORM.apply_deltas(d, boxes[i])
                refined = clip_to_images(refined, image_sizes[i])
                keep = nms_per_query(refined, z, index[i], self.cascade.nms_thresh)
                keep = keep[index[i][keep].argsort(stable=True)]
                boxes[i], scores[i], index[i] = refined[keep], z[keep].sigmoid(), index[i][keep]

        counts = [len(b) for b in boxes]
        embeddings = embed_boxes(self.reid_embedder, p3, boxes).split(counts)
        results = []
        for i, (proposal, embedding) in enumerate(zip(proposals, embeddings, strict=True)):
            result = Instances(
                image_sizes[i],
                pred_boxes=Boxes(boxes[i]),
                scores=scores[i],
                pred_classes=torch.zeros_like(index[i]),
                reid_embeddings=embedding,
            )
            if proposal.has("query_index"):
                result.query_index = index[i]
            results.append(result)
        return results


def _refine_pairs(samples: PredictedSamples, targets: Targets) -> Samples:
    """
    The last stage's refined boxes of every pair and, behind them, the person's own box.

    They are labelled anew by their IoU with that box. It is empty in negative pairs: one more
    background box, as in the authors' code, which adds one per pair whatever its kind. Background
    inside of ignore regions trains nothing.
    """
    assert samples.pair is not None and samples.query is not None
    first = torch.searchsorted(
        samples.pair, torch.arange(len(samples.query), device=samples.pair.device)
    )
    pair = torch.cat([samples.pair, samples.pair[first]])
    order = pair.argsort(stable=True)
    rows = torch.cat([torch.arange(len(samples.pair), device=pair.device), first])[order]
    boxes = torch.cat([_refine(samples, targets.sizes), samples.target_boxes[first]])[order]
    target_boxes, image_index = samples.target_boxes[rows], samples.image_index[rows]
    ious = matched_pairwise_iou(Boxes(boxes), Boxes(target_boxes))
    labels = (ious >= FOREGROUND_IOU).to(torch.int8)
    return Samples(
        boxes=boxes,
        image_index=image_index,
        labels=leave_out_ignored(labels, boxes, image_index, targets),
        target_boxes=target_boxes,
        target_ids=samples.target_ids[rows],
        pair=pair[order],
        query=samples.query,
    )


def _refine(samples: PredictedSamples, sizes: Tensor) -> Tensor:
    """Boxes (M, 4) after a stage's deltas, clipped to their images, without gradient."""
    boxes = BOX_TRANSFORM.apply_deltas(samples.deltas.detach(), samples.boxes)
    return clip_to_images(boxes, sizes[samples.image_index])
