"""Published checkpoints of SeqNet (serend1p1ty/SeqNet) and SeqNeXt (LukeJaffe/GFN) in our names."""

import re
from collections.abc import Callable, Mapping

from detectron2.config import CfgNode, get_cfg
from torch import Tensor

from spnet_d2.config import add_spnet_config

from .llnl import tensors_of
from .trunk_families import Family, identify, rename
from .trunk_names import UNUSED

# torchvision 0.13 wrapped the proposals' convolution twice.
_RPN = re.compile(r"rpn\.head\.(conv|cls_logits|bbox_pred)(?:\.0\.0)?\.(\w+)")
_PROJECTOR = re.compile(r"roi_heads\.embedding_head\.projectors\.feat_res([45])\.([01])\.(\w+)")
_RENAMED = {
    "roi_heads.faster_rcnn_predictor.": "roi_heads.first_predictor.",
    "roi_heads.box_predictor.": "roi_heads.second_predictor.",
    "roi_heads.score_predictor.": "roi_heads.second_predictor.",
    "roi_heads.embedding_head.rescaler.": "roi_heads.embedding.rescaler.",
}
# The gallery filter's scene branch.
_SCENE_HEAD = "gfn.head.image_reid_head.head."
_SCENE_PROJECTOR = re.compile(
    r"gfn\.head\.image_emb_head\.projectors\.feat_res([45])\.([01])\.(\w+)"
)
_FUSER = "gfn.fuser.norm.norm."
# SeqNet's heads are copies of their own. SeqNeXt's second head has two names.
_HEADS = {
    "SeqNet": {"box_head.layer4": "first_head", "reid_head.layer4": "second_head"},
    "SeqNeXt": {"prop_head.head": "first_head", "box_head.head": "second_head"},
}
# Of SeqNeXt: other names of tensors that are there by their first one.
_ALIASES = re.compile(r"roi_heads\.(gfn|reid_head)\.|gfn\.(query_\w+|reid_loss)\.")
_MEMORY = {"lut": "lut", "cq": "queue"}


def architecture_of(state: Mapping) -> str | None:
    """ "SeqNet", "SeqNeXt" or None, by names alone."""
    names = set(tensors_of(state))
    if any(name.startswith("roi_heads.score_predictor.") for name in names):
        return "SeqNeXt"
    one_head = not any(name.startswith("roi_heads.embedding_head_2nd.") for name in names)
    if one_head and "roi_heads.box_predictor.bbox_pred.0.weight" in names:
        return "SeqNet"
    return None


def infer_config(state: Mapping) -> CfgNode:
    """
    Architecture, trunk and sizes of a published checkpoint.

    Raises:
        ValueError: a file of neither, or a trunk that is not known.
    """
    architecture = _architecture(state)
    tensors = tensors_of(state)
    cfg = get_cfg()
    add_spnet_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.5
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 0.5
    cfg.TEST.DETECTIONS_PER_IMAGE = 300
    options = cfg.MODEL.SPNET
    options.BACKBONE.NAME, options.BACKBONE.PRETRAINED = _trunk(tensors)[0], ""
    projectors = [f"roi_heads.embedding_head.projectors.feat_res{i}.0.bias" for i in (4, 5)]
    options.REID_DIM = options.EMBED_DIM = sum(len(tensors[name]) for name in projectors)
    options.GFN.ENABLED = any(name.startswith("gfn.head.") for name in tensors)
    lut = tensors.get("roi_heads.reid_loss.lut")
    if lut is not None:
        options.REID.NUM_IDENTITIES = len(lut)
        options.REID.QUEUE_SIZE = len(tensors["roi_heads.reid_loss.cq"])
    return cfg


def convert_state_dict(state: Mapping) -> dict[str, Tensor]:
    """
    Rename the tensors of a published checkpoint.

    Args:
        state: ``{"model": ...}`` or a bare state dict.

    Returns:
        Names of :class:`~spnet_d2.modeling.seqnet.SeqNet` or ``SeqNeXt`` -> tensors.

    Raises:
        ValueError: names that are unknown, the first of which it says.
    """
    architecture = _architecture(state)
    tensors = tensors_of(state)
    _, family, prefix = _trunk(tensors)
    return rename(
        tensors,
        family,
        lambda name: _rename(name, architecture, family, prefix),
        f"{architecture}'s checkpoint",
    )


def _architecture(state: Mapping) -> str:
    found = architecture_of(state)
    if found is None:
        raise ValueError(
            "Neither SeqNet's nor SeqNeXt's checkpoint: it has neither roi_heads.score_predictor.* "
            "nor roi_heads.box_predictor.bbox_pred.0.*."
        )
    return found


def _trunk(tensors: Mapping[str, Tensor]) -> tuple[str, Family, str]:
    """Our name of the trunk, its family, and where it is."""
    for prefix in ("backbone.body.", "backbone."):
        part = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if identified := identify(part):
            return *identified, prefix
    raise ValueError("The checkpoint's trunk is neither torchvision's ConvNeXt nor its ResNet.")


def _rename(name: str, architecture: str, family: Family, prefix: str) -> str | None:
    if architecture == "SeqNeXt" and _ALIASES.match(name):
        return UNUSED
    if name.startswith(prefix):
        return _below("backbone.", family.trunk, name.removeprefix(prefix))
    for theirs, ours in _HEADS[architecture].items():
        start = f"roi_heads.{theirs}."
        if name.startswith(start):
            return _below(f"roi_heads.{ours}.stage.", family.stage, name.removeprefix(start))
    if match := _RPN.fullmatch(name):
        return f"rpn.head.{match[1]}.{match[2]}"
    if match := _PROJECTOR.fullmatch(name):
        return f"roi_heads.embedding.projectors.{int(match[1]) - 4}.{match[2]}.{match[3]}"
    if match := re.fullmatch(r"roi_heads\.reid_loss\.(\w+)", name):
        return _MEMORY.get(match[1]) and f"roi_heads.reid_loss.{_MEMORY[match[1]]}"
    if architecture == "SeqNeXt" and name.startswith("gfn."):
        return _of_gallery_filter(name, family)
    for theirs, ours in _RENAMED.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return None


def _of_gallery_filter(name: str, family: Family) -> str | None:
    ours = "gallery_filter."
    if name.startswith(_SCENE_HEAD):
        return _below(f"{ours}embedder.head.stage.", family.stage, name.removeprefix(_SCENE_HEAD))
    if match := _SCENE_PROJECTOR.fullmatch(name):
        place = f"{int(match[1]) - 4}.{match[2]}.{match[3]}"
        return f"{ours}embedder.embedding.projectors.{place}"
    if name == f"{_FUSER}num_batches_tracked":
        return UNUSED
    return f"{ours}fuser.{name.removeprefix(_FUSER)}" if name.startswith(_FUSER) else None


def _below(start: str, rename: Callable[[str], str | None], rest: str) -> str | None:
    renamed = rename(rest)
    return renamed and start + renamed
