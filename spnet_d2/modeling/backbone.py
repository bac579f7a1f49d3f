"""Backbone: any timm feature model and an FPN with levels p3..p7 (strides 8..128).

The FPN is torchvision's: laterals and outputs with biases and no norm, nearest top-down
upsampling to the lateral's exact size, p6 from the raw stride-32 map and p7 from ReLU(p6).
Its width C is the channel count of the stride-16 map, so that a copy of the trunk's last stage
can be applied to RoI features of p3 (:class:`~.box_embedder.StageCopy`).

ConvNeXt, Swin and ResNet-50 compute what torchvision's do, which the authors trained; SOLIDER's
Swin is ``solider_swin_tiny``, ``_small`` and ``_base``.
"""

import copy
import difflib
import logging
import os
import re
from collections import OrderedDict
from typing import Any

import timm
import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from timm.layers import PatchEmbed
from timm.models import FeatureListNet
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

from ..checkpoint.backbone_weights import load_backbone
from ..checkpoint.pretrained import downloading, hub_url, missing_file
from ..checkpoint.torchvision_weights import classifier_names, torchvision_weights
from ..checkpoint.trunk_families import VIT_UNSUPPORTED
from ..checkpoint.weight_files import read_weights
from .activation_checkpointing import checkpoint_blocks
from .convnext import use_chunked_blocks
from .depthwise import use_fast_depthwise
from .swin import SOLIDER_SWINS, RuntimeShiftBlock, SoliderSwin, use_blocks
from .winograd import use_fast_convolutions

logger = logging.getLogger(__name__)

FEATURES = ("p3", "p4", "p5", "p6", "p7")
STRIDES = (8, 16, 32)
FPN_INITS = ("kaiming", "identity")

# Stochastic depth of the reference's trunks; other models keep timm's own default.
DROP_PATH_RATES = {
    "convnext_tiny": 0.1,
    "convnext_small": 0.4,
    "convnext_base": 0.5,
    "swin_tiny": 0.2,
    "swin_small": 0.3,
    "swin_base": 0.5,
    "solider_swin": 0.1,
}


def create_trunk(
    name: str,
    pretrained: str | dict[str, Tensor] = "hub",
    drop_path_rate: float | None = None,
) -> FeatureListNet | SoliderSwin:
    """
    Build a trunk that gives its maps of strides 8, 16 and 32.

    Args:
        name: timm model name, e.g. ``convnext_tiny.fb_in1k``, or ``solider_swin_tiny``,
            ``_small``, ``_base``.
        pretrained: ``"hub"`` (timm downloads; for SOLIDER's Swin the ImageNet weights),
            ``"torchvision"`` (torchvision's ImageNet weights, as the authors), ``""`` (random),
            the path of a weight file, or a state dict. Files are understood with the names of
            timm, torchvision, Microsoft (Swin), SOLIDER and MoCo (LUPerson).
        drop_path_rate: maximum of stochastic depth; default: the reference's.

    Raises:
        ValueError: no such model, or one without maps of these strides, or weights of another.
        PretrainedWeightsError: no weight file at the given path, or a download failed.
    """
    timm_name = SOLIDER_SWINS.get(name, name)
    _check_name(name, timm_name)
    kwargs: dict = {"features_only": True}
    if drop_path_rate is None:
        rates = [rate for prefix, rate in DROP_PATH_RATES.items() if name.startswith(prefix)]
        drop_path_rate = rates[0] if rates else None
    if drop_path_rate is not None:
        kwargs["drop_path_rate"] = drop_path_rate
    if timm_name.startswith("swin"):
        # Any input size, also in windows larger than the map.
        kwargs.update(strict_img_size=False, always_partition=True)
    if re.fullmatch(r"resnet50(\..+)?", timm_name):
        # Random weights start as torchvision's; timm would zero each block's last batch norm.
        kwargs["zero_init_last"] = False
    kwargs.update(_feature_options(timm_name, kwargs))
    listed = _create(timm_name, pretrained == "hub", **kwargs)
    assert isinstance(listed, FeatureListNet)
    trunk: FeatureListNet | SoliderSwin = listed
    embedding = getattr(listed, "patch_embed", None)
    if isinstance(embedding, PatchEmbed):
        # Sizes that patches don't divide lose their last rows and columns, as in torchvision.
        embedding.img_size = None
    if name in SOLIDER_SWINS:
        trunk = SoliderSwin(listed, random=pretrained == "")
    else:
        use_blocks(trunk, RuntimeShiftBlock)
        use_chunked_blocks(trunk)
        use_fast_depthwise(trunk)
    state = _weights(name, pretrained)
    if state is not None:
        source = "The state dict" if isinstance(pretrained, dict) else repr(pretrained)
        load_backbone(trunk, name, state, source)
    return trunk


