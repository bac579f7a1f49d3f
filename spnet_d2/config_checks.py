"""Values and combinations of settings that can't work, found before a job does anything."""

from collections.abc import Callable, Iterator

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
)
from detectron2.utils import comm

from spnet_d2.config_keys import unread_keys
from spnet_d2.config_node import EPOCH_KEYS
from spnet_d2.config_reader import ConfigError, get_value
from spnet_d2.data.catalog import similar_names
from spnet_d2.data.corrupt_images import POLICIES
from spnet_d2.data.own_sets import OwnSetsError, check_sets, register_sets
from spnet_d2.data.self_supervised_boxes import MODES as SSL_MODES
from spnet_d2.modeling.backbone import FPN_INITS
from spnet_d2.modeling.box_embedder import ROI_POOLINGS, ROI_SIZE
from spnet_d2.modeling.fixed_norm import LOGIT_TYPES
from spnet_d2.modeling.gallery_filter.network import MODES, QUERIES
from spnet_d2.modeling.pair_sampler import MATCH_MODES
from spnet_d2.modeling.precision import PRECISIONS
from spnet_d2.modeling.reid_losses import REID_LOSSES
from spnet_d2.modeling.swap_path import PATHWAYS

_INFINITE = float("inf")
# Warm-up lasts min(1000, I - 1) iterations, I = iterations per epoch.
MAX_WARMUP_ITERS = 1000

_CHOICES = {
    "MODEL.SPNET.ANCHOR_LOGITS": LOGIT_TYPES,
    "MODEL.SPNET.CLS_LOGITS": (*LOGIT_TYPES, "mlp"),
    "MODEL.SPNET.PATHWAY": PATHWAYS,
    "MODEL.SPNET.TEST_PATHWAY": ("", *PATHWAYS),
    "MODEL.SPNET.QC.MATCH_MODE": MATCH_MODES,
    "MODEL.SPNET.GFN.MODE": MODES,
    "MODEL.SPNET.GFN.QUERIES": QUERIES,
    "MODEL.SPNET.SMALL_DATA.FPN_INIT": FPN_INITS,
    "MODEL.SPNET.SMALL_DATA.ROI_POOLING": ("", *ROI_POOLINGS),
    "MODEL.SPNET.TEST.PRECISION": PRECISIONS,
    "SOLVER.AMP.PRECISION": PRECISIONS[1:],
    "SOLVER.ON_BAD_BATCH": ("stop", "skip"),
    "TEST.EMBEDDING_DTYPE": ("float32", "float16"),
    "DATALOADER.ON_CORRUPT_IMAGE": POLICIES,
    "INPUT.SSL_BOXES": ("", *SSL_MODES),
    # What the model normalises; DefaultPredictor turns its BGR images into it.
    "INPUT.FORMAT": ("RGB",),
    # A person.
    "MODEL.ROI_HEADS.NUM_CLASSES": (1,),
}
# Classes a key may name; others register theirs, too.
_REGISTRIES = {
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
    "MODEL.ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
    "MODEL.SPNET.REID.LOSS": REID_LOSSES,
}
# Both limits are allowed.
_RANGES = {
    "MODEL.SPNET.NUM_CASCADES": (0, _INFINITE),
    "MODEL.SPNET.SMALL_DATA.BOX_LOSS_WEIGHT": (0, _INFINITE),
    "MODEL.SPNET.SMALL_DATA.ROI_STRIPES": (1, ROI_SIZE),
    "MODEL.SPNET.SMALL_DATA.ROI_MARGIN": (0, 0.4),
    "MODEL.SPNET.REID.LOSS_WEIGHT": (0, _INFINITE),
    "MODEL.SPNET.GFN.LOSS_WEIGHT": (0, _INFINITE),
    "MODEL.SPNET.MOMENTUM_TWIN.MOMENTUM": (0, 1),
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": (0, 1),
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": (0, 1),
}
_COUNTS = (
    "MODEL.SPNET.ANCHORS_PER_IMAGE",
    "MODEL.SPNET.QC.ANCHORS_PER_PAIR",
    "MODEL.SPNET.QC.PAIRS_PER_BATCH",
    "TEST.DETECTIONS_PER_IMAGE",
)
_POSITIVE = ("MODEL.SPNET.REID.SCALE",)


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
    problems = [*unread_keys(cfg), *_wrong_values(cfg), *_clashes(cfg)]
    if training:
        problems += _training_clashes(cfg, processes or comm.get_world_size())
    if problems:
        raise ConfigError("Settings that can't work: " + " ".join(problems))


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
    try:
        # A config may come from elsewhere than read_config.
        register_sets(cfg.DATASETS.FILES)
        check_sets(cfg.DATASETS.FILES, [name for key in keys for name in get_value(cfg, key)])
    except OwnSetsError as error:
        raise ConfigError(str(error)) from error
    for key in keys:
        for name in get_value(cfg, key):
            if name in DatasetCatalog:
                continue
            names = ", ".join(similar_names(name))
            similar = f" Similar ones: {names}." if names else ""
            raise ConfigError(
                f"{key} has {name!r}, which is not registered.{similar} datasets/README.md lists "
                "all names, and says how to register data of your own: by a YAML file in "
                "DATASETS.FILES, or by a script that calls register_person_search of "
                "spnet_d2.data.catalog before it builds the Trainer, in every process."
            )


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


