"""The rounds after the anchors: the cascade loop, and re-id embeddings of the final boxes.

Shapes: ``n`` boxes, ``M`` sampled boxes of the batch, ``D`` / ``D_r`` localisation / re-id size,
``T`` cascade rounds.
"""

import torch
from detectron2.config import configurable
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.structures import Boxes, Instances
from detectron2.structures.boxes import matched_pairwise_iou
from torch import Tensor, nn
from torchvision.ops import nms

from .backbone import FEATURES, TimmFPN
from .box_detector import BoxDetector
from .box_embedder import LocalisationEmbedder, ReidEmbedder, embed, pool_rois
from .losses import BOX_TRANSFORM, box_loss, class_loss, clip_boxes
from .matching import CASCADE_MATCHER, Samples, gather_samples, match_boxes
from .memory import OIMLoss
from .sampling import sample_labels
from .swap_path import SwapPath


def build_reid_loss(cfg) -> nn.Module:
    """The re-id memory of ``MODEL.SPNET.REID``."""
    reid = cfg.MODEL.SPNET.REID
    if reid.LOSS != "oim":
        raise ValueError(f"MODEL.SPNET.REID.LOSS is {reid.LOSS!r}, expected 'oim'.")
    return OIMLoss(
        cfg.MODEL.SPNET.REID_DIM, reid.NUM_IDENTITIES, reid.QUEUE_SIZE, reid.SCALE, reid.MOMENTUM
    )


