"""Checkpoints of the authors' code (package ``osr``, repository LLNL/spnet).

Their files are Lightning checkpoints: parameters under ``state_dict``, named ``model.*``. Names
map one to one to ours; the architecture is read off names and shapes.
"""

import logging
import re
from collections.abc import Iterable, Mapping

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from torch import Tensor, nn

from ..config import add_spnet_config
from ..config_reader import merge_settings
from .misfits import misfits
from .trunk_families import VIT_UNSUPPORTED, Family, identify, rename
from .trunk_names import UNUSED

logger = logging.getLogger(__name__)

# Memories' buffers, of OIM and of the momentum queue.
_MEMORY = {
    "lut": "lut",
    "cq": "queue",
    "emb_cq": "queue",
    "label_cq": "labels",
    "age_cq": "ages",
}


def _detector(t: int) -> str:
    return "proposal_generator.box_detector" if t == 0 else f"roi_heads.box_detectors.{t - 1}"


def _swap_path(t: int) -> str:
    return "proposal_generator.swap_path" if t == 0 else f"roi_heads.swap_paths.{t - 1}"


def _rename_head(name: str, stage) -> str | None:
    """``head.`` parameters; ``stage`` renames what is in a stage copy."""
    if match := re.fullmatch(r"feature_head\.emb_pred\.(\w+)", name):
        return f"proposal_generator.anchor_embedder.conv.{match[1]}"
    if match := re.fullmatch(r"bridge_layer\.(\d+)\.linear\.(\w+)", name):
        return f"{_swap_path(int(match[1]))}.bridge.{match[2]}"
    if match := re.fullmatch(r"regression_head\.(\d+)\.tfm\.(\d)\.(\w+)", name):
        return f"{_detector(int(match[1]))}.box_head.0.{match[2]}.{match[3]}"
    if match := re.fullmatch(r"regression_head\.(\d+)\.head\.(\w+)", name):
        return f"{_detector(int(match[1]))}.box_head.1.{match[2]}"
    if match := re.fullmatch(r"anchor_classification_head\.logits\.norm\.(\w+)", name):
        return f"proposal_generator.anchor_logits.norm.{match[1]}"
    if match := re.fullmatch(r"classification_head\.(\d+)\.head\.norm\.(\w+)", name):
        return f"{_detector(int(match[1]))}.class_head.logits.norm.{match[2]}"
    if match := re.fullmatch(r"classification_head\.(\d+)\.tfm\.(\d)\.(\w+)", name):
        return f"{_detector(int(match[1]))}.class_head.transform.{match[2]}.{match[3]}"
    if match := re.fullmatch(r"align_emb_head\.emb_head\.(?:head|swin)\.(.+)", name):
        renamed = stage(match[1])
        return renamed and f"roi_heads.reid_embedder.copy.stage.{renamed}"
    if match := re.fullmatch(
        r"align_emb_head\.nae_head\.projectors\.feat_res([45])\.([01])\.(\w+)", name
    ):
        level = int(match[1]) - 4
        return f"roi_heads.reid_embedder.projectors.{level}.{match[2]}.{match[3]}"
    if match := re.fullmatch(r"align_emb_loc_head\.(\d+)\.emb_head\.(?:head|swin)\.(.+)", name):
        renamed = stage(match[2])
        return renamed and f"roi_heads.loc_embedders.{int(match[1]) - 1}.copy.stage.{renamed}"
    if match := re.fullmatch(r"align_emb_loc_head\.(\d+)\.head\.weight", name):
        return f"roi_heads.loc_embedders.{int(match[1]) - 1}.projection.weight"
    if match := re.fullmatch(r"reid_loss\.(?:train_reid_loss\.)?(\w+)", name):
        return _MEMORY.get(match[1]) and f"roi_heads.reid_loss.{_MEMORY[match[1]]}"
    if match := re.fullmatch(r"gfn\.fuser\.norm\.norm\.(\w+)", name):
        return UNUSED if match[1] == "num_batches_tracked" else f"gallery_filter.fuser.{match[1]}"
    if match := re.fullmatch(r"gfn\.head\.image_(reid|emb)_head\.(.+)", name):
        # Copies of the re-id branch's.
        part = {"reid": "emb_head", "emb": "nae_head"}[match[1]]
        renamed = _rename_head(f"align_emb_head.{part}.{match[2]}", stage)
        return renamed and renamed.replace("roi_heads.reid_embedder.", "gallery_filter.embedder.")
    if match := re.fullmatch(r"moco_align_emb_head\.(.+)", name):
        renamed = _rename_head(f"align_emb_head.{match[1]}", stage)
        return renamed and renamed.replace("roi_heads.", "twin.")
    return None


# Every checkpoint of theirs has it, nobody else's.
_FINGERPRINT = "head.feature_head.emb_pred.weight"


