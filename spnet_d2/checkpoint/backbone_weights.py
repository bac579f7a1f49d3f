"""Weight files of trunks: which code base named their tensors, and timm's names for them.

Understood: timm's own files, torchvision's ConvNeXt, Swin and ResNet, Microsoft's Swin, SOLIDER's
Swin (mmdetection's names) and ResNets pretrained on LUPerson (ResNet names inside a MoCo file).

Target names are those of :func:`spnet_d2.modeling.create_trunk`: timm's, in which a features-only
model writes ``stages_0`` for ``stages.0``.
"""

import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import timm
import torch
import torchvision
from timm.layers import resize_rel_pos_bias_table_simple
from torch import Tensor, nn

from .files import read_checkpoint

logger = logging.getLogger(__name__)

# A known name of a tensor that the trunk has no use for (buffers, classifiers). Unknown: None.
UNUSED = ""

VIT_UNSUPPORTED = (
    "Plain vision transformers (ViT, DeiT, PASS) are not supported: the authors' take images of "
    "exactly 512 x 512 pixels, so no whole scene, and no result of the paper uses them. Use a "
    "trunk with maps of strides 8, 16 and 32, such as ConvNeXt, Swin or ResNet."
)

# ConvNeXt: a block's tensors, torchvision's -> timm's.
_CONVNEXT_BLOCK = {
    "layer_scale": "gamma",
    "block.0": "conv_dw",
    "block.2": "norm",
    "block.3": "mlp.fc1",
    "block.5": "mlp.fc2",
}
# Swin: a block's layers, torchvision's and mmdetection's -> timm's.
_SWIN_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.qkv": "attn.qkv",
    "attn.proj": "attn.proj",
    "mlp.0": "mlp.fc1",
    "mlp.3": "mlp.fc2",
    "attn.w_msa.qkv": "attn.qkv",
    "attn.w_msa.proj": "attn.proj",
    "ffn.layers.0.0": "mlp.fc1",
    "ffn.layers.1": "mlp.fc2",
}
_INDEX = "relative_position_index"
_TABLE = "relative_position_bias_table"


def _convnext_trunk(name: str) -> str | None:
    """torchvision's ConvNeXt names (features.0 .. 7) -> timm's."""
    if match := re.fullmatch(r"0\.([01])\.(\w+)", name):
        return f"stem_{match[1]}.{match[2]}"
    if match := re.fullmatch(r"([246])\.([01])\.(\w+)", name):
        return f"stages_{int(match[1]) // 2}.downsample.{match[2]}.{match[3]}"
    if match := re.fullmatch(r"([1357])\.(\d+)\.(layer_scale|block\.\d)(\.\w+)?", name):
        stage, block, tensor, rest = match.groups()
        if tensor not in _CONVNEXT_BLOCK:
            return None
        renamed = _CONVNEXT_BLOCK[tensor]
        return f"stages_{int(stage) // 2}.blocks.{block}.{renamed}{rest or ''}"
    return None


def _convnext_stage(name: str) -> str | None:
    """The authors' stage copy is modules 6 and 7 of the trunk, as ``head.0`` and ``head.1``."""
    index, _, rest = name.partition(".")
    return _convnext_trunk(f"{int(index) + 6}.{rest}") if index in ("0", "1") else None


def _convnext_tensor(name: str, tensor: Tensor) -> Tensor:
    return tensor.flatten() if name.endswith(".gamma") else tensor


def _swin_block(name: str) -> str | None:
    """Inside a block, torchvision's or mmdetection's names -> timm's."""
    layer, _, tensor = name.rpartition(".")
    if tensor == _INDEX:
        return UNUSED
    if tensor == _TABLE:
        return f"attn.{_TABLE}"
    return f"{_SWIN_BLOCK[layer]}.{tensor}" if layer in _SWIN_BLOCK else None


def _swin_module(stage: int, name: str) -> str | None:
    """Inside a module of torchvision's Swin that belongs to ``stage``: merging or blocks."""
    if re.fullmatch(r"norm\.(weight|bias)|reduction\.weight", name):
        return f"layers_{stage}.downsample.{name}"
    if match := re.fullmatch(r"(\d+)\.(.+)", name):
        renamed = _swin_block(match[2])
        return renamed and f"layers_{stage}.blocks.{match[1]}.{renamed}"
    return None


