"""Weights of any understood file into a trunk, or a clear word on why not.

Understood: timm's own files, torchvision's ConvNeXt, Swin and ResNet, Microsoft's Swin, SOLIDER's
Swin (mmdetection's names) and ResNets pretrained on LUPerson (ResNet names inside a MoCo file).
"""

import logging
import math
import re
from collections.abc import Mapping

import timm
import torch
from timm.layers import resize_rel_pos_bias_table_simple
from torch import Tensor, nn

from .misfits import misfits
from .torchvision_weights import torchvision_to_timm
from .trunk_families import FAMILIES, VIT_UNSUPPORTED, first, identify, rename
from .trunk_names import INDEX, TABLE
from .weight_files import unwrap

logger = logging.getLogger(__name__)


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
        if key.endswith(TABLE) and key in expected and tensor.shape != expected[key].shape:
            converted[key] = _resize_table(tensor, expected[key].shape)
    missing = [k for k in expected if k not in converted and not k.endswith("num_batches_tracked")]
    if kind != FAMILIES[-1].title:
        missing = _without_soliders(missing, source)
    problems = misfits(converted, expected, missing, _unexpected(converted, expected, name))
    if problems:
        raise ValueError(
            f"{source} doesn't fit MODEL.SPNET.BACKBONE.NAME {name!r}: {problems}. "
            f"Its names are {kind}'s, first found: {first(state) or 'none'}. Expected the "
            f"weights of {name} as timm, torchvision, Microsoft (Swin) or SOLIDER name them."
        )
    dropped = [k for k in converted if k not in expected]
    if dropped:
        logger.info(
            "%s: left out %d tensors behind the trunk (%s).", source, len(dropped), first(dropped)
        )
    trunk.load_state_dict({k: v for k, v in converted.items() if k in expected}, strict=False)


def _without_soliders(missing: list[str], source: str) -> list[str]:
    """Of what is missing, without what only SOLIDER's Swin has, which may start at random."""
    own = [k for k in missing if re.match(r"norms\.|.*\.downsample\.(scale|shift)\.", k)]
    others = [k for k in missing if k not in own]
    if own and not others:
        logger.warning(
            "%s has no conditioning and no norms of maps; SOLIDER's Swin starts with random "
            "ones, as the authors' does from ImageNet weights.",
            source,
        )
    return others


def _unexpected(converted: Mapping, expected: Mapping, name: str) -> list[str]:
    """Tensors of parts that the trunk has, but not where it has them."""
    parts = {_part(k) for k in expected}
    unexpected = [k for k in converted if k not in expected and _part(k) in parts]
    if unexpected and timm.is_model(name):
        # Some models go on, after the last map, in a part that the trunk has, too.
        with torch.device("meta"):
            behind = timm.create_model(name, pretrained=False).state_dict()
        unexpected = [k for k in unexpected if k not in behind]
    return unexpected


def _convert(
    state: Mapping[str, Tensor], name: str, expected: Mapping[str, Tensor]
) -> tuple[str, dict[str, Tensor]]:
    """Whose names these are, and the tensors by ours."""
    solider = name.startswith("solider_")
    identified = identify(state)
    if identified and identified[1].title == "SOLIDER's Swin":
        known, family = identified
        if known != name:
            raise ValueError(f"it holds {family.title}; set it to {known!r}.")
        return family.title, rename(state, family, family.trunk, family.title)
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
        if key.endswith((INDEX, "attn_mask")):
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
