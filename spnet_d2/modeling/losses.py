"""Detection losses of SPNet (paper section 3.4), as the authors' code weights them."""

import torch
import torch.nn.functional as F
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import Tensor
from torchvision.ops import nms, sigmoid_focal_loss

from .whole_batch import Share

# Faster R-CNN's deltas; sizes are clamped to exp(log(1000 / 16)).
BOX_TRANSFORM = Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0))
# Added to areas that are divided by.
_SMALLEST_AREA = 1e-7


def anchor_loss(logits: Tensor, labels: Tensor, alpha: float = 0.5, gamma: float = 1.0) -> Share:
    """
    Focal loss over all anchors that are not ignored, summed, over the number of positives.

    Here and below, what is divided by is the whole batch's number: see :mod:`.whole_batch`.

    Args:
        logits: any shape.
        labels: same shape; 1 foreground, 0 background, -1 ignored.
        alpha: weight of positives (1 - alpha of negatives).
        gamma: focusing exponent.
    """
    ignored, positive = labels < 0, labels == 1
    logits = logits.masked_fill(ignored, 0.0)
    losses = sigmoid_focal_loss(logits, positive.to(logits.dtype), alpha, gamma)
    return Share(losses.masked_fill(ignored, 0.0).sum(), positive.sum())


def class_loss(logits: Tensor, labels: Tensor) -> Share:
    """Logistic loss of refined boxes (M,), summed, over the number of positives."""
    ignored, positive = labels < 0, labels == 1
    logits = logits.masked_fill(ignored, 0.0)
    targets = positive.to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return Share(losses.masked_fill(ignored, 0.0).sum(), positive.sum())


def box_loss(deltas: Tensor, boxes: Tensor, targets: Tensor, labels: Tensor) -> Share:
    """
    Generalised IoU loss, mean over the positives; 0 (with a graph) without any.

    Args:
        deltas: (M, 4) predictions.
        boxes: (M, 4) anchors or proposals they refer to, xyxy pixels.
        targets: (M, 4) ground-truth boxes.
        labels: (M,) 1 for positives.
    """
    positive = labels == 1
    # The others are empty boxes, whatever was predicted: no value and no gradient of theirs counts.
    others = ~positive[:, None]
    deltas, boxes, targets = (x.masked_fill(others, 0.0) for x in (deltas, boxes, targets))
    losses = giou_loss(BOX_TRANSFORM.apply_deltas(deltas, boxes), targets)
    return Share(losses.masked_fill(~positive, 0.0).sum(), positive.sum())


def giou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """
    1 - generalised IoU (Rezatofighi et al., CVPR 2019) of (M, 4) with (M, 4) xyxy boxes, (M,).

    The numbers of torchvision's, whose masks the host has to wait for.
    """
    shared = torch.minimum(boxes[:, 2:], targets[:, 2:]) - torch.maximum(
        boxes[:, :2], targets[:, :2]
    )
    around = torch.maximum(boxes[:, 2:], targets[:, 2:]) - torch.minimum(
        boxes[:, :2], targets[:, :2]
    )
    # Not clamped: boxes that just touch get no gradient.
    shared, around = _product(shared.relu()), _product(around)
    union = _product(boxes[:, 2:] - boxes[:, :2]) + _product(targets[:, 2:] - targets[:, :2])
    union = union - shared
    iou = shared / (union + _SMALLEST_AREA)
    return 1 - (iou - (around - union) / (around + _SMALLEST_AREA))


def _product(sides: Tensor) -> Tensor:
    """Areas (M,) of sides (M, 2). The gradient of ``prod`` looks for zeros, which waits."""
    return sides[:, 0] * sides[:, 1]


def clip_to_images(boxes: Tensor, sizes: Tensor | tuple[int, int]) -> Tensor:
    """
    Clip boxes to their images.

    Args:
        boxes: (..., 4) xyxy.
        sizes: height and width of all, or a tensor (2,) or (..., 2).
    """
    if not isinstance(sizes, Tensor):
        x, y = boxes[..., 0::2].clamp(0, sizes[1]), boxes[..., 1::2].clamp(0, sizes[0])
        return torch.stack([x, y], dim=-1).flatten(-2)
    height, width = sizes.unbind(-1)
    limits = torch.stack([width, height, width, height], dim=-1).to(boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limits)


def nms_per_query(boxes: Tensor, scores: Tensor, query: Tensor, threshold: float) -> Tensor:
    """
    Suppress overlapping boxes of the same query.

    Args:
        boxes: (n, 4) inside an image.
        scores: (n,).
        query: (n,) index of the query each was found for.
        threshold: IoU.

    Returns:
        Indices of the boxes kept, best score first.
    """
    if len(boxes) == 0:
        return query
    # Queries are moved so far apart that none meet; in float64, where that changes no IoU.
    apart = boxes.double() + (query * (2.0 * boxes.max().double() + 1))[:, None]
    return nms(apart, scores.double(), threshold)
