"""Epochs to iterations: the numbers of a training run that depend on the size of its data."""

import logging

from detectron2.config import CfgNode

from spnet_d2.config_reader import get_value

logger = logging.getLogger(__name__)

# Warm-up lasts min(1000, I - 1) iterations, I = iterations per epoch.
_MAX_WARMUP_ITERS = 1000

# Key in epochs -> the key in iterations that it sets.
_EPOCH_KEYS = {
    "SOLVER.EPOCHS": "SOLVER.MAX_ITER",
    "SOLVER.CHECKPOINT_EPOCHS": "SOLVER.CHECKPOINT_PERIOD",
    "TEST.EVAL_EPOCHS": "TEST.EVAL_PERIOD",
}


def prefer_explicit_iterations(cfg: CfgNode, keys: list[str]) -> None:
    """
    Let an iteration count of the command line win over a count of epochs from a file.

    Without this, ``SOLVER.MAX_ITER 100`` on the command line would do nothing, because every
    profile counts in epochs. Where the command line has both, the later one wins, as of any
    setting that is given twice.

    Args:
        cfg: changed in place: the overruled ``*EPOCHS`` key becomes 0.
        keys: config keys named on the command line, in order.
    """
    for epochs, iterations in _EPOCH_KEYS.items():
        given = [key for key in keys if key in (epochs, iterations)]
        if given and given[-1] == iterations and get_value(cfg, epochs):
            logger.info("%s is given, so %s is set to 0.", iterations, epochs)
            _set(cfg, epochs, 0)


def resolve_schedule(cfg: CfgNode, iterations_per_epoch: int) -> None:
    """
    Fill in what follows from the number of iterations per epoch.

    - ``SOLVER.EPOCHS``, ``SOLVER.CHECKPOINT_EPOCHS`` and ``TEST.EVAL_EPOCHS``, where positive, set
      ``SOLVER.MAX_ITER``, ``SOLVER.CHECKPOINT_PERIOD`` and ``TEST.EVAL_PERIOD``.
    - ``SOLVER.WARMUP_ITERS`` -1 becomes ``min(1000, I - 1)``, and less than ``MAX_ITER``.
    - A ``SOLVER.CHECKPOINT_PERIOD`` of 0 means: only the final checkpoint.

    Args:
        cfg: changed in place.
        iterations_per_epoch: I, see ``spnet_d2.data.loaders.iterations_per_epoch``.

    Raises:
        ValueError: no iterations, a negative number of epochs, or a warm-up that does not end
            before the training does.
    """
    for epochs_key, iterations_key in _EPOCH_KEYS.items():
        epochs = get_value(cfg, epochs_key)
        if epochs < 0:
            raise ValueError(
                f"{epochs_key} is {epochs}; expected 0 ({iterations_key} counts) or more."
            )
        if epochs > 0:
            _set(cfg, iterations_key, epochs * iterations_per_epoch)
    solver = cfg.SOLVER
    if solver.MAX_ITER < 1:
        raise ValueError(
            f"SOLVER.MAX_ITER is {solver.MAX_ITER} and SOLVER.EPOCHS {solver.EPOCHS}, so there is "
            "nothing to train; set one of them to 1 or more."
        )
    if solver.WARMUP_ITERS < 0:
        wanted = min(_MAX_WARMUP_ITERS, iterations_per_epoch - 1)
        solver.WARMUP_ITERS = min(wanted, solver.MAX_ITER - 1)
    if solver.WARMUP_ITERS >= solver.MAX_ITER:
        raise ValueError(
            f"SOLVER.WARMUP_ITERS ({solver.WARMUP_ITERS}) must be less than SOLVER.MAX_ITER "
            f"({solver.MAX_ITER}); -1 chooses min({_MAX_WARMUP_ITERS}, iterations per epoch - 1)."
        )
    if solver.CHECKPOINT_PERIOD < 1:
        solver.CHECKPOINT_PERIOD = solver.MAX_ITER
    logger.info(
        "%d iterations per epoch: training for %d iterations, %d of them warm-up; checkpoint "
        "every %d, evaluation every %d (0: at the end).",
        iterations_per_epoch,
        solver.MAX_ITER,
        solver.WARMUP_ITERS,
        solver.CHECKPOINT_PERIOD,
        cfg.TEST.EVAL_PERIOD,
    )


def _set(cfg: CfgNode, key: str, value: int) -> None:
    section, _, name = key.partition(".")
    cfg[section][name] = value
