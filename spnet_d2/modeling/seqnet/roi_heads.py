"""Two stages over RoI features: boxes, then boxes again with a re-id embedding.

Shapes: ``N`` images, ``n`` boxes of all of them, ``D`` re-id size.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor, nn
from torchvision.ops import nms, roi_align

from ..precision import widen
from ..reid_losses.oim import UNKNOWN, OIMLoss
from .heads import (
    ClassBoxPredictor,
    NormAwareEmbedding,
    NormedBoxPredictor,
    ScoreBoxPredictor,
    StageHead,
)
from .rpn import STRIDE, box_loss

_POSITIVE_SHARE = 0.5
_ROI_SIZE, _SAMPLES = 14, 2
# Boxes of the first head, before they are embedded.
_FIRST_NMS = 0.4
_FIRST_SCORE = 0.5
_LEAST_SIDE = 1e-2
_FIRST_BOX_WEIGHT = 10.0
# RoIs at a time at inference.
_CHUNK = 256


@dataclass(frozen=True)
class Thresholds:
    """At inference: least score, overlap and number of an image's people."""

    score: float = 0.5
    nms: float = 0.5
    most: int = 300


@dataclass
class _Sampled:
    """Boxes that a head trains on: of all images, one after another."""

    boxes: list[Tensor]
    # Per box: somebody, row of the table or -1, true box.
    positive: Tensor
    identities: Tensor
    targets: Tensor


