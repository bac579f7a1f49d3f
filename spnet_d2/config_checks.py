"""Values and combinations of settings that can't work, found before a job does anything."""

from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.utils import comm

from spnet_d2.config_keys import unread_keys
from spnet_d2.config_node import EPOCH_KEYS
from spnet_d2.config_reader import ConfigError, get_value
from spnet_d2.data.catalog import unregistered
from spnet_d2.data.corrupt_images import POLICIES
from spnet_d2.data.own_sets import OwnSetsError, check_sets, register_sets
from spnet_d2.data.self_supervised_boxes import MODES as SSL_MODES
from spnet_d2.data.transforms import build_augmentation
from spnet_d2.modeling.config_problems import (
    model_problems,
    out_of_range,
    raise_problems,
    wrong_choices,
)
from spnet_d2.modeling.precision import PRECISIONS
from spnet_d2.modeling.reid_losses import REID_LOSSES

# Warm-up lasts min(1000, I - 1) iterations, I = iterations per epoch.
MAX_WARMUP_ITERS = 1000
_CHOICES = {
    "SOLVER.AMP.PRECISION": PRECISIONS[1:],
    "SOLVER.ON_BAD_BATCH": ("stop", "skip"),
    "TEST.EMBEDDING_DTYPE": ("float32", "float16"),
    "DATALOADER.ON_CORRUPT_IMAGE": POLICIES,
    "INPUT.SSL_BOXES": ("", *SSL_MODES),
}
_WITHOUT_LIMIT = float("inf")
# A slip of the finger must not fill the machine with processes.
_MOST_WORKERS = 1024
# Of training; finite numbers, both limits are allowed. Some need not be set (None).
_RANGES = {
    "SOLVER.BASE_LR": (0, _WITHOUT_LIMIT),
    "SOLVER.BASE_LR_END": (0, _WITHOUT_LIMIT),
    "SOLVER.BIAS_LR_FACTOR": (0, _WITHOUT_LIMIT),
    "SOLVER.BACKBONE_LR": (-1, _WITHOUT_LIMIT),
    "SOLVER.BACKBONE_WEIGHT_DECAY": (-1, _WITHOUT_LIMIT),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": (0, _WITHOUT_LIMIT),
    "SOLVER.GAMMA": (0, _WITHOUT_LIMIT),
    "SOLVER.MOMENTUM": (0, 1),
    "SOLVER.WARMUP_FACTOR": (0, 1),
    "SOLVER.WEIGHT_DECAY": (0, _WITHOUT_LIMIT),
    "SOLVER.WEIGHT_DECAY_BIAS": (0, _WITHOUT_LIMIT),
    "SOLVER.WEIGHT_DECAY_NORM": (0, _WITHOUT_LIMIT),
}


def check_config(cfg: CfgNode, training: bool = True, processes: int | None = None) -> None:
    """
    Look for what can't work, whatever the data are.

    Args:
        cfg: of a job.
        training: False for an evaluation, which takes any training's settings.
        processes: that will share a batch, if they haven't started yet.

    Raises:
        ConfigError: it names all keys that are out of range or clash, with their values.
    """
    problems = [*unread_keys(cfg), *model_problems(cfg), *wrong_choices(cfg, _CHOICES)]
    problems += out_of_range(cfg, {"DATALOADER.NUM_WORKERS": (0, _MOST_WORKERS)})
    problems += _no_names(cfg, "TEST.PROTOCOLS")
    problems += _augmentation_problems(cfg, training)
    if cfg.SEED >= 2**32:
        problems.append(
            f"SEED is {cfg.SEED}, expected 0 to {2**32 - 1}, or -1 for another each time."
        )
    if training:
        problems += out_of_range(cfg, _RANGES)
        problems += _training_clashes(cfg, processes or comm.get_world_size())
    raise_problems(problems)


def _augmentation_problems(cfg: CfgNode, training: bool) -> Iterator[str]:
    for is_train in (False, True) if training else (False,):
        try:
            build_augmentation(cfg, is_train)
        # The second one: of numbers that are none.
        except (ValueError, TypeError) as error:
            yield f"{error}" if isinstance(error, ValueError) else f"INPUT: {error}."
            return


def _no_names(cfg: CfgNode, key: str) -> Iterator[str]:
    names = get_value(cfg, key)
    if isinstance(names, str):
        yield f"{key} is {names!r}, expected a tuple of names: ({names!r},)."
    elif not all(isinstance(name, str) for name in names):
        yield f"{key} is {names}, expected a tuple of names, as text."