def check_pretrained(name: str, pretrained: str) -> None:
    """
    See that pretrained weights are there; what must be downloaded for them is, into its cache.

    Args:
        name, pretrained: as in :func:`create_trunk`, which would find out much later in a job.

    Raises:
        PretrainedWeightsError: they are not, and can't be.
        ValueError: the model is unknown, or torchvision has no weights for it.
    """
    timm_name = SOLIDER_SWINS.get(name, name)
    _check_name(name, timm_name)
    if pretrained == "hub":
        _create(timm_name, pretrained=True)
    elif pretrained == "torchvision":
        torchvision_weights(name)
    elif pretrained and not os.path.isfile(pretrained):
        raise missing_file(pretrained)


def _create(timm_name: str, pretrained: bool, **kwargs) -> nn.Module:
    """``timm.create_model``, with one error for all failures of a download."""
    if not pretrained:
        return timm.create_model(timm_name, pretrained=False, **kwargs)
    with downloading("hub", timm_name, hub_url(timm_name)):
        return timm.create_model(timm_name, pretrained=True, **kwargs)


def _weights(name: str, pretrained: str | dict[str, Tensor]) -> dict | None:
    """Weights to load after the model is built, if any."""
    if isinstance(pretrained, dict):
        return pretrained
    if pretrained in ("", "hub"):
        return None
    return torchvision_weights(name) if pretrained == "torchvision" else read_weights(pretrained)


def pretrained_of(cfg) -> str:
    """
    Where a config's trunk has its first weights from, as in :func:`create_trunk`.

    ``MODEL.WEIGHTS`` brings the trunk's, too, so that none have to be there or be downloaded
    beside them. :class:`~spnet_d2.modeling.SPNet` does not train where that did not happen.
    """
    return "" if cfg.MODEL.WEIGHTS else cfg.MODEL.SPNET.BACKBONE.PRETRAINED


def trunk_of(cfg) -> FeatureListNet | SoliderSwin:
    """The trunk that a config names, as :func:`create_trunk` builds it."""
    options = cfg.MODEL.SPNET.BACKBONE
    rate = options.DROP_PATH_RATE
    return create_trunk(options.NAME, pretrained_of(cfg), None if rate < 0 else rate)