class SequentialHeads(nn.Module):
    """The first and the second stage of SeqNet or SeqNeXt."""

    def __init__(
        self,
        first_head: StageHead,
        second_head: StageHead,
        channels: tuple[int, int],
        dim: int,
        reid_loss: OIMLoss,
        scores_again: bool,
        thresholds: Thresholds | None = None,
        sampled: int = 128,
        freeze: bool = False,
    ):
        """
        Args:
            first_head, second_head: have copies of the trunk's last stage.
            channels: of the stride-16 and the stride-32 map.
            dim: D.
            reid_loss: on positive boxes of the second stage.
            scores_again: SeqNeXt: a detection's score is the second stage's; SeqNet: the first's.
            thresholds: at inference.
            sampled: boxes of an image that each stage trains on.
            freeze: the copies don't train.
        """
        super().__init__()
        self.sampled = sampled
        self.first_head = first_head
        self.first_predictor = ClassBoxPredictor(channels[1])
        self.second_head = second_head
        predictor = ScoreBoxPredictor if scores_again else NormedBoxPredictor
        self.second_predictor = predictor(channels[1])
        self.embedding = NormAwareEmbedding(channels, dim, rescaled=not scores_again)
        self.reid_loss = reid_loss
        self.scores_again = scores_again
        self.thresholds = thresholds or Thresholds()
        self.coder = Box2BoxTransform((10.0, 10.0, 5.0, 5.0), math.log(1000 / 16))
        self.matcher = Matcher([0.5], [0, 1], allow_low_quality_matches=False)
        if freeze:
            self.first_head.requires_grad_(False)
            self.second_head.requires_grad_(False)

    # Training.

    def losses(
        self,
        features: Tensor,
        proposals: list[Tensor],
        sizes: list[tuple[int, int]],
        given: list[Instances],
    ) -> dict[str, Tensor]:
        """
        Args:
            features: (N, c4, H, W).
            proposals: (k, 4) of each image.
            sizes: (height, width) of each, without padding.
            given: with ``gt_boxes`` and ``gt_identities``.
        """
        first = self._sample(proposals, given)
        _, vectors = self.first_head(pool(features, first.boxes))
        logits, deltas = self.first_predictor(vectors)
        count = max(len(logits), 1)
        found = {
            "loss_proposal_cls": F.cross_entropy(logits, first.positive.long()),
            "loss_proposal_reg": _FIRST_BOX_WEIGHT * self._box_loss(deltas, first) / count,
        }
        refined = self._refined(deltas.detach(), first.boxes, sizes)
        second = self._sample(refined, given)
        vectors4, vectors5 = self.second_head(pool(features, second.boxes))
        embeddings, logits = self.embedding((vectors4, vectors5))
        if self.scores_again:
            logits, deltas = self.second_predictor(vectors5)
        else:
            deltas = self.second_predictor(vectors5)
        loss = F.binary_cross_entropy_with_logits
        count = max(len(deltas), 1)
        found["loss_box_cls"] = loss(logits, second.positive.float())
        found["loss_box_reg"] = self._box_loss(deltas, second) / count
        positive = second.positive
        found["loss_reid"] = self.reid_loss(embeddings[positive], second.identities[positive])
        return found

    @torch.no_grad()
    def _sample(self, proposals: list[Tensor], given: list[Instances]) -> _Sampled:
        """Ground truth joins the boxes, then some are chosen."""
        parts: list[tuple[Tensor, ...]] = []
        for boxes, people in zip(proposals, given, strict=True):
            true = people.gt_boxes.tensor
            boxes = torch.cat([boxes, true])
            matched, labels = self.matcher(pairwise_iou(Boxes(true), Boxes(boxes)))
            # In their order, as theirs: the second head draws among what the first one drew.
            chosen = torch.cat(subsample_labels(labels, self.sampled, _POSITIVE_SHARE, 0)).sort()[0]
            positive, matched = labels[chosen] == 1, matched[chosen]
            identities = matched.new_full((len(chosen),), UNKNOWN)
            targets = boxes[chosen].clone()
            if len(true):
                identities = torch.where(positive, people.gt_identities[matched], identities)
                targets = true[matched]
            parts.append((boxes[chosen], positive, identities, targets))
        chosen_boxes, *columns = zip(*parts)
        return _Sampled(list(chosen_boxes), *map(torch.cat, columns))

    def _box_loss(self, deltas: Tensor, sampled: _Sampled) -> Tensor:
        positive = sampled.positive
        boxes = torch.cat(sampled.boxes)[positive]
        wanted = self.coder.get_deltas(boxes, sampled.targets[positive]) if len(boxes) else boxes
        return box_loss(deltas[positive], wanted, 1.0)

    @torch.no_grad()
    def _refined(
        self, deltas: Tensor, boxes: list[Tensor], sizes: list[tuple[int, int]]
    ) -> list[Tensor]:
        counts = [len(b) for b in boxes]
        moved = self.coder.apply_deltas(deltas, torch.cat(boxes)).split(counts)
        return [clipped(b, size) for b, size in zip(moved, sizes, strict=True)]

    # Inference.

    def detect(
        self, features: Tensor, proposals: list[Tensor], sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """
        People of each image by falling score, with ``pred_boxes``, ``scores``, ``pred_classes`` and
        ``reid_embeddings`` (unit, D).
        """
        return [
            self._detect(features[i : i + 1], boxes, size)
            for i, (boxes, size) in enumerate(zip(proposals, sizes, strict=True))
        ]

    def _detect(self, features: Tensor, proposals: Tensor, size: tuple[int, int]) -> Instances:
        boxes, scores = self._first(features, proposals, size)
        embeddings, vectors, logits = self._second(features, boxes)
        if self.scores_again:
            logits, deltas = self.second_predictor(vectors)
            scores = logits.sigmoid()
        else:
            deltas = self.second_predictor(vectors)
        boxes = clipped(self.coder.apply_deltas(deltas, boxes), size)
        keep = self._kept(boxes, scores, self.thresholds.score, self.thresholds.nms)
        keep = keep[: self.thresholds.most]
        return Instances(
            size,
            pred_boxes=Boxes(boxes[keep]),
            scores=scores[keep],
            pred_classes=torch.zeros_like(keep),
            reid_embeddings=embeddings[keep],
        )

    def _first(
        self, features: Tensor, proposals: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        parts = [
            self.first_predictor(self.first_head(pool(features, [part]))[1])
            for part in proposals.split(_CHUNK)
        ]
        if not len(proposals):
            return proposals, proposals.new_zeros(0)
        logits, deltas = (torch.cat(column) for column in zip(*parts))
        scores = logits.softmax(dim=1)[:, 1]
        boxes = clipped(self.coder.apply_deltas(deltas, proposals), size)
        keep = self._kept(boxes, scores, _FIRST_SCORE, _FIRST_NMS)[: self.thresholds.most]
        return boxes[keep], scores[keep]

    @staticmethod
    def _kept(boxes: Tensor, scores: Tensor, least: float, overlap: float) -> Tensor:
        """Of those sure and large enough, by falling score, the ones that NMS leaves."""
        rows = ((scores > least) & Boxes(boxes).nonempty(_LEAST_SIDE)).nonzero()[:, 0]
        return rows[nms(boxes[rows], scores[rows], overlap)]

    def embed_together(self, features: Tensor, boxes: list[Tensor]) -> Tensor:
        """Unit embeddings (n, D) of all images' boxes, which batch norms see as one batch."""
        return self.embedding(self.second_head(pool(features, boxes)))[0]

    def embed_boxes(self, features: Tensor, boxes: list[Tensor]) -> list[Tensor]:
        """Unit embeddings (n, D) of given boxes of each image."""
        return [self._second(features[i : i + 1], b)[0] for i, b in enumerate(boxes)]

    def _second(self, features: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Embeddings, ``feat5`` and logits of one image's boxes."""
        parts = [self.second_head(pool(features, [part])) for part in boxes.split(_CHUNK)]
        vectors = tuple(torch.cat(column) for column in zip(*parts))
        embeddings, logits = self.embedding((vectors[0], vectors[1]))
        return embeddings, vectors[1], logits


def pool(features: Tensor, boxes: list[Tensor]) -> Tensor:
    """RoI features (n, c4, 14, 14) of the N images' boxes."""
    source = widen(features).contiguous()
    pooled = roi_align(source, boxes, _ROI_SIZE, 1 / STRIDE, _SAMPLES, aligned=False)
    return pooled.to(features.dtype)


def clipped(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (n, 4) inside of an image (height, width)."""
    found = Boxes(boxes)
    found.clip(size)
    return found.tensor
