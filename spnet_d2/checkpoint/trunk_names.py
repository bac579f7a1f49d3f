"""Names of a trunk's tensors: torchvision's and SOLIDER's -> those of our trunks.

Ours are those of :func:`spnet_d2.modeling.create_trunk`: timm's, in which a features-only model
writes ``stages_0`` for ``stages.0``. ``*_trunk`` rename a tensor of a whole trunk, ``*_stage`` one
of the authors' copy of its last stage; None: an unknown name. ``*_tensor`` bring a tensor into our
layout.
"""

import re

from torch import Tensor

# A known name of a tensor that the trunk has no use for (buffers, classifiers). Unknown: None.
UNUSED = ""

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
INDEX = "relative_position_index"
TABLE = "relative_position_bias_table"


def convnext_trunk(name: str) -> str | None:
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


def convnext_stage(name: str) -> str | None:
    """The authors' stage copy is modules 6 and 7 of the trunk, as ``head.0`` and ``head.1``."""
    index, _, rest = name.partition(".")
    return convnext_trunk(f"{int(index) + 6}.{rest}") if index in ("0", "1") else None


def convnext_tensor(name: str, tensor: Tensor) -> Tensor:
    return tensor.flatten() if name.endswith(".gamma") else tensor


def _swin_block(name: str) -> str | None:
    """Inside a block, torchvision's or mmdetection's names -> timm's."""
    layer, _, tensor = name.rpartition(".")
    if tensor == INDEX:
        return UNUSED
    if tensor == TABLE:
        return f"attn.{TABLE}"
    return f"{_SWIN_BLOCK[layer]}.{tensor}" if layer in _SWIN_BLOCK else None


def _swin_module(stage: int, name: str) -> str | None:
    """Inside a module of torchvision's Swin that belongs to ``stage``: merging or blocks."""
    if re.fullmatch(r"norm\.(weight|bias)|reduction\.weight", name):
        return f"layers_{stage}.downsample.{name}"
    if match := re.fullmatch(r"(\d+)\.(.+)", name):
        renamed = _swin_block(match[2])
        return renamed and f"layers_{stage}.blocks.{match[1]}.{renamed}"
    return None


def swin_trunk(name: str) -> str | None:
    """torchvision's Swin names (features.0 .. 7) -> timm's."""
    if match := re.fullmatch(r"0\.([02])\.(\w+)", name):
        return f"patch_embed.{'proj' if match[1] == '0' else 'norm'}.{match[2]}"
    if match := re.fullmatch(r"([1-7])\.(.+)", name):
        return _swin_module(int(match[1]) // 2, match[2])
    return None


def swin_stage(name: str) -> str | None:
    """The stage copy: patch merging and blocks, whatever stands between them."""
    match = re.fullmatch(r"\d+\.(.+)", name)
    return match and _swin_module(3, match[1])


def resnet_trunk(name: str) -> str | None:
    return name if re.match(r"(conv1|bn1|layer[1-4])\.", name) else None


def resnet_stage(name: str) -> str | None:
    return f"layer4.{name}"


def solider_trunk(name: str) -> str | None:
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


def solider_stage(name: str) -> str | None:
    """The authors' stage copy holds the whole trunk; its last stage is what runs."""
    renamed = solider_trunk(name)
    if renamed and renamed.startswith("body.layers_3."):
        return renamed.removeprefix("body.")
    if renamed and renamed.startswith("norms.2."):
        return renamed.replace("norms.2", "norm")
    return renamed and UNUSED


def solider_tensor(name: str, tensor: Tensor) -> Tensor:
    """SOLIDER merges 2 x 2 patches as (c, dy, dx), timm as (dx, dy, c)."""
    if re.search(r"\.downsample\.(norm|reduction)\.", name):
        patches = tensor.unflatten(-1, (-1, 2, 2))
        return patches.transpose(-3, -1).flatten(-3)
    return tensor
