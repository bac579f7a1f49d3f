"""Keys that SPNet doesn't read: names that are not there, and Detectron2's of other models.

Setting one would change nothing, and neither yacs nor Detectron2 would say so.
"""

import difflib
import functools
from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode, get_cfg

from spnet_d2.config import add_spnet_config
from spnet_d2.config_node import REMOVED_KEYS, RENAMED_KEYS

# This project's classes; others may read whatever keys they like.
_MODELS = ("SPNet", "SeqNet", "SeqNeXt")
_COMPONENTS = {
    "MODEL.BACKBONE.NAME": "TimmFPN",
    "MODEL.PROPOSAL_GENERATOR.NAME": "SwapPathProposalGenerator",
    "MODEL.ROI_HEADS.NAME": "SPNetROIHeads",
}
# Detectron2's keys and sections that SPNet and its trainer read.
_READ = (
    *("VERSION", "OUTPUT_DIR", "SEED", "CUDNN_BENCHMARK", "GLOBAL"),
    *("MODEL.DEVICE", "MODEL.WEIGHTS", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"),
    *("MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.ROI_HEADS.SCORE_THRESH_TEST"),
    "MODEL.ROI_HEADS.NMS_THRESH_TEST",
    *("INPUT.MIN_SIZE_TRAIN", "INPUT.MAX_SIZE_TRAIN", "INPUT.MIN_SIZE_TEST"),
    *("INPUT.MAX_SIZE_TEST", "INPUT.RANDOM_FLIP", "INPUT.FORMAT"),
    *("DATASETS.TRAIN", "DATASETS.TEST"),
    *("DATALOADER.NUM_WORKERS", "DATALOADER.FILTER_EMPTY_ANNOTATIONS"),
    "SOLVER",
    *("TEST.EVAL_PERIOD", "TEST.DETECTIONS_PER_IMAGE", "TEST.EXPECTED_RESULTS"),
)
# A key or section of Detectron2 that SPNet doesn't read -> what does the like of it.
INSTEAD = {
    "MODEL.BACKBONE.FREEZE_AT": "MODEL.SPNET.BACKBONE.FREEZE",
    "MODEL.RESNETS": "MODEL.SPNET.BACKBONE.NAME",
    "MODEL.RESNETS.NORM": "MODEL.SPNET.SYNC_BN",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": "MODEL.SPNET.ANCHORS_PER_IMAGE",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": "MODEL.SPNET.ANCHORS_PER_IMAGE",
    "MODEL.RPN.POST_NMS_TOPK_TEST": "TEST.DETECTIONS_PER_IMAGE",
    "MODEL.RPN.NMS_THRESH": "MODEL.ROI_HEADS.NMS_THRESH_TEST",
    "MODEL.RETINANET.SCORE_THRESH_TEST": "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "MODEL.RETINANET.NMS_THRESH_TEST": "MODEL.ROI_HEADS.NMS_THRESH_TEST",
    "INPUT.CROP": "INPUT.CROP_SIZE, with INPUT.AUG_TRAIN",
}
# Why, where it isn't for another kind of model.
_REASONS = {
    "TEST.PRECISE_BN": "its passes over the training data would fill the re-id memories",
    "MODEL.ANCHOR_GENERATOR": "the anchors are the paper's",
    "MODEL.FPN": "the FPN is as wide as the trunk's stride-16 map",
}


def unread_keys(cfg: CfgNode) -> Iterator[str]:
    """A sentence for each key that was set to no effect."""
    known, detectron2 = _defaults()
    model = cfg.MODEL.META_ARCHITECTURE
    ours = model in _MODELS and all(known[key] == _value(cfg, key) for key in _COMPONENTS)
    for key, value in keys_and_values(cfg):
        if key not in known:
            yield from _stray(key, ours)
        elif ours and key in detectron2 and _plain(value) not in (known[key], detectron2[key]):
            yield from _of_another_model(key, value, model)


def default_of(key: str) -> Any:
    """A key's value where nobody sets it, lists for tuples; None: there is no such key."""
    return _defaults()[0].get(key)


def keys_and_values(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The keys of a config, sections joined by dots, with their values."""
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from keys_and_values(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@functools.cache
def _defaults() -> tuple[dict[str, Any], dict[str, Any]]:
    """Of this project, and of Detectron2, by key."""
    cfg = get_cfg()
    before = _by_key(cfg)
    add_spnet_config(cfg)
    return _by_key(cfg), before


def _by_key(cfg: CfgNode) -> dict[str, Any]:
    return {key: _plain(value) for key, value in keys_and_values(cfg)}


def _plain(value: Any) -> Any:
    """With lists for tuples, which files have in their place."""
    return [*map(_plain, value)] if isinstance(value, list | tuple) else value


def _value(cfg: CfgNode, key: str) -> Any:
    return functools.reduce(lambda node, name: node[name], key.split("."), cfg)


def _stray(key: str, ours: bool) -> Iterator[str]:
    """About a key that nobody declared; yacs takes any that code assigns."""
    if key in RENAMED_KEYS:
        yield f"{key} is now {RENAMED_KEYS[key]}."
    elif key in REMOVED_KEYS:
        yield f"{key} is no longer there: leave it out."
    elif ours and key.startswith("MODEL.SPNET."):
        own = [name for name in _defaults()[0] if name.startswith("MODEL.SPNET.")]
        close = difflib.get_close_matches(key, own, n=3)
        told = f"; similar ones: {', '.join(close)}" if close else ""
        yield f"There is no key {key}{told}."
    elif similar := _slip_of_the_pen(key):
        yield f"There is no key {key}; a similar one is {similar}."


def _slip_of_the_pen(key: str) -> str:
    """The key that is meant, where that is clear: other projects have keys of their own."""
    section, _, name = key.rpartition(".")
    beside = [known for known in _defaults()[0] if known.rpartition(".")[0] == section]
    names = [known.rpartition(".")[2] for known in beside]
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.88)
    return f"{section}.{match[0]}" if match else ""


def _of_another_model(key: str, value: Any, model: str) -> Iterator[str]:
    sections = list(_with_sections(key))
    if key in ("MODEL.META_ARCHITECTURE", *_COMPONENTS) or any(name in _READ for name in sections):
        return
    instead = next((INSTEAD[name] for name in sections if name in INSTEAD), "")
    reason = next((f": {_REASONS[name]}" for name in sections if name in _REASONS), "")
    # What the like of it is in SPNet may have no effect on another model.
    if instead and model == "SPNet":
        yield f"{key} is {value!r}, which SPNet does not read; set {instead} instead."
    else:
        yield f"{key} is {value!r}, which has no effect on {model}{reason}: leave it out."


def _with_sections(key: str) -> Iterator[str]:
    """The key, then the sections it is in, from the innermost on."""
    while key:
        yield key
        key = key.rpartition(".")[0]
