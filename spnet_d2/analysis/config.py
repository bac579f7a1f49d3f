"""Models that are built to be measured, with random weights, and their configs."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from spnet_d2.config_reader import read_config
from spnet_d2.modeling.config_problems import SEQUENTIAL


def measured_config(path: str = "", opts: list[str] | tuple = (), device: str = "cpu") -> CfgNode:
    """
    The model of a config, without its weights and its data.

    Args:
        path: YAML file; "" for the package's defaults.
        opts: settings on top, key and value in turn.
        device: where it will run. CPUs take float32 for float16.

    Raises:
        ConfigError: as :func:`spnet_d2.config_reader.read_config`.
    """
    cfg = read_config(path, opts)
    cfg.MODEL.DEVICE = device
    cfg.MODEL.SPNET.BACKBONE.PRETRAINED = ""
    if cfg.MODEL.SPNET.REID.NUM_IDENTITIES < 0:
        # It is the data's; it costs next to nothing.
        cfg.MODEL.SPNET.REID.NUM_IDENTITIES = 1
    return cfg


def measured_detector(
    path: str, opts: list[str] | tuple, device: str, pathway: str, people: int
) -> CfgNode:
    """
    As :func:`measured_config`, for a model that finds ``people`` boxes in any noise.

    Args:
        pathway: of the inference, "OC" or "QC".
        people: in an image, or for each query.
    """
    finds: list[Any] = ["TEST.DETECTIONS_PER_IMAGE", people]
    if read_config(path, opts).MODEL.META_ARCHITECTURE not in SEQUENTIAL:
        # Anchor embeddings that start around 0 are short, so every anchor looks like a person; the
        # best ones that do not overlap are kept.
        finds += ["MODEL.SPNET.SMALL_DATA.ANCHOR_BIAS", 0.0]
    cfg = measured_config(path, [*finds, *opts], device)
    cfg.MODEL.SPNET.TEST_PATHWAY = pathway
    cfg.MODEL.SPNET.MOMENTUM_TWIN.ENABLED = False
    return cfg


def detecting(cfg: CfgNode) -> nn.Module:
    """
    The model of :func:`measured_detector`, for inference.

    SeqNet's and SeqNeXt's proposals are the anchors as they are, of which NMS leaves as many as a
    trained model has; each of them looks like a person.
    """
    model = build_model(cfg).eval()
    if cfg.MODEL.META_ARCHITECTURE in SEQUENTIAL:
        first = model.roi_heads.first_predictor
        with torch.no_grad():
            for layer in (model.rpn.head.bbox_pred, first.cls_score, first.bbox_pred):
                layer.weight.zero_()
                layer.bias.zero_()
            first.cls_score.bias[1] = 10.0
    return model
