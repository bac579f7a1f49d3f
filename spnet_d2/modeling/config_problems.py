"""Values and combinations of ``MODEL`` and what else a model reads that can't work."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
)

from spnet_d2.checkpoint.transfer import CASCADES
from spnet_d2.config_keys import unread_keys
from spnet_d2.config_reader import ConfigError, get_value

from .backbone import FPN_INITS
from .box_embedder import ROI_POOLINGS, ROI_SIZE
from .fixed_norm import LOGIT_TYPES
from .gallery_filter.fuser import FUSERS
from .gallery_filter.network import MODES, QUERIES
from .pair_sampler import MATCH_MODES
from .precision import PRECISIONS
from .reid_losses import REID_LOSSES
from .seqnet_settings import seqnet_problems
from .swap_path import BRIDGES, PATHWAYS

_INFINITE = float("inf")

_CHOICES = {
    "MODEL.SPNET.ANCHOR_LOGITS": LOGIT_TYPES,
    "MODEL.SPNET.CLS_LOGITS": (*LOGIT_TYPES, "mlp"),
    "MODEL.SPNET.PATHWAY": PATHWAYS,
    "MODEL.SPNET.TEST_PATHWAY": ("", *PATHWAYS),
    "MODEL.SPNET.QC.MATCH_MODE": MATCH_MODES,
    "MODEL.SPNET.GFN.MODE": MODES,
    "MODEL.SPNET.GFN.ACTIVATION": tuple(FUSERS),
    "MODEL.SPNET.INIT.CASCADE": CASCADES,
    "MODEL.SPNET.INIT.BRIDGE": BRIDGES,
    "MODEL.SPNET.GFN.QUERIES": QUERIES,
    "MODEL.SPNET.SMALL_DATA.FPN_INIT": FPN_INITS,
    "MODEL.SPNET.SMALL_DATA.ROI_POOLING": ("", *ROI_POOLINGS),
    "MODEL.SPNET.TEST.PRECISION": PRECISIONS,
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
# Finite numbers; both limits are allowed.
_RANGES = {
    "MODEL.SPNET.NUM_CASCADES": (0, 100),
    # Negative: the reference's.
    "MODEL.SPNET.BACKBONE.DROP_PATH_RATE": (-_INFINITE, 1),
    "MODEL.SPNET.SMALL_DATA.ANCHOR_BIAS": (-1000, 1000),
    "MODEL.SPNET.SMALL_DATA.BOX_LOSS_WEIGHT": (0, _INFINITE),
    "MODEL.SPNET.SMALL_DATA.ROI_STRIPES": (1, ROI_SIZE),
    "MODEL.SPNET.SMALL_DATA.ROI_MARGIN": (0, 0.4),
    "MODEL.SPNET.REID.LOSS_WEIGHT": (0, _INFINITE),
    "MODEL.SPNET.GFN.LOSS_WEIGHT": (0, _INFINITE),
    "MODEL.SPNET.MOMENTUM_TWIN.MOMENTUM": (0, 1),
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": (0, 1),
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": (0, 1),
    "INPUT.MIN_VISIBILITY": (0, 1),
}
_COUNTS = (
    "MODEL.SPNET.ANCHORS_PER_IMAGE",
    "MODEL.SPNET.QC.ANCHORS_PER_PAIR",
    "MODEL.SPNET.QC.PAIRS_PER_BATCH",
    "TEST.DETECTIONS_PER_IMAGE",
)
# Of each of these counts.
_MOST = 10**6
# Libraries keep sizes in 32 bits here and there.
_TOO_LARGE = 2**31
# Detectors with parts of their own; .seqnet_settings says which of this project's keys they read.
SEQUENTIAL = ("SeqNet", "SeqNeXt")
_POSITIVE = ("MODEL.SPNET.REID.SCALE",)


def check_model_config(cfg: CfgNode) -> None:
    """
    Look for what no model can be built of.

    Raises:
        ConfigError: it names all keys that are unknown, out of range or clash, with their values.
    """
    raise_problems([*unread_keys(cfg), *model_problems(cfg)])


def raise_problems(problems: Sequence[str]) -> None:
    """All of them in one error, if there are any."""
    if problems:
        raise ConfigError("Settings that can't work: " + " ".join(problems))


def model_problems(cfg: CfgNode) -> Iterator[str]:
    """A sentence for each value that can't be, and each combination."""
    for section in ("MODEL", "INPUT", "SOLVER", "DATALOADER", "TEST"):
        yield from _too_large(cfg[section], section)
    yield from _wrong_values(cfg)
    yield from _clashes(cfg)
    if cfg.MODEL.META_ARCHITECTURE in SEQUENTIAL:
        yield from seqnet_problems(cfg)