def check_data_sets(cfg: CfgNode, training: bool = True) -> None:
    """
    Look for data sets that nobody registered, and for files that ``DATASETS.FILES`` names.

    Whether the files of the other data sets are there is seen later.

    Args:
        cfg: of a job.
        training: False for an evaluation, which takes no training sets.

    Raises:
        ConfigError: it names them, and similar names that are registered.
    """
    keys = ("DATASETS.TRAIN", "DATASETS.TEST") if training else ("DATASETS.TEST",)
    raise_problems([problem for key in keys for problem in _no_names(cfg, key)])
    try:
        # A config may come from elsewhere than read_config.
        register_sets(cfg.DATASETS.FILES)
        check_sets(cfg.DATASETS.FILES, [name for key in keys for name in get_value(cfg, key)])
    except OwnSetsError as error:
        raise ConfigError(str(error)) from error
    for key in keys:
        for name in get_value(cfg, key):
            if name not in DatasetCatalog:
                raise ConfigError(f"{key} has {unregistered(name)}")


def check_schedule(cfg: CfgNode, resolved: bool = False) -> None:
    """
    Look for a schedule that can't be trained, whatever the data are.

    Args:
        cfg: of a job.
        resolved: its epochs have become iterations.

    Raises:
        ConfigError: no iterations, a negative number of epochs, or a warm-up that does not end
            before the training does.
    """
    problem = next(_impossible_schedule(cfg, resolved), None)
    if problem:
        raise ConfigError(problem)


def _impossible_schedule(cfg: CfgNode, resolved: bool = False) -> Iterator[str]:
    solver = cfg.SOLVER
    for iterations_key, epochs_key in EPOCH_KEYS.items():
        epochs = get_value(cfg, epochs_key)
        if epochs < 0:
            yield f"{epochs_key} is {epochs}; expected 0 ({iterations_key} counts) or more."
    if max(solver.MAX_ITER, solver.EPOCHS) < 1:
        yield (
            f"SOLVER.MAX_ITER is {solver.MAX_ITER} and SOLVER.EPOCHS {solver.EPOCHS}, so there is "
            "nothing to train; set one of them to 1 or more."
        )
    elif (resolved or solver.EPOCHS < 1) and solver.WARMUP_ITERS >= solver.MAX_ITER:
        yield (
            f"SOLVER.WARMUP_ITERS ({solver.WARMUP_ITERS}) must be less than SOLVER.MAX_ITER "
            f"({solver.MAX_ITER}); -1 chooses min({MAX_WARMUP_ITERS}, iterations per epoch - 1)."
        )


def _reid_loss_clashes(cfg: CfgNode) -> Iterator[str]:
    reid = cfg.MODEL.SPNET.REID
    loss = REID_LOSSES.get(reid.LOSS)
    if "teacher" in loss.takes and not cfg.MODEL.SPNET.MOMENTUM_TWIN.ENABLED:
        yield (
            f"MODEL.SPNET.REID.LOSS is {reid.LOSS}, but MODEL.SPNET.MOMENTUM_TWIN.ENABLED, whose "
            "embeddings it takes, is False: set it to True."
        )
    if cfg.INPUT.SSL_BOXES and loss.id_field == "gt_identities" and reid.LOSS_WEIGHT > 0:
        yield (
            f"INPUT.SSL_BOXES is {cfg.INPUT.SSL_BOXES}, but MODEL.SPNET.REID.LOSS {reid.LOSS} has "
            "no row for the people of random boxes: set it to momentum_queue."
        )


def _training_clashes(cfg: CfgNode, processes: int) -> Iterator[str]:
    yield from _impossible_schedule(cfg)
    spnet, reid = cfg.MODEL.SPNET, cfg.MODEL.SPNET.REID
    if reid.LOSS in REID_LOSSES:
        yield from _reid_loss_clashes(cfg)
    if spnet.COMPILE and spnet.ACTIVATION_CHECKPOINTING:
        yield (
            "MODEL.SPNET.COMPILE can't compile the blocks that "
            "MODEL.SPNET.ACTIVATION_CHECKPOINTING repeats: set one of them to False."
        )
    if reid.ONLY and spnet.LWF.ENABLED:
        yield (
            "MODEL.SPNET.REID.ONLY drops the loss of MODEL.SPNET.LWF.ENABLED: set one of them to "
            "False."
        )
    if reid.ONLY and reid.LOSS_WEIGHT == 0:
        yield (
            "MODEL.SPNET.REID.ONLY leaves no loss, as MODEL.SPNET.REID.LOSS_WEIGHT is 0: change "
            "one of them."
        )
    images, steps = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATION_STEPS
    views = cfg.DATALOADER.VIEWS_PER_IMAGE
    if min(images, steps, views) < 1 or images % (steps * views * processes):
        yield (
            f"SOLVER.IMS_PER_BATCH is {images}, but SOLVER.ACCUMULATION_STEPS {steps} times "
            f"DATALOADER.VIEWS_PER_IMAGE {views} times the number of processes, {processes}, must "
            "divide it, for parts of equal size that have all views of an image."
        )
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference < 0 or (reference > 0 and images % reference):
        yield (
            f"SOLVER.REFERENCE_WORLD_SIZE is {reference}, expected 0 (nothing is scaled) or a "
            f"number of processes that divides SOLVER.IMS_PER_BATCH, {images}."
        )