def _swin_trunk(name: str) -> str | None:
    """torchvision's Swin names (features.0 .. 7) -> timm's."""
    if match := re.fullmatch(r"0\.([02])\.(\w+)", name):
        return f"patch_embed.{'proj' if match[1] == '0' else 'norm'}.{match[2]}"
    if match := re.fullmatch(r"([1-7])\.(.+)", name):
        return _swin_module(int(match[1]) // 2, match[2])
    return None


def _swin_stage(name: str) -> str | None:
    """The stage copy: patch merging and blocks, whatever stands between them."""
    match = re.fullmatch(r"\d+\.(.+)", name)
    return match and _swin_module(3, match[1])


def _resnet_trunk(name: str) -> str | None:
    return name if re.match(r"(conv1|bn1|layer[1-4])\.", name) else None


def _resnet_stage(name: str) -> str | None:
    return f"layer4.{name}"


def _solider_trunk(name: str) -> str | None:
    """SOLIDER's names -> those of :class:`spnet_d2.modeling.swin.SoliderSwin`."""
    if match := re.fullmatch(r"patch_embed\.(projection|norm)\.(\w+)", name):
        return f"body.patch_embed.{'norm' if match[1] == 'norm' else 'proj'}.{match[2]}"
    if match := re.fullmatch(r"stages\.(\d)\.blocks\.(\d+)\.(.+)", name):
        renamed = _swin_block(match[3])
        return renamed and f"body.layers_{match[1]}.blocks.{match[2]}.{renamed}"
    if match := re.fullmatch(r"stages\.([012])\.downsample\.(norm|reduction)\.(\w+)", name):
        return f"body.layers_{int(match[1]) + 1}.downsample.{match[2]}.{match[3]}"
    if match := re.fullmatch(r"semantic_embed_([wb])\.([012])\.(\w+)", name):
        layer = {"w": "scale", "b": "shift"}[match[1]]
        return f"body.layers_{int(match[2]) + 1}.downsample.{layer}.{match[3]}"
    if match := re.fullmatch(r"norm([123])\.(\w+)", name):
        return f"norms.{int(match[1]) - 1}.{match[2]}"
    # Behind the last stage, or of the stride-4 map.
    if re.fullmatch(r"semantic_embed_[wb]\.3\.\w+|norm0?\.\w+|head\..+", name):
        return UNUSED
    return None


def _solider_stage(name: str) -> str | None:
    """The authors' stage copy holds the whole trunk; its last stage is what runs."""
    renamed = _solider_trunk(name)
    if renamed and renamed.startswith("body.layers_3."):
        return renamed.removeprefix("body.")
    if renamed and renamed.startswith("norms.2."):
        return renamed.replace("norms.2", "norm")
    return renamed and UNUSED


def _solider_tensor(name: str, tensor: Tensor) -> Tensor:
    """SOLIDER merges 2 x 2 patches as (c, dy, dx), timm as (dx, dy, c)."""
    if re.search(r"\.downsample\.(norm|reduction)\.", name):
        patches = tensor.unflatten(-1, (-1, 2, 2))
        return patches.transpose(-3, -1).flatten(-3)
    return tensor


@dataclass(frozen=True)
class Family:
    """
    How torchvision (and the authors' code) or SOLIDER name a trunk.

    ``trunk`` and ``stage`` rename tensors of the trunk and of the authors' copy of its last
    stage; they give None for an unknown name and ``UNUSED`` for one without a counterpart.
    ``tensor`` brings a tensor of the new name into our layout.
    """

    title: str
    trunk: Callable[[str], str | None]
    stage: Callable[[str], str | None]
    # Names that tell family, width of the stem and blocks of the third stage.
    mark: str
    stem: str
    block: str
    # (stem width, blocks of the third stage) -> MODEL.SPNET.BACKBONE.NAME.
    sizes: Mapping[tuple[int, int], str]
    tensor: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor


FAMILIES = (
    Family(
        "torchvision's ConvNeXt",
        _convnext_trunk,
        _convnext_stage,
        mark="1.0.layer_scale",
        stem="0.0.weight",
        block="5.{}.layer_scale",
        sizes={(96, 9): "convnext_tiny", (96, 27): "convnext_small", (128, 27): "convnext_base"},
        tensor=_convnext_tensor,
    ),
    Family(
        "torchvision's Swin",
        _swin_trunk,
        _swin_stage,
        mark="1.0.attn.qkv.weight",
        stem="0.0.weight",
        block="5.{}.norm1.weight",
        sizes={
            (96, 6): "swin_tiny_patch4_window7_224",
            (96, 18): "swin_small_patch4_window7_224",
            (128, 18): "swin_base_patch4_window7_224",
        },
    ),
    Family(
        "torchvision's ResNet",
        _resnet_trunk,
        _resnet_stage,
        mark="layer1.0.conv3.weight",
        stem="conv1.weight",
        block="layer3.{}.conv3.weight",
        sizes={(64, 6): "resnet50", (64, 23): "resnet101"},
    ),
    Family(
        "SOLIDER's Swin",
        _solider_trunk,
        _solider_stage,
        mark="stages.0.blocks.0.attn.w_msa.qkv.weight",
        stem="patch_embed.projection.weight",
        block="stages.2.blocks.{}.norm1.weight",
        sizes={
            (96, 6): "solider_swin_tiny",
            (96, 18): "solider_swin_small",
            (128, 18): "solider_swin_base",
        },
        tensor=_solider_tensor,
    ),
)


def identify(state: Mapping[str, Tensor]) -> tuple[str, Family] | None:
    """
    Recognise a trunk by its names and shapes.

    Args:
        state: a trunk's tensors by names of torchvision (without ``features.``) or SOLIDER.

    Returns:
        MODEL.SPNET.BACKBONE.NAME and family, or None if no family's names are there.

    Raises:
        ValueError: a known family in an unknown size.
    """
    for family in FAMILIES:
        if family.mark not in state or family.stem not in state:
            continue
        depth = 0
        while family.block.format(depth) in state:
            depth += 1
        size = (len(state[family.stem]), depth)
        if size not in family.sizes:
            raise ValueError(
                f"{family.title} of width {size[0]} with {depth} blocks in its third stage is not "
                "known; known are "
                + ", ".join(f"{name} {size}" for size, name in family.sizes.items())
                + "."
            )
        return family.sizes[size], family
    return None


def _rename(state: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    renamed = {name: family.trunk(name) for name in state}
    unknown = [name for name, new in renamed.items() if new is None]
    if unknown:
        raise ValueError(
            f"{len(unknown)} names don't belong to {family.title}, the first: {_first(unknown)}."
        )
    return {
        renamed[name]: family.tensor(renamed[name], tensor)
        for name, tensor in state.items()
        if renamed[name] != UNUSED
    }


def _first(names: Iterable[str], count: int = 3) -> str:
    return ", ".join(list(names)[:count])


def torchvision_to_timm(state_dict: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """
    Rename the state dict of a torchvision classifier's trunk.

    Args:
        state_dict: of torchvision's ``convnext_*``, ``swin_t/s/b`` or ``resnet50``.
        name: the timm model it is for, with or without a tag.

    Returns:
        Tensors by the names of ``create_trunk(name)``; the classifier's are left out.

    Raises:
        ValueError: names that torchvision's models don't have, or another model than ``name``.
    """
    heads = ("classifier.", "avgpool.", "norm.", "head.", "fc.")
    state = {
        key.removeprefix("features."): tensor
        for key, tensor in state_dict.items()
        if not key.startswith(heads)
    }
    identified = identify(state)
    if identified is None:
        raise ValueError(
            "These are no names of torchvision's ConvNeXt, Swin or ResNet; the first: "
            f"{_first(state_dict) or 'none'}."
        )
    found, family = identified
    wanted = name.partition(".")[0]
    # SOLIDER's Swin is one of these with more on top.
    if (
        found.removeprefix("solider_").split("_")[:2]
        != wanted.removeprefix("solider_").split("_")[:2]
    ):
        raise ValueError(f"These are the weights of {family.title} ({found}), not of {wanted!r}.")
    return _rename(state, family)


def classifier_names(state: Mapping, name: str) -> dict[str, Tensor]:
    """
    Names of timm's whole classifier ``name`` for the content of a weight file.

    Files of torchvision are renamed; others are taken to have timm's names.
    """
    state = unwrap(state)
    if not any(k.startswith("features.") for k in state):
        return state
    # Head of ConvNeXt and of Swin.
    heads = {"classifier.0": "head.norm", "classifier.2": "head.fc", "head": "head.fc"}
    renamed = {
        re.sub(r"^(stem|stages|layers)_(\d+)\.", r"\1.\2.", k): v
        for k, v in torchvision_to_timm(state, name).items()
    }
    for key, tensor in state.items():
        if key.startswith(("classifier.", "norm.", "head.")):
            layer, _, kind = key.rpartition(".")
            renamed[f"{heads.get(layer, layer)}.{kind}"] = tensor
    return renamed


# torchvision's models and enumerations of weights by the beginnings of timm's names.
_TORCHVISION = {
    "convnext_tiny": "convnext_tiny",
    "convnext_small": "convnext_small",
    "convnext_base": "convnext_base",
    "swin_tiny": "swin_t",
    "swin_small": "swin_s",
    "swin_base": "swin_b",
    "resnet50": "resnet50",
}


def torchvision_weights(name: str) -> dict[str, Tensor]:
    """
    Download torchvision's first ImageNet weights of a trunk, those the authors started from.

    Args:
        name: a timm model that torchvision has, too.

    Raises:
        ValueError: torchvision has no such model.
    """
    models = [
        tv for ours, tv in _TORCHVISION.items() if re.match(rf"{ours}(_patch4_window7|\.|$)", name)
    ]
    if not models:
        raise ValueError(
            "MODEL.SPNET.BACKBONE.PRETRAINED is 'torchvision', which has no weights for "
            f"{name!r}; it has them for {', '.join(_TORCHVISION)}."
        )
    weights = torchvision.models.get_model_weights(models[0])["IMAGENET1K_V1"]
    return weights.get_state_dict(progress=True, weights_only=True)


def read_weights(path: str) -> dict:
    """
    Read a weight file (``torch.save`` or safetensors).

    Raises:
        FileNotFoundError: no such file.
        ValueError: it can't be read, or holds other objects than tensors and plain values.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"No weight file at MODEL.SPNET.BACKBONE.PRETRAINED {os.path.abspath(path)!r}. Give "
            "the path of a weight file, 'hub' or 'torchvision' to download one, or '' for random "
            "weights."
        )
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    return read_checkpoint(path)


_WRAPPERS = ("state_dict", "model", "teacher")
_PREFIXES = ("module.", "encoder_q.", "base_encoder.", "backbone.", "model.")


def unwrap(state: Mapping) -> dict[str, Tensor]:
    """
    Tensors of the network that is meant, without wrappers around names.

    Checkpoints of self-supervised training hold several networks: the query encoder of MoCo and
    the teacher of DINO are taken.
    """
    while inner := [state[key] for key in _WRAPPERS if isinstance(state.get(key), Mapping)]:
        state = inner[0]
    state = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    while prefix := next((p for p in _PREFIXES if any(k.startswith(p) for k in state)), None):
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return state


def load_backbone(trunk: nn.Module, name: str, state: Mapping, source: str = "The file") -> None:
    """
    Load the weights of any understood file into a trunk.

    Args:
        trunk: of :func:`spnet_d2.modeling.create_trunk`, changed in place.
        name: its MODEL.SPNET.BACKBONE.NAME.
        state: content of the file.
        source: the file, for messages.

    Raises:
        ValueError: weights of another model, named with what is missing and what is too much.
    """
    state = unwrap(state)
    if any(k.endswith(("cls_token", "part_token1")) for k in state):
        raise ValueError(f"{source} holds a plain vision transformer. {VIT_UNSUPPORTED}")
    expected = trunk.state_dict()
    try:
        kind, converted = _convert(state, name, expected)
    except ValueError as error:
        raise ValueError(
            f"{source} doesn't fit MODEL.SPNET.BACKBONE.NAME {name!r}: {error}"
        ) from None
    for key, tensor in converted.items():
        if key.endswith(_TABLE) and key in expected and tensor.shape != expected[key].shape:
            converted[key] = _resize_table(tensor, expected[key].shape)
    missing = [k for k in expected if k not in converted and not k.endswith("num_batches_tracked")]
    if kind != FAMILIES[-1].title:
        extra = [k for k in missing if re.match(r"norms\.|.*\.downsample\.(scale|shift)\.", k)]
        missing = [k for k in missing if k not in extra]
        if extra and not missing:
            logger.warning(
                "%s has no conditioning and no norms of maps; SOLIDER's Swin starts with random "
                "ones, as the authors' does from ImageNet weights.",
                source,
            )
    parts = {_part(k) for k in expected}
    unexpected = [k for k in converted if k not in expected and _part(k) in parts]
    if unexpected and timm.is_model(name):
        # Some models go on, after the last map, in a part that the trunk has, too.
        with torch.device("meta"):
            behind = timm.create_model(name, pretrained=False).state_dict()
        unexpected = [k for k in unexpected if k not in behind]
    misshaped = [
        f"{k} {tuple(converted[k].shape)} instead of {tuple(v.shape)}"
        for k, v in expected.items()
        if k in converted and converted[k].shape != v.shape
    ]
    problems = [
        f"{len(names)} {what}, the first: {_first(names)}"
        for what, names in (
            ("missing", missing),
            ("too much", unexpected),
            ("of another shape", misshaped),
        )
        if names
    ]
    if problems:
        raise ValueError(
            f"{source} doesn't fit MODEL.SPNET.BACKBONE.NAME {name!r}: {'; '.join(problems)}. "
            f"Its names are {kind}'s, first found: {_first(state) or 'none'}. Expected the "
            f"weights of {name} as timm, torchvision, Microsoft (Swin) or SOLIDER name them."
        )
    dropped = [k for k in converted if k not in expected]
    if dropped:
        logger.info(
            "%s: left out %d tensors behind the trunk (%s).", source, len(dropped), _first(dropped)
        )
    trunk.load_state_dict({k: v for k, v in converted.items() if k in expected}, strict=False)


def _convert(
    state: Mapping[str, Tensor], name: str, expected: Mapping[str, Tensor]
) -> tuple[str, dict[str, Tensor]]:
    """Whose names these are, and the tensors by ours."""
    solider = name.startswith("solider_")
    identified = identify(state)
    if identified and identified[1].title == "SOLIDER's Swin":
        found, family = identified
        if found != name:
            raise ValueError(f"it holds {family.title}; set it to {found!r}.")
        return family.title, _rename(state, family)
    if any(k.startswith("features.") for k in state) and "classifier.weight" not in state:
        found = identify({k.removeprefix("features."): v for k, v in state.items()})
        if found:
            converted = torchvision_to_timm(state, name)
            return found[1].title, _below_body(converted) if solider else converted
    kind = "timm"
    if "layers.0.downsample.reduction.weight" in state:
        kind = "Microsoft"
        # Merging stands at the end of a stage there, at the start of the next one in timm.
        state = {
            re.sub(
                r"^layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", k
            ): v
            for k, v in state.items()
        }
    # A features-only model writes stages_0 for stages.0.
    prefix = "body." if solider else ""
    flat = {}
    for part in {k.removeprefix(prefix).partition(".")[0] for k in expected}:
        container, _, index = part.rpartition("_")
        if container:
            flat[f"{container}.{index}"] = part
    converted = {}
    for key, tensor in state.items():
        if key.endswith((_INDEX, "attn_mask")):
            continue
        head = ".".join(key.split(".")[:2])
        converted[key.replace(head, flat[head], 1) if head in flat else key] = tensor
    return kind, _below_body(converted) if solider else converted


def _below_body(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of a plain Swin -> the same in SOLIDER's."""
    return {f"body.{key}": tensor for key, tensor in state.items()}


def _part(name: str) -> str:
    """The trunk's component that a tensor belongs to, e.g. ``stages`` of ``stages_1.blocks``."""
    first = name.removeprefix("body.").partition(".")[0]
    return re.sub(r"_\d+$", "", first)


def _resize_table(table: Tensor, shape: torch.Size) -> Tensor:
    """Relative-position table for windows of another size, bicubically."""
    side = (math.isqrt(shape[0]) + 1) // 2
    return resize_rel_pos_bias_table_simple(table, (side, side), tuple(shape))
