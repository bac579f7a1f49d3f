"""Detection losses of SPNet (paper section 3.4), as the authors' code weights them."""

import torch
import torch.nn.functional as F
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, nms, sigmoid_focal_loss

from . import whole_batch

# Faster R-CNN's deltas; sizes are clamped to exp(log(1000 / 16)).
BOX_TRANSFORM = Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0))


def anchor_loss(logits: Tensor, labels: Tensor, alpha: float = 0.5, gamma: float = 1.0) -> Tensor:
    """
    Focal loss over all anchors that are not ignored, summed, over the number of positives.

    Here and below, numbers are the whole batch's: see :mod:`.whole_batch`.

    Args:
        logits: any shape.
        labels: same shape; 1 foreground, 0 background, -1 ignored.
        alpha: weight of positives (1 - alpha of negatives).
        gamma: focusing exponent.
    """
    valid = labels >= 0
    targets = labels[valid].float()
    total = sigmoid_focal_loss(logits[valid], targets, alpha, gamma, reduction="sum")
    return whole_batch.mean(total, (labels == 1).sum())


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Logistic loss of refined boxes (M,), summed, over the number of positives."""
    valid = labels >= 0
    targets = labels[valid].float()
    total = F.binary_cross_entropy_with_logits(logits[valid], targets, reduction="sum")
    return whole_batch.mean(total, (labels == 1).sum())


def box_loss(deltas: Tensor, boxes: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
    """
    Generalised IoU loss, mean over the positives; 0 (with a graph) without any.

    Args:
        deltas: (M, 4) predictions.
        boxes: (M, 4) anchors or proposals they refer to, xyxy pixels.
        targets: (M, 4) ground-truth boxes.
        labels: (M,) 1 for positives.
    """
    positive = labels == 1
    decoded = BOX_TRANSFORM.apply_deltas(deltas[positive], boxes[positive])
    losses = generalized_box_iou_loss(decoded, targets[positive], reduction="none")
    return whole_batch.mean(losses.sum(), len(losses))


def clip_to_images(boxes: Tensor, sizes: Tensor) -> Tensor:
    """
    Clip boxes to their images.

    Args:
        boxes: (..., 4) xyxy.
        sizes: (2,) or (..., 2) height and width.
    """
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
