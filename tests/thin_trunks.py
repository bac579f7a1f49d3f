"""Trunks of the authors' families, a hundred times smaller: timm's and torchvision's of each.

For tests that compare whole models: names and layers are those of the real ones.
"""

from contextlib import ExitStack, contextmanager
from unittest import mock

from timm.models import build_model_with_cfg, register_model
from timm.models.convnext import ConvNeXt
from timm.models.swin_transformer import SwinTransformer
from torch import nn
from torchvision.models import convnext, swin_transformer

from spnet_d2.checkpoint.trunk_families import FAMILIES
from spnet_d2.modeling.swin import SOLIDER_SWINS

WIDTH, DEPTHS, HEADS = 16, (1, 2, 2, 2), (1, 2, 4, 8)
WIDTHS = tuple(WIDTH * 2**i for i in range(4))
CONVNEXT, SWIN, SOLIDER = "convnext_thin", "swin_thin", "solider_swin_thin"


@register_model
def convnext_thin(pretrained: bool = False, **kwargs) -> nn.Module:
    features = {"out_indices": (0, 1, 2, 3), "flatten_sequential": True}
    sizes = {"depths": DEPTHS, "dims": WIDTHS}
    return build_model_with_cfg(
        ConvNeXt, CONVNEXT, pretrained, feature_cfg=features, **sizes, **kwargs
    )


@register_model
def swin_thin(pretrained: bool = False, **kwargs) -> nn.Module:
    features = {"out_indices": (0, 1, 2, 3), "flatten_sequential": True}
    sizes = {"embed_dim": WIDTH, "depths": DEPTHS, "num_heads": HEADS}
    return build_model_with_cfg(
        SwinTransformer, SWIN, pretrained, feature_cfg=features, **sizes, **kwargs
    )


def torchvision_trunk(name: str) -> nn.Sequential:
    """torchvision's modules of the same trunk, without stochastic depth."""
    if name == CONVNEXT:
        outputs = (*WIDTHS[1:], None)
        blocks = [convnext.CNBlockConfig(*x) for x in zip(WIDTHS, outputs, DEPTHS, strict=True)]
        return convnext.ConvNeXt(blocks).features
    return swin_transformer.SwinTransformer(
        [4, 4], WIDTH, list(DEPTHS), list(HEADS), [7, 7], stochastic_depth_prob=0.0
    ).features


@contextmanager
def known_trunks():
    """The converter recognises these trunks, too."""
    names = (CONVNEXT, SWIN, "", SOLIDER)
    with ExitStack() as stack:
        for family, name in zip(FAMILIES, names, strict=True):
            if name:
                size = {(WIDTH, DEPTHS[2]): name}
                stack.enter_context(mock.patch.dict(family.sizes, size))
        stack.enter_context(mock.patch.dict(SOLIDER_SWINS, {SOLIDER: SWIN}))
        yield
