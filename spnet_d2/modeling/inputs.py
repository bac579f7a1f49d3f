"""What models take, checked: images, ground truth and queries of Detectron2's dicts."""

import logging
import math
from collections.abc import Mapping

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from spnet_d2.utils.warn_once import warn_once

logger = logging.getLogger(__name__)

_TRAINING_FIELDS = ("gt_boxes", "gt_person_ids", "gt_identities")


def checked_image(x: dict) -> Tensor:
    """The image (3, H, W) of one input, as it is given, where it is; see :class:`.spnet.SPNet`."""
    if not isinstance(x, Mapping):
        raise ValueError(
            "Expected a list of dicts with an RGB tensor (3, H, W) as 'image', found "
            f"{type(x).__name__} in it."
        )
    image = x.get("image")
    if not isinstance(image, Tensor) or image.dim() != 3 or image.shape[0] != 3:
        found = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(
            f"Expected 'image' as an RGB tensor (3, H, W) with values 0..255, found {found}"
            f"{whose(x)}."
        )
    if 0 in image.shape:
        raise ValueError(f"An image has no pixels, shape {tuple(image.shape)}{whose(x)}.")
    if image.is_floating_point():
        low, high = torch.stack(image.aminmax()).tolist()
        # NaN is in both.
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"An image has NaN or infinite pixels{whose(x)}.")
        if 0 <= low and 0 < high <= 1:
            warn_once(
                logger,
                "An image has no pixel above 1, but values 0..255 are expected: multiply images "
                "of 0..1 by 255.",
            )
    return image


def checked_targets(x: dict, required: bool = False) -> Instances:
    """Ground truth of one input on the host; an empty one where there is none."""
    if "instances" not in x:
        if required:
            raise ValueError(
                f"Training needs 'instances' with ground truth in every input{whose(x)}; "
                "an image without people has instances of length 0."
            )
        return Instances((0, 0), gt_boxes=Boxes(torch.zeros(0, 4)))
    targets = x["instances"]
    lacking = [name for name in _TRAINING_FIELDS if required and not targets.has(name)]
    if lacking:
        raise ValueError(
            f"Training needs {', '.join(lacking)} in 'instances'{whose(x)}, found "
            f"{', '.join(targets.get_fields()) or 'no fields'}. Detectron2's DatasetMapper gives "
            "no people: take spnet_d2.data.mapper.PersonSearchMapper, as spnet_d2.engine."
            "Trainer does, for a data set of register_person_search."
        )
    if targets.gt_boxes.device.type != "cpu":
        targets = targets.to("cpu")
    boxes = targets.gt_boxes.tensor
    # `not (a > b)` is also true of NaN.
    degenerate = ~((boxes[:, 2:] > boxes[:, :2]).all(dim=1) & boxes.isfinite().all(dim=1))
    if degenerate.any():
        raise ValueError(
            "Ground-truth boxes must have x2 > x1 and y2 > y1, found "
            f"{boxes[degenerate][0].tolist()}{whose(x)}; drop or repair such boxes."
        )
    return targets


def checked_queries(x: dict, dim: int) -> Tensor:
    """Localisation embeddings (Q, D) of one input's queries, where they are; none without any."""
    if "queries" not in x:
        return torch.zeros(0, dim)
    loc = x["queries"]["loc"].float()
    if loc.dim() != 2 or loc.shape[1] != dim:
        raise ValueError(
            f"Expected queries['loc'] as (Q, {dim}), found {tuple(loc.shape)}{whose(x)}."
        )
    if not torch.isfinite(loc).all():
        raise ValueError(f"Query embeddings have NaN or infinite values{whose(x)}.")
    return loc


def whose(x: dict) -> str:
    """Names the image of an input in an error message."""
    known = [f"{key} {x[key]}" for key in ("image_id", "file_name") if key in x]
    return f" ({', '.join(known)})" if known else ""


def to_original_size(detections: Instances, x: dict) -> Instances:
    """
    Scale detections from the network's input to the original image.

    Args:
        detections: with ``pred_boxes`` and image size (H, W) of the network's input.
        x: the input, with ``height`` and ``width`` of the original image.

    Returns:
        The same detections, none dropped, with the original image's size.
    """
    height, width = detections.image_size
    size = (x.get("height", height), x.get("width", width))
    result = Instances(size, **detections.get_fields())
    boxes = detections.pred_boxes.clone()
    boxes.scale(size[1] / width, size[0] / height)
    result.pred_boxes = boxes
    return result