def wrong_choices(cfg: CfgNode, choices: Mapping[str, Sequence]) -> Iterator[str]:
    """A sentence for each key whose value is none of its choices."""
    for key, known in choices.items():
        value = get_value(cfg, key)
        if value not in known:
            yield f"{key} is {value!r}, expected one of {', '.join(map(_shown, known))}."


def out_of_range(cfg: CfgNode, ranges: Mapping[str, tuple[float, float]]) -> Iterator[str]:
    """A sentence for each key whose value is no finite number within its limits; None is none."""
    for key, (low, high) in ranges.items():
        value = get_value(cfg, key)
        # Not true of NaN either.
        number = isinstance(value, int | float) and low <= value <= high and abs(value) < _INFINITE
        if value is None or number:
            continue
        limits = f"{low} to {high}" if abs(low) < _INFINITE else f"{high} or less"
        yield f"{key} is {value!r}, expected {f'{low} or more' if high == _INFINITE else limits}."


def _wrong_colours(cfg: CfgNode) -> Iterator[str]:
    for key in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"):
        values = get_value(cfg, key)
        numbers = [v for v in values if isinstance(v, int | float) and abs(v) < _INFINITE]
        if len(numbers) != 3 or len(values) != 3 or (key.endswith("STD") and min(numbers) <= 0):
            kind = "three numbers" + (" above 0" if key.endswith("STD") else "")
            yield f"{key} is {tuple(values)}, expected {kind}, of red, green and blue in 0..255."


def _too_large(cfg: CfgNode, section: str) -> Iterator[str]:
    for name, value in cfg.items():
        key = f"{section}.{name}"
        if isinstance(value, CfgNode):
            yield from _too_large(value, key)
        elif isinstance(value, int) and abs(value) >= _TOO_LARGE:
            yield f"{key} is {value}, expected a number below {_TOO_LARGE:,}."


def _wrong_values(cfg: CfgNode) -> Iterator[str]:
    yield from wrong_choices(cfg, _CHOICES)
    # Otherwise the config is of another project: its other names are not reported as well.
    model = cfg.MODEL.META_ARCHITECTURE
    if model in SEQUENTIAL:
        pass
    elif model not in META_ARCH_REGISTRY or not issubclass(
        META_ARCH_REGISTRY.get(model), META_ARCH_REGISTRY.get("SPNet")
    ):
        yield (
            f"MODEL.META_ARCHITECTURE is {model!r}, expected SPNet or a class derived from it, "
            "SeqNet or SeqNeXt."
        )
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
    yield from out_of_range(cfg, _RANGES)
    yield from _wrong_colours(cfg)
    for key in _COUNTS:
        count = get_value(cfg, key)
        if count < 1:
            yield f"{key} must be 1 or more, found {count}."
        elif count > _MOST:
            yield f"{key} is {count}, expected {_MOST:,} or less."
    for key in _POSITIVE:
        value = get_value(cfg, key)
        if not 0 < value < _INFINITE:
            yield f"{key} is {value}, expected more than 0, and a finite number."


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
    loss = REID_LOSSES.get(spnet.REID.LOSS) if spnet.REID.LOSS in REID_LOSSES else None
    if spnet.MOMENTUM_TWIN.ENABLED and loss and "teacher" not in loss.takes:
        yield (
            "MODEL.SPNET.MOMENTUM_TWIN.ENABLED fills the momentum queue, but MODEL.SPNET.REID.LOSS "
            f"is {spnet.REID.LOSS!r}: set that to momentum_queue, or the first to False."
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
    if spnet.GFN.MODE != "combined" and spnet.GFN.ACTIVATION != "se":
        yield (
            f"MODEL.SPNET.GFN.ACTIVATION is {spnet.GFN.ACTIVATION}, but MODEL.SPNET.GFN.MODE "
            f"{spnet.GFN.MODE} has none: leave it out, or set MODE to combined."
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
