"""Families of trunks: told apart by names and shapes of their tensors."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from .trunk_names import (
    convnext_stage,
    convnext_tensor,
    convnext_trunk,
    resnet_stage,
    resnet_trunk,
    solider_stage,
    solider_tensor,
    solider_trunk,
    swin_stage,
    swin_trunk,
)

VIT_UNSUPPORTED = (
    "Plain vision transformers (ViT, DeiT, PASS) are not supported: the authors' take images of "
    "exactly 512 x 512 pixels, so no whole scene, and no result of the paper uses them. Use a "
    "trunk with maps of strides 8, 16 and 32, such as ConvNeXt, Swin or ResNet."
)


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
        convnext_trunk,
        convnext_stage,
        mark="1.0.layer_scale",
        stem="0.0.weight",
        block="5.{}.layer_scale",
        sizes={(96, 9): "convnext_tiny", (96, 27): "convnext_small", (128, 27): "convnext_base"},
        tensor=convnext_tensor,
    ),
    Family(
        "torchvision's Swin",
        swin_trunk,
        swin_stage,
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
        resnet_trunk,
        resnet_stage,
        mark="layer1.0.conv3.weight",
        stem="conv1.weight",
        block="layer3.{}.conv3.weight",
        sizes={(64, 6): "resnet50", (64, 23): "resnet101"},
    ),
    Family(
        "SOLIDER's Swin",
        solider_trunk,
        solider_stage,
        mark="stages.0.blocks.0.attn.w_msa.qkv.weight",
        stem="patch_embed.projection.weight",
        block="stages.2.blocks.{}.norm1.weight",
        sizes={
            (96, 6): "solider_swin_tiny",
            (96, 18): "solider_swin_small",
            (128, 18): "solider_swin_base",
        },
        tensor=solider_tensor,
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


def rename(
    state: Mapping[str, Tensor],
    family: Family,
    new_name: Callable[[str], str | None],
    whose: str,
) -> dict[str, Tensor]:
    """
    Tensors by our names and in our layout.

    Args:
        state: by their names.
        family: of the trunk.
        new_name: our name for theirs, None for an unknown one, ``UNUSED`` for one without a
            counterpart.
        whose: names they are, for the error.

    Raises:
        ValueError: unknown names, the first of which it says.
    """
    found = {name: new_name(name) for name in state}
    if unknown := [name for name, new in found.items() if new is None]:
        raise ValueError(
            f"{len(unknown)} names don't belong to {whose}, the first: {first(unknown)}."
        )
    return {new: family.tensor(new, state[name]) for name, new in found.items() if new}


def first(names: Iterable[str], count: int = 3) -> str:
    return ", ".join(list(names)[:count])
