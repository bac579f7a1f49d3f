"""torchvision's trunks and their ImageNet weights, which the authors started from, by our names."""

import re
from collections.abc import Mapping

import torchvision
from torch import Tensor

from .pretrained import downloading
from .trunk_families import first, identify, rename
from .weight_files import unwrap


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
            f"{first(state_dict) or 'none'}."
        )
    found, family = identified
    wanted = name.partition(".")[0]
    # SOLIDER's Swin is one of these with more on top.
    if (
        found.removeprefix("solider_").split("_")[:2]
        != wanted.removeprefix("solider_").split("_")[:2]
    ):
        raise ValueError(f"These are the weights of {family.title} ({found}), not of {wanted!r}.")
    return rename(state, family, family.trunk, family.title)


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
        PretrainedWeightsError: the download failed.
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
    with downloading("torchvision", name, weights.url):
        return weights.get_state_dict(progress=True, weights_only=True)