def _wrong_values(cfg: CfgNode) -> Iterator[str]:
    for key, choices in _CHOICES.items():
        value = get_value(cfg, key)
        if value not in choices:
            yield f"{key} is {value!r}, expected one of {', '.join(map(_shown, choices))}."
    # Then the file is one of another project, and its other names are no news.
    model = cfg.MODEL.META_ARCHITECTURE
    if model not in META_ARCH_REGISTRY or not issubclass(
        META_ARCH_REGISTRY.get(model), META_ARCH_REGISTRY.get("SPNet")
    ):
        yield f"MODEL.META_ARCHITECTURE is {model!r}, expected SPNet or a class derived from it."
    else:
        for key, registry in _REGISTRIES.items():
            value = get_value(cfg, key)
            usable = [name for name, part in registry if not _of_detectron2(part)]
            if value not in usable:
                yield f"{key} is {value!r}, expected one of {', '.join(usable)}."
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError:
        yield f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}, expected cpu, cuda or one such as cuda:1."
    for key, (low, high) in _RANGES.items():
        value = get_value(cfg, key)
        # Not true of NaN either.
        if not low <= value <= high:
            expected = f"{low} or more" if high == _INFINITE else f"{low} to {high}"
            yield f"{key} is {value}, expected {expected}."
    for key in _COUNTS:
        count = get_value(cfg, key)
        if count < 1:
            yield f"{key} must be 1 or more, found {count}."
    for key in _POSITIVE:
        value = get_value(cfg, key)
        if not value > 0:
            yield f"{key} is {value}, expected more than 0."


def _shown(choice: object) -> str:
    return repr(choice) if choice == "" else str(choice)


def _of_detectron2(part: Callable) -> bool:
    """Whether it is of Detectron2's own models, whose parts don't go together with SPNet's."""
    return part.__module__.partition(".")[0] == "detectron2"


def _clashes(cfg: CfgNode) -> Iterator[str]:
    spnet = cfg.MODEL.SPNET
    if spnet.GFN.ENABLED:
        yield from _gallery_filter_clashes(cfg)
    jitter, share = spnet.SMALL_DATA.BOX_JITTER, spnet.SMALL_DATA.FEAT4_SHARE
    if not 0 <= jitter < 0.5:
        yield f"MODEL.SPNET.SMALL_DATA.BOX_JITTER is {jitter}, expected 0 to less than 0.5."
    if not 1 <= spnet.REID_DIM * share <= spnet.REID_DIM:
        yield (
            f"MODEL.SPNET.SMALL_DATA.FEAT4_SHARE is {share}, expected a share of REID_DIM "
            f"({spnet.REID_DIM}) between one dimension and all (1.0)."
        )
    if not spnet.SEPARATE_HEADS and spnet.EMBED_DIM != spnet.REID_DIM:
        yield (
            "MODEL.SPNET.SEPARATE_HEADS is False, so there is one embedding for re-id and "
            f"localisation, but MODEL.SPNET.EMBED_DIM is {spnet.EMBED_DIM} and "
            f"MODEL.SPNET.REID_DIM {spnet.REID_DIM}: make them equal, or the heads separate."
        )


def _gallery_filter_clashes(cfg: CfgNode) -> Iterator[str]:
    spnet = cfg.MODEL.SPNET
    if "QC" in (spnet.PATHWAY, spnet.TEST_PATHWAY):
        yield (
            "MODEL.SPNET.GFN.ENABLED scores scenes for detections that serve all queries, but "
            "MODEL.SPNET.PATHWAY or TEST_PATHWAY is QC: set them to OC, or turn the filter off."
        )
    if spnet.GFN.QUERIES == "oim" and spnet.REID.LOSS != "oim":
        yield (
            "MODEL.SPNET.GFN.QUERIES is oim, but MODEL.SPNET.REID.LOSS is "
            f"{spnet.REID.LOSS}, which has no look-up table: set QUERIES to batch."
        )
    if spnet.REID.ONLY:
        yield (
            "MODEL.SPNET.REID.ONLY drops the loss of MODEL.SPNET.GFN.ENABLED: set one of them to "
            "False."
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
