"""Text that is equal where boxes and embeddings of two models can be compared."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence

import torch
from detectron2.config import CfgNode
from torch import nn

from spnet_d2.config_node import REMOVED_KEYS

# Of MODEL.SPNET: what changes boxes or embeddings without changing a weight.
_KEYS = (
    *("PATHWAY", "TEST_PATHWAY", "ANCHOR_LOGITS", "CLS_LOGITS", "POSITIVE_NORM"),
    *("NUM_CASCADES", "SEPARATE_HEADS", "BACKBONE.NAME", "SMALL_DATA.ANCHOR_BIAS"),
    *("SMALL_DATA.ROI_POOLING", "SMALL_DATA.ROI_STRIPES", "SMALL_DATA.ROI_MARGIN"),
    *("SMALL_DATA.FEAT4_SHARE", "TEST.PRECISION"),
)
# Constants that were keys: what was made then can be compared with what is made now.
_CONSTANTS = {
    f"MODEL.SPNET.{key}": REMOVED_KEYS[f"MODEL.SPNET.{key}"]
    for key in ("BRIDGE", "TEST.PRE_TOPK", "TEST.QUERY_TOPK", "TEST.TOPK_CANDIDATES")
}


def fingerprint(model: nn.Module, settings: Mapping[str, object]) -> str:
    """
    Of all weights, the buffers (statistics of norms), and settings.

    Memories of training change nothing.

    Args:
        model: an SPNet.
        settings: of :func:`input_settings` and :func:`model_settings`.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in _weights(model):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().double().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def input_settings(
    augmentation: object, exact_8bit: bool, pixel_mean: Sequence, pixel_std: Sequence
) -> dict[str, object]:
    """How images become the model's input."""
    resize = _plain(getattr(augmentation, "__dict__", {}))
    return {
        "resize": f"{type(augmentation).__name__} {resize}",
        "exact_8bit": bool(exact_8bit),
        "pixel_mean": list(pixel_mean),
        "pixel_std": list(pixel_std),
    }


def model_settings(cfg: CfgNode) -> dict[str, object]:
    """Values of ``_KEYS`` by their full names, of the resize, and of what is kept."""
    values = {f"INPUT.{key}": cfg.INPUT[key] for key in ("AUG_TEST", "MIN_SIZE_TEST")}
    values["INPUT.MAX_SIZE_TEST"] = cfg.INPUT.MAX_SIZE_TEST
    values["MODEL.ROI_HEADS.NMS_THRESH_TEST"] = cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST
    values["TEST.DETECTIONS_PER_IMAGE"] = cfg.TEST.DETECTIONS_PER_IMAGE
    for key in _KEYS:
        node = cfg.MODEL.SPNET
        for part in key.split("."):
            node = node[part]
        values[f"MODEL.SPNET.{key}"] = node
    values.update(_CONSTANTS)
    return {key: _plain(value) for key, value in values.items()}


def _plain(value):
    """Numbers, text and lists as they are, anything else as text, for JSON."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, bool | int | float | str) else type(value).__name__


def _weights(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers by name, but not those that only training reads."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if "reid_loss." not in name and not name.endswith("num_batches_tracked"):
            yield name, tensor
