"""From command-line arguments to the final, frozen config of a job."""

import argparse
import logging

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from spnet_d2.config_checks import check_config, check_data_sets
from spnet_d2.config_reader import read_config
from spnet_d2.data.catalog import num_identities
from spnet_d2.data.loaders import iterations_per_epoch
from spnet_d2.data.own_sets import use_own_sets
from spnet_d2.engine.output_folder import check_writable, refuse_run
from spnet_d2.engine.schedule import resolve_schedule
from spnet_d2.modeling.backbone import check_pretrained
from spnet_d2.modeling.precision import inference_precision
from spnet_d2.modeling.reid_losses import reid_loss_class
from spnet_d2.utils.text import make_output_safe

logger = logging.getLogger(__name__)


# Where a config's node keeps what it was when it was resolved.
_RESOLVED = "__resolved__"


def check_job(cfg: CfgNode, training: bool = True, processes: int | None = None) -> None:
    """
    See that settings can work, whatever the data and the machine are.

    Args:
        cfg: of the job.
        training: False for an evaluation.
        processes: that will share a batch, if they haven't started yet.

    Raises:
        ConfigError: settings that can't work together, unknown data sets.
    """
    check_config(cfg, training, processes)
    check_data_sets(cfg, training)


def setup(args: argparse.Namespace, cfg: CfgNode | None = None) -> CfgNode:
    """
    Build the config of a job and set the process up for it (logging, seeds, output folder).

    For training, whatever depends on the training data is filled in, see :func:`resolve_config`.
    For evaluation the number of identities is the checkpoint's, so the training data need not be
    there.

    Args:
        args: of ``detectron2.engine.default_argument_parser``; only ``config_file`` and ``opts``
            must be there. With ``resume`` False, training wants a folder without checkpoints.
        cfg: that was read and went through :func:`check_job`, in this process or in the one that
            started it; None: defaults, then ``args.config_file``, then ``args.opts``.

    Returns:
        CfgNode: frozen.

    Raises:
        ConfigError: settings that can't be read, or can't work together, unknown data sets, or
            a run that would be overwritten.
        OSError: nothing can be written to ``OUTPUT_DIR``.
        ValueError: settings that can't be used, or that don't fit the training data.
        FileNotFoundError: there is no training data, or there are no pretrained weights.
    """
    training = not getattr(args, "eval_only", False)
    if cfg is None:
        cfg = read_config(args.config_file, list(args.opts or []))
        check_job(cfg, training)
    else:
        # A process that was just started doesn't know the user's data sets.
        use_own_sets(cfg, args.config_file)
    if training and getattr(args, "resume", None) is False:
        refuse_run(cfg.OUTPUT_DIR)
    _look_around(cfg, training)
    # Names of image files, in any encoding, reach the log.
    make_output_safe()
    # Detectron2 sets up its own loggers only.
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="spnet_d2")
    _choose_device(cfg, use_gpu=getattr(args, "num_gpus", 1) > 0)
    if training:
        _fit_to_data(cfg)
    cfg.freeze()
    default_setup(cfg, args)
    return cfg


def resolve_config(cfg: CfgNode) -> CfgNode:
    """
    A training config that is checked and complete, as :func:`setup` gives it.

    The schedule's epochs become iterations (:func:`~spnet_d2.engine.schedule.resolve_schedule`),
    ``MODEL.SPNET.REID.NUM_IDENTITIES`` -1 becomes the number of identities, and a GPU that isn't
    there the CPU.

    Args:
        cfg: left as it is.

    Returns:
        ``cfg`` itself if that was done before, else a copy, as frozen as ``cfg`` is.

    Raises:
        ConfigError, OSError, ValueError: as :func:`setup`.
    """
    if vars(cfg).get(_RESOLVED) == cfg.dump():
        return cfg
    frozen = cfg.is_frozen()
    cfg = cfg.clone()
    cfg.defrost()
    check_job(cfg)
    _look_around(cfg)
    _choose_device(cfg)
    _fit_to_data(cfg)
    if frozen:
        cfg.freeze()
    return cfg


def _look_around(cfg: CfgNode, training: bool = True) -> None:
    """See that what a job needs of this machine is there: a folder to write to, weights."""
    if comm.is_main_process():
        check_writable(cfg.OUTPUT_DIR)
    if training and not cfg.MODEL.WEIGHTS:
        # Before the data, which take longer.
        check_pretrained(cfg.MODEL.SPNET.BACKBONE.NAME, cfg.MODEL.SPNET.BACKBONE.PRETRAINED)


def _fit_to_data(cfg: CfgNode) -> None:
    resolve_schedule(cfg, iterations_per_epoch(cfg))
    _set_identities(cfg)
    vars(cfg)[_RESOLVED] = cfg.dump()


def _set_identities(cfg: CfgNode) -> None:
    """Fill in the rows of the look-up table, or see that the data's people fit into those given."""
    reid, people = cfg.MODEL.SPNET.REID, num_identities(cfg.DATASETS.TRAIN)
    has_table = reid_loss_class(cfg).learns_known_people
    if has_table and reid.LOSS_WEIGHT > 0 and people == 0:
        logger.warning(
            "%s: nobody's identity is known (is_known), so MODEL.SPNET.REID.LOSS %s has nothing "
            "to learn from and only detection is trained. Give person_id and is_known "
            "(datasets/README.md), or pre-train, where every box is a person of its own, with "
            "another MODEL.SPNET.REID.LOSS (projects_configs/profiles/pretrain.yaml).",
            cfg.DATASETS.TRAIN,
            reid.LOSS,
        )
    if reid.NUM_IDENTITIES < 0:
        reid.NUM_IDENTITIES = people
    if has_table and reid.NUM_IDENTITIES < people:
        raise ValueError(
            f"MODEL.SPNET.REID.NUM_IDENTITIES is {reid.NUM_IDENTITIES}, but {cfg.DATASETS.TRAIN} "
            f"has {people} known people; -1 takes their number from the data."
        )


def mention_unused_gpu(cfg: CfgNode) -> None:
    """The ``config.yaml`` of a run on a CPU says so, and holds it there on any machine."""
    if cfg.MODEL.DEVICE == "cpu" and torch.cuda.is_available():
        logger.warning("MODEL.DEVICE is cpu, so the GPU is not used: MODEL.DEVICE cuda uses it.")


def _choose_device(cfg: CfgNode, use_gpu: bool = True) -> None:
    """Fall back to the CPU, and there from float16, where there is no GPU to use."""
    if cfg.MODEL.DEVICE.startswith("cuda") and not (use_gpu and torch.cuda.is_available()):
        reason = "PyTorch finds no usable GPU" if use_gpu else "--num-gpus is 0"
        logger.info("MODEL.DEVICE is cpu instead of %s: %s.", cfg.MODEL.DEVICE, reason)
        cfg.MODEL.DEVICE = "cpu"
    if cfg.MODEL.DEVICE != "cpu":
        return
    if use_gpu:
        mention_unused_gpu(cfg)
    amp, test = cfg.SOLVER.AMP, cfg.MODEL.SPNET.TEST
    if amp.ENABLED and amp.PRECISION == "float16":
        logger.info(
            "SOLVER.AMP.ENABLED is False on the CPU: float16 needs a GPU. SOLVER.AMP.PRECISION "
            "bfloat16 does not."
        )
        amp.ENABLED = False
    test.PRECISION = inference_precision("cpu", test.PRECISION)
