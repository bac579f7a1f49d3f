"""Which boxes are foreground, background or ignored, and the ground truth each one trains on."""

from dataclasses import dataclass, field, fields
from typing import NamedTuple

import torch
from detectron2.structures import Boxes, pairwise_ioa, pairwise_iou
from torch import Tensor

from .targets import Targets

# IoU from which a box is foreground, and below which an anchor is background.
FOREGROUND_IOU = 0.5
BACKGROUND_IOU = 0.4


class Matcher(NamedTuple):
    """
    What Detectron2's ``Matcher`` does, whose checks and indexing the host has to wait for.

    Attributes:
        background: boxes are below it in IoU with all ground truth, those between are ignored.
        foreground: boxes reach it.
        low_quality: the best boxes of each ground truth, all of them, are foreground, too.
    """

    background: float
    foreground: float
    low_quality: bool

    def __call__(self, iou: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            iou: (G, M) of ground truth and boxes.

        Returns:
            matched: (M,) int64 ground truth of largest IoU; 0 where there is none.
            labels: (M,) int8, 1, 0 or -1.
        """
        if len(iou) == 0:
            return iou.new_zeros(iou.shape[1], dtype=torch.int64), iou.new_zeros(
                iou.shape[1], dtype=torch.int8
            )
        best, matched = iou.max(dim=0)
        foreground = best >= self.foreground
        if self.low_quality:
            foreground |= (iou == iou.amax(dim=1, keepdim=True)).any(dim=0)
        ignored = (best >= self.background) & ~foreground
        return matched, foreground.char() - ignored.char()


# Anchors: the best anchor of a box is foreground too, those between the bounds are ignored.
ANCHOR_MATCHER = Matcher(BACKGROUND_IOU, FOREGROUND_IOU, low_quality=True)
# Refined boxes: what isn't foreground is background.
CASCADE_MATCHER = Matcher(FOREGROUND_IOU, FOREGROUND_IOU, low_quality=False)

# Background this far inside an ignore region is left out of the losses.
_IGNORE_IOA = 0.5


@dataclass
class Samples:
    """
    Boxes of the whole batch that one cascade stage, or the first one, trains on, image by image.

    Attributes:
        boxes: (M, 4) anchors or proposals, xyxy pixels of the network's input.
        image_index: (M,) int64 position of the image in the batch.
        labels: (M,) int8, 1 foreground, 0 background, -1 ignored.
        target_boxes: (M, 4) ground-truth boxes.
        target_ids: (M,) int64 identities of these, as the re-id loss takes them.
        per_image: no image has more of them; known without waiting for the GPU.
        pair: (M,) int64 ascending (query, image) pair of each, and query: (P, D) the pairs' query
            embeddings; query-centric only.
    """

    boxes: Tensor
    image_index: Tensor
    labels: Tensor
    target_boxes: Tensor
    target_ids: Tensor
    per_image: int = 0
    pair: Tensor | None = None
    query: Tensor | None = None

    def predicted(self, logits: Tensor, deltas: Tensor) -> "PredictedSamples":
        """The same boxes with what a stage predicts for them: (M,) and (M, 4)."""
        mine = {field.name: getattr(self, field.name) for field in fields(Samples)}
        return PredictedSamples(**mine, logits=logits, deltas=deltas)

    @property
    def query_rows(self) -> Tensor | None:
        """(M, D) the query of each box's pair; query-centric only."""
        return None if self.query is None else self.query[self.pair]

    @property
    def rois(self) -> Tensor:
        """(M, 5) the image's position and the box."""
        return join_rois(self.image_index, self.boxes)


@dataclass
class PredictedSamples(Samples):
    """
    Samples whose stage has run.

    Attributes:
        logits: (M,) that they are a person.
        deltas: (M, 4) from the box to the ground truth.
    """

    logits: Tensor = field(kw_only=True)
    deltas: Tensor = field(kw_only=True)


def join_rois(image_index: Tensor, boxes: Tensor) -> Tensor:
    """Positions of images (n,) and boxes (n, 4) -> RoIs (n, 5)."""
    return torch.cat([image_index[:, None].to(boxes.dtype), boxes], dim=1)


def match_boxes(
    boxes: Tensor, gt_boxes: Tensor, matcher: Matcher, ignore: Boxes | None = None
) -> tuple[Tensor, Tensor]:
    """
    Label boxes of one image.

    Args:
        boxes: (M, 4).
        gt_boxes: (G, 4), G may be 0.
        matcher: ``ANCHOR_MATCHER`` or ``CASCADE_MATCHER``.
        ignore: (I, 4) regions whose background trains nothing.

    Returns:
        labels: (M,) int8, 1, 0 or -1.
        matched: (M,) int64 ground truth of each box. Those that are not foreground carry box 0,
            as in the authors' code, whose re-id loss takes them if their refined box meets it.
    """
    matched, labels = matcher(pairwise_iou(Boxes(gt_boxes), Boxes(boxes)))
    matched = torch.where(labels == 1, matched, 0)
    if ignore is not None:
        labels = labels.masked_fill(ignored_boxes(boxes, ignore) & (labels == 0), -1)
    return labels, matched


def ignored_boxes(boxes: Tensor, ignore: Boxes) -> Tensor:
    """Which of (M, 4) boxes lie mostly inside an ignore region, (M,) boolean."""
    if len(ignore) == 0:
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    covered = pairwise_ioa(ignore.to(boxes.device), Boxes(boxes))
    return covered.amax(dim=0) >= _IGNORE_IOA


def match_refined(boxes: Tensor, image_index: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """
    Label refined boxes of the whole batch: :func:`match_boxes` with ``CASCADE_MATCHER``.

    Args:
        boxes: (M, 4) and image_index: (M,) their images.
        targets: ground truth and ignore regions.

    Returns:
        labels: (M,) int8, and rows: (M,) int64 of the ground truth of each box.
    """
    gt_boxes = with_empty_row(targets.boxes)[targets.rows][image_index]
    shared = _intersections(boxes, gt_boxes)
    area, gt_areas = _areas(boxes)[:, None], _areas(gt_boxes)
    iou = torch.where(shared > 0, shared / (gt_areas + area - shared), 0.0)
    matched, labels = CASCADE_MATCHER(iou.T)
    matched = torch.where(labels == 1, matched, 0)
    labels = leave_out_ignored(labels, boxes, image_index, targets)
    return labels, targets.rows[image_index, matched]


def leave_out_ignored(
    labels: Tensor, boxes: Tensor, image_index: Tensor, targets: Targets
) -> Tensor:
    """Labels (M,) of boxes (M, 4), -1 for background that lies in an ignore region."""
    if not any(targets.ignore_counts):
        return labels
    shared = _intersections(boxes, targets.ignore[image_index])
    inside = torch.where(shared > 0, shared / _areas(boxes)[:, None], 0.0)
    covered = inside.amax(dim=1) >= _IGNORE_IOA
    return labels.masked_fill(covered & (labels == 0), -1)


def _intersections(boxes: Tensor, others: Tensor) -> Tensor:
    """Areas (M, G) that boxes (M, 4) share with others (M, G, 4)."""
    low = torch.maximum(boxes[:, None, :2], others[..., :2])
    sides = (torch.minimum(boxes[:, None, 2:], others[..., 2:]) - low).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def with_empty_row(x: Tensor) -> Tensor:
    """
    (n, ...) and, behind it, a row of zeros.

    It is the ground truth of images without people: an empty box at the origin, which nothing
    overlaps.
    """
    return torch.cat([x, x.new_zeros(1, *x.shape[1:])])


def gather_samples(
    boxes: Tensor,
    image_index: Tensor,
    labels: Tensor,
    rows: Tensor,
    targets: Targets,
    per_image: int,
) -> Samples:
    """
    Sampled boxes with their ground truth.

    Args:
        boxes: (M, 4) sampled boxes, image by image.
        image_index, labels: (M,) of each.
        rows: (M,) their ground truth's rows, as in ``targets.rows``.
        targets: ground truth.
        per_image: no image has more of them.
    """
    return Samples(
        boxes,
        image_index,
        labels,
        with_empty_row(targets.boxes)[rows],
        with_empty_row(targets.ids)[rows],
        per_image,
    )
