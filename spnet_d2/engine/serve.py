"""From a config and weights to a model that detects."""

import logging
import os

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from spnet_d2.checkpoint.checkpointer import Checkpointer
from spnet_d2.config_reader import ConfigError
from spnet_d2.engine.job_config import mention_unused_gpu

logger = logging.getLogger(__name__)


def serve(
    cfg: CfgNode,
    weights: str | None = None,
    *,
    resume: bool = False,
    allow_untrained: bool = False,
) -> nn.Module:
    """
    Build the model of a training run and load what detects.

    Nothing that only training needs has to be there: no pretrained weights of the trunk, no
    momentum encoder, no teacher; how many identities the look-up table has, the checkpoint says.

    Args:
        cfg: of the run, e.g. its ``config.yaml``; not changed.
        weights: checkpoint; None: ``cfg.MODEL.WEIGHTS``. A file that is not there by this name is
            looked for in ``cfg.OUTPUT_DIR``.
        resume: take the last checkpoint of ``cfg.OUTPUT_DIR`` instead, if there is one.
        allow_untrained: accept weights that don't cover the whole model, or none.

    Returns:
        The model in eval mode; on the CPU if the config names CUDA and there is none.

    Raises:
        UntrainedModelError: no weights, or some that lack what detections depend on.
        FileNotFoundError: there is no such file.
        ConfigError: settings that no model can be built with.
        ValueError: a damaged file, or weights of another model.
    """
    weights = find_weights(cfg.MODEL.WEIGHTS if weights is None else weights, cfg.OUTPUT_DIR)
    last = Checkpointer(nn.Identity(), cfg.OUTPUT_DIR, save_to_disk=False)
    covered = bool(weights) or (resume and last.has_checkpoint())
    if not covered and not allow_untrained:
        # An error, before a model is built, for which weights may have to be downloaded.
        last.load_to_serve("", resume=resume)
    try:
        model = build_model(config_to_serve(cfg, covered)).eval()
    except ValueError as error:
        raise ConfigError(f"The config can't be used: {error}") from error
    checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, save_to_disk=False)
    checkpointer.load_to_serve(weights, resume=resume, allow_untrained=allow_untrained)
    return model


def config_to_serve(cfg: CfgNode, covered: bool = True) -> CfgNode:
    """
    A run's config without what only training needs.

    Args:
        cfg: not changed.
        covered: a checkpoint will bring the trunk's weights.
    """
    cfg = cfg.clone()
    cfg.defrost()
    spnet = cfg.MODEL.SPNET
    if covered:
        spnet.BACKBONE.PRETRAINED = ""
    spnet.MOMENTUM_TWIN.ENABLED = spnet.LWF.ENABLED = False
    spnet.REID.NUM_IDENTITIES = -1
    spnet.REID.TARGETS = ""
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("MODEL.DEVICE is %s, but there is no CUDA; using the CPU.", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    mention_unused_gpu(cfg)
    return cfg


def find_weights(path: str, output_dir: str) -> str:
    """
    The path of a checkpoint that is named from here or from a run's folder.

    Raises:
        FileNotFoundError: it is a folder, or in neither place; names with ``://`` are left alone.
    """
    if not path or "://" in path or os.path.isfile(path):
        return path
    inside = os.path.join(output_dir, path)
    if os.path.isfile(inside):
        logger.info("MODEL.WEIGHTS is %s.", inside)
        return inside
    if os.path.isdir(path):
        names = sorted(name for name in os.listdir(path) if name.endswith(".pth"))
        raise FileNotFoundError(
            f"MODEL.WEIGHTS is the folder {os.path.abspath(path)}, expected a checkpoint file. It "
            f"has {', '.join(names) or 'none'}."
        )
    raise FileNotFoundError(
        f"No weight file at {os.path.abspath(path)}, nor at {os.path.abspath(inside)}. Check "
        "MODEL.WEIGHTS: expected a file such as output/model_final.pth."
    )
