"""Configs of models that are built to be measured, with random weights."""

from typing import Any

from detectron2.config import CfgNode

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
        # best ones that do not overlap are kept. Of SeqNet's proposals, half do anyway.
        finds += ["MODEL.SPNET.SMALL_DATA.ANCHOR_BIAS", 0.0]
    cfg = measured_config(path, [*finds, *opts], device)
    cfg.MODEL.SPNET.TEST_PATHWAY = pathway
    cfg.MODEL.SPNET.MOMENTUM_TWIN.ENABLED = False
    return cfg
