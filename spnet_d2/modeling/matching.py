"""Which boxes are foreground, background or ignored, and the ground truth each one trains on."""

from dataclasses import dataclass

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_ioa, pairwise_iou
from torch import Tensor

# IoU from which a box is foreground, and below which an anchor is background.
FOREGROUND_IOU = 0.5
BACKGROUND_IOU = 0.4
# Anchors: the best anchor of a box is foreground too, those between the bounds are ignored.
ANCHOR_MATCHER = Matcher(
    [BACKGROUND_IOU, FOREGROUND_IOU], [0, -1, 1], allow_low_quality_matches=True
)
# Refined boxes: what isn't foreground is background.
CASCADE_MATCHER = Matcher([FOREGROUND_IOU], [0, 1], allow_low_quality_matches=False)

# Background this far inside an ignore region is left out of the losses.
_IGNORE_IOA = 0.5


@dataclass
class Samples:
    """
    Boxes of the whole batch that one round trains on, image by image.

    Attributes:
        boxes: (M, 4) anchors or proposals, xyxy pixels of the network's input.
        image_index: (M,) int64 position of the image in the batch.
        labels: (M,) int8, 1 foreground, 0 background, -1 ignored.
        target_boxes: (M, 4) ground-truth boxes.
        target_ids: (M,) int64 identities of these, as the re-id loss takes them.
        logits: (M,) and deltas: (M, 4): what the round predicts for them.
        pair: (M,) int64 ascending (query, image) pair of each, and query: (P, D) the pairs' query
            embeddings; query-centric only.
    """

    boxes: Tensor
    image_index: Tensor
    labels: Tensor
    target_boxes: Tensor
    target_ids: Tensor
    logits: Tensor | None = None
    deltas: Tensor | None = None
    pair: Tensor | None = None
    query: Tensor | None = None


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


def gather_samples(
    boxes: list[Tensor],
    labels: list[Tensor],
    matched: list[Tensor],
    chosen: list[Tensor],
    targets: list[Instances],
    id_field: str,
) -> Samples:
    """
    Put the sampled boxes of all images together.

    Args:
        boxes: N tensors (M_i, 4).
        labels, matched: N tensors (M_i,), of :func:`match_boxes`.
        chosen: N tensors of indices into them.
        targets: ground truth with ``gt_boxes`` and ``id_field``.
        id_field: the field of ``targets`` that the re-id loss takes.
    """
    parts = []
    for i, (box, label, match, index) in enumerate(
        zip(boxes, labels, matched, chosen, strict=True)
    ):
        gt_boxes = targets[i].gt_boxes.tensor
        gt_ids = targets[i].get(id_field)
        if len(gt_boxes) == 0:
            # An image without people: an empty box at the origin, which nothing overlaps.
            gt_boxes, gt_ids = gt_boxes.new_zeros(1, 4), gt_ids.new_zeros(1)
        parts.append(
            (
                box[index],
                torch.full_like(index, i),
                label[index],
                gt_boxes[match[index]],
                gt_ids[match[index]],
            )
        )
    return Samples(*(torch.cat(column) for column in zip(*parts, strict=True)))