@ROI_HEADS_REGISTRY.register()
class SPNetROIHeads(nn.Module):
    """
    Box embedders, ``T`` refinement rounds and the re-id loss.

    With shared heads the re-id embedder gives the localisation embeddings too; separate heads
    have a localisation embedder per round (one at least, which embeds queries).
    """

    @configurable
    def __init__(
        self,
        backbone: TimmFPN,
        reid_loss: nn.Module,
        dim: int = 128,
        reid_dim: int = 128,
        *,
        id_field: str = "gt_identities",
        num_cascades: int = 0,
        separate_heads: bool = False,
        cls_logits: str = "fixed_norm",
        positive_norm: bool = False,
        bridge: str = "combiner",
        boxes_per_image: int = 128,
        reid_iou_thresh: float = 0.7,
        reid_loss_weight: float = 1.0,
        nms_thresh: float = 0.5,
    ):
        """
        Args:
            backbone: gives the embedders' stage copies.
            reid_loss: takes (n, D_r) embeddings and (n,) identities.
            dim, reid_dim: D and D_r.
            id_field: ground-truth field with the identities that ``reid_loss`` takes.
            num_cascades: T.
            separate_heads: own localisation embedders.
            cls_logits, positive_norm, bridge: as in the proposal generator.
            boxes_per_image: K, boxes sampled per image and round.
            reid_iou_thresh: refined boxes this close to their target train re-id.
            reid_loss_weight: factor on ``loss_reid``.
            nms_thresh: IoU of duplicates, at inference.

        Raises:
            ValueError: shared heads with ``dim != reid_dim``, or a negative T.
        """
        super().__init__()
        if not separate_heads and dim != reid_dim:
            raise ValueError(
                "Shared heads use one embedding for re-id and localisation: EMBED_DIM is "
                f"{dim} but REID_DIM is {reid_dim}. Make them equal, or set SEPARATE_HEADS."
            )
        if num_cascades < 0:
            raise ValueError(f"NUM_CASCADES can't be negative, got {num_cascades}.")
        self.id_field = id_field
        self.num_cascades = num_cascades
        self.boxes_per_image = boxes_per_image
        self.reid_iou_thresh = reid_iou_thresh
        self.reid_loss_weight = reid_loss_weight
        self.nms_thresh = nms_thresh

        self.reid_embedder = ReidEmbedder(backbone, reid_dim)
        count = max(1, num_cascades) if separate_heads else 0
        self.loc_embedders = nn.ModuleList(
            LocalisationEmbedder(backbone, dim) for _ in range(count)
        )
        self.swap_paths = nn.ModuleList(SwapPath(dim, bridge) for _ in range(num_cascades))
        self.box_detectors = nn.ModuleList(
            BoxDetector(dim, cls_logits, positive_norm) for _ in range(num_cascades)
        )
        self.reid_loss = reid_loss

    @classmethod
    def from_config(cls, cfg, backbone: TimmFPN):
        options = cfg.MODEL.SPNET
        return {
            "backbone": backbone,
            "reid_loss": build_reid_loss(cfg),
            "dim": options.EMBED_DIM,
            "reid_dim": options.REID_DIM,
            "id_field": "gt_identities",
            "num_cascades": options.NUM_CASCADES,
            "separate_heads": options.SEPARATE_HEADS,
            "cls_logits": options.CLS_LOGITS,
            "positive_norm": options.POSITIVE_NORM,
            "bridge": options.BRIDGE,
            "boxes_per_image": options.ANCHORS_PER_IMAGE,
            "reid_iou_thresh": options.REID.IOU_THRESH,
            "reid_loss_weight": options.REID.LOSS_WEIGHT,
            "nms_thresh": options.TEST.NMS_THRESH,
        }

    def loc_embedder(self, t: int) -> nn.Module:
        """What embeds the boxes that round ``t`` (1 .. T) refines."""
        return self.loc_embedders[t - 1] if self.loc_embedders else self.reid_embedder

    def embed_boxes(self, features: dict[str, Tensor], boxes: list[Tensor]) -> dict[str, Tensor]:
        """
        Embed given boxes (ground truth, queries).

        Args:
            features: pyramid levels.
            boxes: N tensors (n_i, 4), xyxy pixels of the network's input.

        Returns:
            ``reid`` (sum n_i, D_r) and ``loc`` (sum n_i, D); the same tensor with shared heads.
        """
        rois = pool_rois(features[FEATURES[0]], boxes)
        reid = embed(self.reid_embedder, rois)
        loc = embed(self.loc_embedder(1), rois) if self.loc_embedders else reid
        return {"reid": reid, "loc": loc}

    def losses(
        self,
        features: dict[str, Tensor],
        image_sizes: list[tuple[int, int]],
        samples: Samples,
        targets: list[Instances],
    ) -> dict[str, Tensor]:
        """
        Train the rounds and re-id.

        Args:
            features: pyramid levels.
            image_sizes: unpadded heights and widths.
            samples: the first round's, with predictions.
            targets: ground truth.

        Returns:
            ``loss_box_t`` and ``loss_cls_t`` for t = 1 .. T, and ``loss_reid``.
        """
        p3 = features[FEATURES[0]]
        gt_boxes = [t.gt_boxes.tensor for t in targets]
        # Ground truth and refined boxes are separate batches to the embedder's batch norms, the
        # ground truth first.
        gt_reid = self.reid_embedder(pool_rois(p3, gt_boxes))
        sizes = samples.boxes.new_tensor(image_sizes)
        losses = {}
        for t in range(1, self.num_cascades + 1):
            samples = self._resample(samples, sizes, targets)
            rois = pool_rois(p3, _split(samples.boxes, samples.image_index, len(targets)))
            offsets = self.swap_paths[t - 1].object_centric(self.loc_embedder(t)(rois))
            samples.logits, samples.deltas = self.box_detectors[t - 1](offsets)
            losses[f"loss_cls_{t}"] = class_loss(samples.logits, samples.labels)
            losses[f"loss_box_{t}"] = box_loss(
                samples.deltas, samples.boxes, samples.target_boxes, samples.labels
            )

        boxes = _refine(samples, sizes)
        # Any box close to its own target counts, background that grew onto it included.
        ious = matched_pairwise_iou(Boxes(boxes), Boxes(samples.target_boxes))
        close = ious >= self.reid_iou_thresh
        kept = _split(boxes[close], samples.image_index[close], len(targets))
        embeddings = torch.cat([self.reid_embedder(pool_rois(p3, kept)), gt_reid])
        gt_ids = torch.cat([t.get(self.id_field) for t in targets])
        identities = torch.cat([samples.target_ids[close], gt_ids])
        losses["loss_reid"] = self.reid_loss(embeddings, identities) * self.reid_loss_weight
        return losses

    def _resample(self, samples: Samples, sizes: Tensor, targets: list[Instances]) -> Samples:
        """The last round's refined boxes and the ground truth, matched and sampled anew."""
        refined = _split(_refine(samples, sizes), samples.image_index, len(targets))
        boxes = [torch.cat([b, t.gt_boxes.tensor]) for b, t in zip(refined, targets)]
        labels, matched = zip(
            *(match_boxes(b, t.gt_boxes.tensor, CASCADE_MATCHER) for b, t in zip(boxes, targets))
        )
        chosen = [sample_labels(label, self.boxes_per_image) for label in labels]
        return gather_samples(boxes, labels, matched, chosen, targets, self.id_field)

    def detect(
        self,
        features: dict[str, Tensor],
        image_sizes: list[tuple[int, int]],
        proposals: list[Instances],
    ) -> list[Instances]:
        """
        Refine and embed proposals at inference.

        After each round overlapping boxes are suppressed, best logit first; the last round's
        score is the final one and is not thresholded again.

        Args:
            features: pyramid levels.
            image_sizes: unpadded heights and widths.
            proposals: per image ``proposal_boxes`` and ``scores``.

        Returns:
            Per image ``pred_boxes``, ``scores``, ``pred_classes`` and ``reid_embeddings``
            (n, D_r), in the network's input frame.
        """
        p3 = features[FEATURES[0]]
        boxes = [p.proposal_boxes.tensor for p in proposals]
        scores = [p.scores for p in proposals]
        for t in range(1, self.num_cascades + 1):
            counts = [len(b) for b in boxes]
            x_a = embed(self.loc_embedder(t), pool_rois(p3, boxes))
            offsets = self.swap_paths[t - 1].object_centric(x_a)
            logits, deltas = self.box_detectors[t - 1](offsets)
            for i, (z, d) in enumerate(zip(logits.split(counts), deltas.split(counts))):
                refined = BOX_TRANSFORM.apply_deltas(d, boxes[i])
                refined = clip_boxes(refined, refined.new_tensor(image_sizes[i]))
                keep = nms(refined, z, self.nms_thresh)
                boxes[i], scores[i] = refined[keep], z[keep].sigmoid()

        counts = [len(b) for b in boxes]
        embeddings = embed(self.reid_embedder, pool_rois(p3, boxes)).split(counts)
        return [
            Instances(
                size,
                pred_boxes=Boxes(b),
                scores=s,
                pred_classes=torch.zeros(len(b), dtype=torch.int64, device=b.device),
                reid_embeddings=e,
            )
            for size, b, s, e in zip(image_sizes, boxes, scores, embeddings, strict=True)
        ]


def _refine(samples: Samples, sizes: Tensor) -> Tensor:
    """Boxes (M, 4) after a round's deltas, clipped to their images, without gradient."""
    boxes = BOX_TRANSFORM.apply_deltas(samples.deltas.detach(), samples.boxes)
    return clip_boxes(boxes, sizes[samples.image_index])


def _split(boxes: Tensor, image_index: Tensor, count: int) -> list[Tensor]:
    """Boxes (M, 4), ordered by image, as one tensor per image."""
    return list(boxes.split(image_index.bincount(minlength=count).tolist()))