def tensors_of(state_dict: Mapping) -> dict[str, Tensor]:
    """
    Tensors of a checkpoint by the authors' names.

    Args:
        state_dict: a Lightning checkpoint (``state_dict`` beside other things, names with the
            prefix ``model.``) or a bare state dict.
    """
    state = state_dict.get("state_dict", state_dict)
    state = {k: v for k, v in state.items() if isinstance(v, Tensor)}
    if any(k.startswith("model.") for k in state):
        state = {k.removeprefix("model."): v for k, v in state.items()}
    return state


def is_llnl(state_dict: Mapping) -> bool:
    """Whether a Lightning checkpoint or a bare state dict is one of the authors' SPNet."""
    return _FINGERPRINT in tensors_of(state_dict)


def bridges_are_zero(state_dict: Mapping) -> bool:
    """Whether no bridge ever moved from its start, as in query-centric training."""
    state = tensors_of(state_dict)
    bridges = [t for name, t in state.items() if name.startswith("head.bridge_layer.")]
    return bool(bridges) and not any(t.any() for t in bridges)


def _strip(state_dict: Mapping) -> dict[str, Tensor]:
    """Parameters by the authors' names, from a Lightning checkpoint or a bare state dict."""
    state = tensors_of(state_dict)
    if _FINGERPRINT not in state:
        raise ValueError(
            f"This is no checkpoint of the authors' SPNet code: it has no {_FINGERPRINT!r}. First "
            f"names found: {', '.join(sorted(state)[:5]) or 'none'}."
        )
    return state


# Where the trunk's tensors are, below "backbone.".
_TRUNKS = ("body.", "swin.", "body.features.", "features.")


def _find_trunk(state: Mapping[str, Tensor]) -> tuple[str, Family, str]:
    """Our name of the trunk, the family that its tensors are named after, and their prefix."""
    for prefix in _TRUNKS:
        start = f"backbone.{prefix}"
        trunk = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
        if identified := identify(trunk):
            return *identified, prefix
    if any(k.startswith("backbone.vit.") for k in state):
        raise ValueError(f"The checkpoint's trunk is a plain vision transformer. {VIT_UNSUPPORTED}")
    raise ValueError(
        "The checkpoint's trunk is neither torchvision's ConvNeXt, Swin or ResNet-50 nor SOLIDER's "
        "Swin. Names found: "
        f"{', '.join([k for k in state if k.startswith('backbone.')][:5]) or 'no backbone.*'}."
    )


def _indices(state: Mapping, pattern: str) -> set[int]:
    return {int(m[1]) for k in state if (m := re.match(pattern, k))}


def infer_config(state_dict: Mapping) -> CfgNode:
    """
    Read the architecture of an authors' checkpoint off its names and shapes.

    Args:
        state_dict: a Lightning checkpoint or a bare state dict.

    Returns:
        A config with SPNet's keys; random backbone weights, and the constants that the authors
        pair with this memory.

    Raises:
        ValueError: no checkpoint of the authors', or one whose trunk is not known.
    """
    state = _strip(state_dict)
    cfg = get_cfg()
    add_spnet_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    options = cfg.MODEL.SPNET
    options.BACKBONE.NAME = _find_trunk(state)[0]
    options.BACKBONE.PRETRAINED = ""
    options.EMBED_DIM = len(state["head.feature_head.emb_pred.weight"]) // 9
    projectors = [f"head.align_emb_head.nae_head.projectors.feat_res{i}.0.bias" for i in (4, 5)]
    for name in projectors:
        if name not in state:
            raise ValueError(f"The checkpoint has no {name!r}, which tells the size of re-id.")
    options.REID_DIM = sum(len(state[name]) for name in projectors)
    options.NUM_CASCADES = len(_indices(state, r"head\.regression_head\.(\d+)\.head\.")) - 1
    options.SEPARATE_HEADS = bool(_indices(state, r"head\.align_emb_loc_head\.(\d+)\."))
    if "head.anchor_classification_head.logits.norm.weight" in state:
        options.ANCHOR_LOGITS = "batch_norm"
    if "head.classification_head.0.head.norm.weight" in state:
        options.CLS_LOGITS = "batch_norm"
    elif "head.classification_head.0.tfm.0.weight" in state:
        options.CLS_LOGITS = "mlp"
    for prefix in ("head.reid_loss.", "head.reid_loss.train_reid_loss."):
        if f"{prefix}lut" in state:
            options.REID.NUM_IDENTITIES = len(state[f"{prefix}lut"])
            options.REID.QUEUE_SIZE = len(state[f"{prefix}cq"])
        elif f"{prefix}emb_cq" in state:
            # Pre-training: temperature 0.1, twice the anchors per image.
            options.REID.LOSS = "momentum_queue"
            options.REID.QUEUE_SIZE = len(state[f"{prefix}emb_cq"])
            options.REID.SCALE = 10.0
            options.ANCHORS_PER_IMAGE = 256
    options.MOMENTUM_TWIN.ENABLED = any(k.startswith("moco_backbone.") for k in state)
    options.LWF.ENABLED = any(k.startswith("lwf_backbone.") for k in state)
    options.GFN.ENABLED = any(k.startswith("head.gfn.head.") for k in state)
    return cfg