def weight_options(name: str, pretrained: str | dict[str, Tensor]) -> dict:
    """Arguments that make ``timm.create_model(name)`` load ``pretrained``, classifier included."""
    state = _weights(name, pretrained)
    if state is None:
        return {"pretrained": pretrained == "hub"}
    state = classifier_names(state, name)
    return {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": state}}


def _check_name(name: str, timm_name: str) -> None:
    if re.match(r"(pass_)?(vit|deit)", name):
        raise ValueError(f"name is {name!r}. {VIT_UNSUPPORTED}")
    if not timm.is_model(timm_name):
        similar = difflib.get_close_matches(name, [*timm.list_models(), *SOLIDER_SWINS], n=5)
        raise ValueError(
            f"name is {name!r} (MODEL.SPNET.BACKBONE.NAME), not a timm {timm.__version__} model"
            + (f"; similar names: {', '.join(similar)}." if similar else ".")
        )


# Most models list their layers by themselves; EfficientNets keep all stages in one Sequential,
# which has to be flattened.
_LISTINGS = (
    {"feature_cls": "list"},
    {"feature_cfg": {"feature_cls": "list", "flatten_sequential": True}},
)


def _feature_options(name: str, kwargs: dict) -> dict:
    """How timm lists this model's layers, and which maps have strides 8, 16 and 32."""
    errors = []
    for listing in _LISTINGS:
        try:
            # timm changes the options it is given.
            with torch.device("meta"):
                model: Any = timm.create_model(name, **kwargs, **copy.deepcopy(listing))
            info = model.feature_info
        except (RuntimeError, AttributeError, AssertionError, TypeError) as error:
            errors.append(str(error))
            continue
        reductions = [entry["reduction"] for entry in info.info]
        missing = [stride for stride in STRIDES if stride not in reductions]
        if missing:
            errors.append(f"its maps have strides {reductions}, none has {missing}")
            continue
        # The last map of each stride.
        last = [max(i for i, r in enumerate(reductions) if r == stride) for stride in STRIDES]
        return {**copy.deepcopy(listing), "out_indices": tuple(last)}
    raise ValueError(
        f"timm model {name!r} can't serve as a trunk: {'; '.join(dict.fromkeys(errors))}. SPNet "
        f"needs a `features_only` model that lists its layers, with maps of strides {STRIDES}; "
        "plain vision transformers have none."
    )


def last_stage(trunk: FeatureListNet | SoliderSwin) -> nn.Sequential:
    """
    A copy of the trunk's layers from behind the stride-16 map to the stride-32 map.

    Layer names are the trunk's, so weights of one load into the other; SOLIDER's Swin has the
    norm of its stride-32 map as ``norm``.
    """
    if isinstance(trunk, SoliderSwin):
        stage = last_stage(trunk.body)
        stage.add_module("norm", copy.deepcopy(trunk.norms[-1]))
        return stage
    start, end = (name.replace(".", "_") for name in trunk.feature_info.module_name()[-2:])
    names = list(trunk.keys())
    chosen = names[names.index(start) + 1 : names.index(end) + 1]
    return nn.Sequential(OrderedDict((name, copy.deepcopy(trunk[name])) for name in chosen))


@torch.no_grad()
def pass_stride_16_on(fpn: FeaturePyramidNetwork) -> None:
    """
    Initialise an FPN so that p3 and p4 start as the trunk's stride-16 map.

    The stride-8 map comes in as Kaiming draws it, the stride-32 one faintly. RoI features then
    start as what the trunk's last stage, whose copy embeds them, was pretrained on: worth
    thousands of iterations to a short run.
    """
    fpn.inner_blocks[2][0].weight.mul_(0.1)
    nn.init.dirac_(fpn.inner_blocks[1][0].weight)
    for output in fpn.layer_blocks:
        nn.init.dirac_(output[0].weight)


def in_fast_layout(x: Tensor, module: nn.Module) -> Tensor:
    """
    ``x`` (N, C, H, W) in the memory layout in which convolutions of ``module`` are fastest.

    That is channels last, on CPUs twice as fast backward. But statistics of small batches magnify
    rounding: through ResNet-50, the layout alone moves losses by 1.5e-4. So where batch norms
    train, CPUs keep to torchvision's layout, and their numbers to the authors'.
    """
    exact = x.device.type == "cpu" and trains_batch_norms(module)
    return x.contiguous(memory_format=torch.contiguous_format if exact else torch.channels_last)


def _batch_norms(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def trains_batch_norms(module: nn.Module) -> bool:
    """Whether a batch norm in ``module`` takes, and keeps, the statistics of what passes it."""
    return any(norm.training for norm in _batch_norms(module))


def freeze_batch_norms(module: nn.Module) -> None:
    """Make every batch norm in ``module`` use its running statistics and stop training."""
    for norm in _batch_norms(module):
        norm.eval()
        norm.requires_grad_(False)


class PyramidBackbone(Backbone):
    """
    What SPNet needs of a backbone: a trunk with maps of strides 8, 16 and 32, and a pyramid on top.

    :class:`TimmFPN` is one. A backbone that is no timm model derives from this class, sets the
    attributes in its constructor, and has the three methods below; it is registered in
    ``BACKBONE_REGISTRY`` and named by ``MODEL.BACKBONE.NAME``.

    Attributes:
        trunk: the pretrained part, with a learning rate of its own (``SOLVER.BACKBONE_LR``).
        fpn: the part that makes the pyramid of the trunk's maps.
        trunk_channels: of the trunk's three maps.
        channels: C, of every level: that of the stride-16 map, so that RoI features of p3 fit the
            trunk's last stage.
        channels_last: the last stage takes and gives (N, H, W, C).
        roi_pooling: "max" or "avg", how RoI features become a vector.
        frozen: the trunk runs without gradients.
        freeze_bn: batch norms of the trunk and of the RoI heads' stage copies use their running
            statistics.
    """

    trunk: nn.Module
    fpn: nn.Module
    trunk_channels: tuple[int, ...]
    channels: int
    channels_last: bool = False
    roi_pooling: str = "max"
    frozen: bool = False
    freeze_bn: bool = False

    def trunk_maps(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> the trunk's maps of strides 8, 16 and 32, (N, channels, H_i, W_i)."""
        raise NotImplementedError

    def pyramid(self, maps: list[Tensor]) -> dict[str, Tensor]:
        """The trunk's maps -> levels p3..p7, each half as large as the one before, rounded up."""
        raise NotImplementedError

    def copy_last_stage(self) -> nn.Module:
        """A copy of the layers between the stride-16 and the stride-32 map, for the RoI heads."""
        raise NotImplementedError

    def finest(self, maps: list[Tensor]) -> Tensor:
        """The trunk's maps -> p3 alone."""
        return self.pyramid(maps)["p3"]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.pyramid(self.trunk_maps(x))

    def train(self, mode: bool = True):
        super().train(mode)
        if self.freeze_bn:
            freeze_batch_norms(self.trunk)
        return self

    @property
    def trunk_is_constant(self) -> bool:
        """Whether the trunk neither trains, nor draws at random, nor keeps statistics."""
        # Stochastic depth, dropout and their kind.
        random = any(
            m.training and (getattr(m, "drop_prob", 0) or getattr(m, "p", 0))
            for m in self.trunk.modules()
        )
        return self.frozen and not random and not trains_batch_norms(self.trunk)

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=self.channels, stride=8 << level)
            for level, name in enumerate(FEATURES)
        }

    @property
    def size_divisibility(self) -> int:
        return 32


@BACKBONE_REGISTRY.register()
class TimmFPN(PyramidBackbone):
    """
    timm trunk and FPN.

    Args of ``forward``: (N, 3, H, W) normalised RGB, any size. Returns ``{"p3": (N, C, H/8,
    W/8), ...}`` up to p7, every level's size rounded up.
    """

    trunk: FeatureListNet | SoliderSwin
    fpn: FeaturePyramidNetwork

    @configurable
    def __init__(
        self,
        trunk: FeatureListNet | SoliderSwin,
        freeze: bool = False,
        freeze_bn: bool = False,
        fpn_init: str = "kaiming",
        freeze_p3: bool = False,
    ):
        """
        Args:
            trunk: of :func:`create_trunk`.
            fpn_init: one of ``FPN_INITS``.
            freeze: run the trunk without gradients.
            freeze_bn: batch norms of the trunk use their running statistics.
            freeze_p3: the FPN's layers that make p3 don't train; the coarser levels' output
                convolutions do.

        Raises:
            ValueError: unknown ``fpn_init``.
        """
        super().__init__()
        self.trunk = trunk
        self.frozen = freeze
        self.freeze_bn = freeze_bn
        self.trunk_channels = tuple(trunk.feature_info.channels())
        self.channels_last = getattr(trunk, "output_fmt", "NCHW") == "NHWC"
        # C. The RoI heads' copies of the last stage take as many as the stride-16 map has.
        self.channels = self.trunk_channels[1]
        self.roi_pooling = getattr(trunk, "roi_pooling", "max")
        fpn = self.fpn = FeaturePyramidNetwork(
            list(self.trunk_channels),
            self.channels,
            extra_blocks=LastLevelP6P7(self.trunk_channels[2], self.channels),
        )
        use_fast_convolutions(self.fpn)
        if fpn_init not in FPN_INITS:
            raise ValueError(f"fpn_init is {fpn_init!r}, expected one of {FPN_INITS}.")
        if fpn_init == "identity":
            pass_stride_16_on(self.fpn)
        if freeze:
            trunk.requires_grad_(False)
        if freeze_p3:
            self.fpn.inner_blocks.requires_grad_(False)
            fpn.layer_blocks[0].requires_grad_(False)
        self.train(self.training)

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec | None = None):
        options, small = cfg.MODEL.SPNET.BACKBONE, cfg.MODEL.SPNET.SMALL_DATA
        trunk = trunk_of(cfg)
        if cfg.MODEL.SPNET.ACTIVATION_CHECKPOINTING:
            # Before the RoI heads copy its last stage.
            checkpoint_blocks(trunk)
        return {
            "trunk": trunk,
            "freeze": options.FREEZE,
            "freeze_bn": options.FREEZE_BN,
            "fpn_init": small.FPN_INIT,
            "freeze_p3": small.FREEZE_ROI,
        }

    def trunk_maps(self, x: Tensor) -> list[Tensor]:
        # A frozen trunk stays in train mode (stochastic depth), as the authors left it.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.trunk(in_fast_layout(x, self.trunk))
        if self.channels_last:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        return maps

    def pyramid(self, maps: list[Tensor]) -> dict[str, Tensor]:
        return dict(self.fpn(OrderedDict(zip(FEATURES, maps, strict=False))))

    def finest(self, maps: list[Tensor]) -> Tensor:
        """The trunk's maps -> p3 alone, without the other levels' convolutions."""
        p3, *coarser = (block(x) for block, x in zip(self.fpn.inner_blocks, maps, strict=True))
        running = coarser.pop()
        for lateral in (*coarser[::-1], p3):
            size = lateral.shape[-2:]
            running = lateral + nn.functional.interpolate(running, size=size, mode="nearest")
        return self.fpn.layer_blocks[0](running)

    def copy_last_stage(self) -> nn.Sequential:
        return last_stage(self.trunk)
