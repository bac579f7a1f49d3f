"""Epochs to iterations: the numbers of a training run that depend on the size of its data."""

import logging

from detectron2.config import CfgNode

from spnet_d2.config_checks import MAX_WARMUP_ITERS, check_schedule
from spnet_d2.config_node import EPOCH_KEYS
from spnet_d2.config_reader import get_value

logger = logging.getLogger(__name__)


def resolve_schedule(cfg: CfgNode, iterations_per_epoch: int) -> None:
    """
    Fill in what follows from the number of iterations per epoch.

    - ``SOLVER.EPOCHS``, ``SOLVER.CHECKPOINT_EPOCHS`` and ``TEST.EVAL_EPOCHS``, where positive, set
      ``SOLVER.MAX_ITER``, ``SOLVER.CHECKPOINT_PERIOD`` and ``TEST.EVAL_PERIOD``.
    - ``SOLVER.WARMUP_ITERS`` -1 becomes ``min(1000, I - 1)``, and less than ``MAX_ITER``.
    - A ``SOLVER.CHECKPOINT_PERIOD`` of 0, or of the whole run, means: only the final checkpoint.
      It becomes ``MAX_ITER + 1``, or the last iteration would be stored twice.

    Args:
        cfg: changed in place.
        iterations_per_epoch: I, see ``spnet_d2.data.loaders.iterations_per_epoch``.

    Raises:
        ConfigError: no iterations, a negative number of epochs, or a warm-up that does not end
            before the training does.
    """
    check_schedule(cfg)
    for iterations_key, epochs_key in EPOCH_KEYS.items():
        if get_value(cfg, epochs_key) > 0:
            _count_in_epochs(cfg, iterations_key, epochs_key, iterations_per_epoch)
    solver = cfg.SOLVER
    if solver.WARMUP_ITERS < 0:
        wanted = min(MAX_WARMUP_ITERS, iterations_per_epoch - 1)
        solver.WARMUP_ITERS = min(wanted, solver.MAX_ITER - 1)
    check_schedule(cfg, resolved=True)
    if solver.CHECKPOINT_PERIOD < 1 or solver.CHECKPOINT_PERIOD == solver.MAX_ITER:
        solver.CHECKPOINT_PERIOD = solver.MAX_ITER + 1
    _log(cfg, iterations_per_epoch)


def _count_in_epochs(cfg: CfgNode, iterations_key: str, epochs_key: str, per_epoch: int) -> None:
    section, _, name = iterations_key.partition(".")
    epochs, before = get_value(cfg, epochs_key), cfg[section][name]
    if before not in (0, epochs * per_epoch):
        logger.warning(
            "%s %d counts, %d iterations here, and not %s %d, which was given beside it; set one "
            "of them to 0.",
            epochs_key,
            epochs,
            epochs * per_epoch,
            iterations_key,
            before,
        )
    # By item: the epochs stay what they are.
    cfg[section][name] = epochs * per_epoch


def _log(cfg: CfgNode, iterations_per_epoch: int) -> None:
    solver = cfg.SOLVER
    kept = f"every {solver.CHECKPOINT_PERIOD}"
    logger.info(
        "%d iterations per epoch: training for %d iterations, %d of them warm-up; checkpoint "
        "%s, evaluation every %d (0: at the end).",
        iterations_per_epoch,
        solver.MAX_ITER,
        solver.WARMUP_ITERS,
        kept if solver.CHECKPOINT_PERIOD <= solver.MAX_ITER else "at the end",
        cfg.TEST.EVAL_PERIOD,
    )