_BACKBONES = {
    "backbone": "backbone",
    "moco_backbone": "twin.backbone",
    "lwf_backbone": "lwf.teacher",
}
# ImageNet classifiers of learning without forgetting (torchvision's ConvNeXt), theirs -> ours.
_CLASSIFIERS = {"backbone": "lwf.classifier", "lwf_backbone": "lwf.teacher_classifier"}
_CLASSIFIER_LAYERS = {"classifier.0": "head.norm", "classifier.2": "head.fc"}

# What training of theirs leaves behind and the model does not have, and second names.
_NOT_OURS = re.compile(
    r"head\.gfn\.(query_\w+|reid_loss)\.|head\.reid_loss\.test_reid_loss\.|lwf_backbone\.fpn\.|moco_backbone\.classifier\."
    r"|.*\.relative_position_index$|(moco_|lwf_)?backbone\.(norm|head)\."
)


def convert_state_dict(state_dict: Mapping) -> dict[str, Tensor]:
    """
    Rename an authors' checkpoint's tensors to ours.

    Args:
        state_dict: a Lightning checkpoint or a bare state dict.

    Returns:
        Our names -> tensors. The queue's write position and the gallery filter's step, which they
        don't save, are 0.

    Raises:
        ValueError: names that are unknown, the first of which it says.
    """
    state = _strip(state_dict)
    _, family, prefix = _find_trunk(state)
    converted = rename(
        state, family, lambda name: _rename(name, family, prefix), "a checkpoint of the authors"
    )
    if "roi_heads.reid_loss.queue" in converted:
        converted["roi_heads.reid_loss.queue_head"] = torch.zeros((), dtype=torch.int64)
    if any(name.startswith("gallery_filter.") for name in converted):
        converted["gallery_filter.step"] = torch.zeros((), dtype=torch.int64)
    return converted


def _rename(name: str, family: Family, prefix: str) -> str | None:
    if _NOT_OURS.match(name):
        return UNUSED
    part, _, rest = name.partition(".")
    if part == "head":
        return _rename_head(rest, family.stage)
    if part not in _BACKBONES:
        return None
    layer, _, kind = rest.rpartition(".")
    if layer in _CLASSIFIER_LAYERS and part in _CLASSIFIERS:
        return f"{_CLASSIFIERS[part]}.{_CLASSIFIER_LAYERS[layer]}.{kind}"
    if rest.startswith("fpn."):
        return f"{_BACKBONES[part]}.{rest}"
    if not rest.startswith(prefix):
        return None
    renamed = family.trunk(rest.removeprefix(prefix))
    return renamed and f"{_BACKBONES[part]}.trunk.{renamed}"


def _in_turn(overrides: Mapping | Iterable) -> list:
    """Keys and values in turn, as yacs takes them; values may be tuples."""
    pairs = list(overrides.items() if isinstance(overrides, Mapping) else overrides)
    if not pairs or isinstance(pairs[0], str):
        return pairs
    return [x for key, value in pairs for x in (key, value)]


def build_from_llnl(
    state_dict: Mapping, cfg: CfgNode | None = None, overrides: Mapping | Iterable = ()
) -> nn.Module:
    """
    Build an SPNet with the weights of an authors' checkpoint.

    Args:
        state_dict: a Lightning checkpoint or a bare state dict.
        cfg: the model's config; by default :func:`infer_config` reads it off the checkpoint.
        overrides: config keys and values on top of either: in turn, in pairs, or a mapping.

    Returns:
        The model, in training mode like any new one.

    Raises:
        ValueError: names or shapes that don't fit, naming the first ones.
    """
    cfg = infer_config(state_dict) if cfg is None else cfg.clone()
    cfg.defrost()
    merge_settings(cfg, _in_turn(overrides))
    converted = convert_state_dict(state_dict)
    # Every weight comes from the checkpoint.
    cfg.MODEL.SPNET.BACKBONE.PRETRAINED = ""
    if cfg.MODEL.SPNET.REID.NUM_IDENTITIES < 0:
        cfg.MODEL.SPNET.REID.NUM_IDENTITIES = len(converted.get("roi_heads.reid_loss.lut", ()))
    model = build_model(cfg)
    expected = model.state_dict()
    missing = [k for k in expected if k not in converted]
    unexpected = [k for k in converted if k not in expected]
    # A query-centric model has no bridge; theirs always has one, which QC training never moves.
    bridges = [k for k in unexpected if ".bridge." in k]
    if bridges and cfg.MODEL.SPNET.PATHWAY == "QC":
        logger.info("Left out the bridge, which a query-centric model has no use for.")
        unexpected = [k for k in unexpected if k not in bridges]
        converted = {k: v for k, v in converted.items() if k not in bridges}
    if problems := misfits(converted, expected, missing, unexpected):
        raise ValueError(f"The checkpoint doesn't fit the config: {problems}.")
    model.load_state_dict(converted)
    return model
