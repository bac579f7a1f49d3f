"""The meta architectures SeqNet and SeqNeXt: images -> losses or people."""

from collections import OrderedDict
from collections.abc import Mapping

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from timm.models import FeatureListNet
from torch import Tensor, nn
from torch.optim import Optimizer

from spnet_d2.checkpoint.transfer import TransferError
from spnet_d2.checkpoint.untrained import (
    refuse_random_trunk,
    refuse_untrained,
)

from ..backbone import freeze_batch_norms, pretrained_of, trunk_of
from ..config_problems import check_model_config
from ..device_copies import move
from ..gallery_filter import GalleryFilter, build_gallery_filter
from ..inputs import checked_image, checked_targets, to_original_size
from ..precision import autocast, inference_precision
from ..reid_losses.oim import OIMLoss
from ..swin import SOLIDER_SWINS, SoliderSwin
from .heads import SceneEmbedder, StageHead
from .oim import SeqNetOIM
from .roi_heads import SequentialHeads, Thresholds
from .rpn import RegionProposals

_DIVISIBILITY = 32
# How layers before the first stage are called, in ResNet, ConvNeXt and EfficientNet.
_STEM = ("conv1", "bn1", "stem", "conv_stem")
# Of training alone.
COUNTERS = ("num_batches_tracked", "gallery_filter.step")


class _SoliderMap(nn.Module):
    """SOLIDER's Swin up to its stride-16 map, through the layer norm of this map."""

    def __init__(self, trunk: SoliderSwin):
        super().__init__()
        self.body = _until_stride_16(trunk.body)
        self.norm = trunk.norms[-2]

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, c4, H/16, W/16)."""
        return self.norm(self.body(images)).permute(0, 3, 1, 2)


def stride_16(trunk: FeatureListNet | SoliderSwin) -> nn.Module:
    """
    The trunk's layers up to its stride-16 map.

    Raises:
        ValueError: a Swin that isn't SOLIDER's.
    """
    if isinstance(trunk, SoliderSwin):
        return _SoliderMap(trunk)
    if getattr(trunk, "output_fmt", "NCHW") != "NCHW":
        raise ValueError(
            "SeqNet and SeqNeXt take no Swin but SOLIDER's: set MODEL.SPNET.BACKBONE.NAME to one "
            f"of {', '.join(SOLIDER_SWINS)}, or to another trunk."
        )
    return _until_stride_16(trunk)


def _until_stride_16(trunk: FeatureListNet) -> nn.Sequential:
    end = trunk.feature_info.module_name()[-2].replace(".", "_")
    names = list(trunk.keys())
    chosen = names[: names.index(end) + 1]
    return nn.Sequential(OrderedDict((name, trunk[name]) for name in chosen))


class _Sequential(nn.Module):
    """What SeqNet and SeqNeXt share; input and output of ``forward`` are those of SPNet's
    object-centric pathway."""

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        trunk: nn.Module,
        heads: SequentialHeads,
        channels: int,
        smooth: float,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        gallery_filter: GalleryFilter | None = None,
        test_precision: str = "float32",
        awaits_weights: bool = False,
        freeze_bn: bool = False,
    ):
        """
        Args:
            trunk: image -> map of stride 16.
            heads: both stages.
            channels: of the map.
            smooth: beta of the proposals' box loss, 0 for L1.
            pixel_mean, pixel_std: RGB statistics on the 0..255 scale.
            gallery_filter: gives scenes embeddings.
            test_precision: of inference, see :mod:`..precision`.
            awaits_weights: a checkpoint will bring the trunk's pretrained weights.
            freeze_bn: batch norms of the trunk and its copies use their running statistics.
        """
        super().__init__()
        self.freeze_bn = freeze_bn
        self.backbone = trunk
        self.rpn = RegionProposals(channels, smooth)
        self.roi_heads = heads
        self.gallery_filter = gallery_filter
        self.test_precision = test_precision
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (pixel_mean, pixel_std))
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)
        # As in SPNet: tensors that a checkpoint left untouched, and those that one has to bring.
        self.untrained: tuple[str, ...] | None = None
        self.awaited = _names_of_trunk(self) if awaits_weights else frozenset()
        self.register_load_state_dict_post_hook(_note_loaded)

    @classmethod
    def _parts(cls, cfg: CfgNode, loss: type[OIMLoss], scores_again: bool) -> dict:
        # Also for those who build a model without this project's tools.
        check_model_config(cfg)
        options = cfg.MODEL.SPNET
        trunk = trunk_of(cfg)
        channels = tuple(trunk.feature_info.channels()[-2:])
        roi = cfg.MODEL.ROI_HEADS
        heads = SequentialHeads(
            StageHead(trunk),
            StageHead(trunk),
            channels,
            options.REID_DIM,
            loss.from_config(cfg),
            scores_again,
            Thresholds(roi.SCORE_THRESH_TEST, roi.NMS_THRESH_TEST, cfg.TEST.DETECTIONS_PER_IMAGE),
            options.ANCHORS_PER_IMAGE,
            options.SMALL_DATA.FREEZE_ROI,
        )
        scenes = SceneEmbedder(heads.second_head, heads.embedding, options.REID_DIM)
        layers = stride_16(trunk)
        if options.BACKBONE.FREEZE:
            layers.requires_grad_(False)
        return {
            "trunk": layers,
            "heads": heads,
            "gallery_filter": build_gallery_filter(cfg, scenes),
            "channels": channels[0],
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "test_precision": options.TEST.PRECISION,
            "awaits_weights": pretrained_of(cfg) != options.BACKBONE.PRETRAINED,
            "freeze_bn": options.BACKBONE.FREEZE_BN,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def train(self, mode: bool = True):
        super().train(mode)
        if not self.freeze_bn:
            return self
        for part in (self.backbone, self.roi_heads.first_head, self.roi_heads.second_head):
            freeze_batch_norms(part)
        if self.gallery_filter is not None:
            embedder = self.gallery_filter.embedder
            assert isinstance(embedder, SceneEmbedder)
            freeze_batch_norms(embedder.head)
        return self

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: as :class:`~spnet_d2.modeling.SPNet` takes them, without ``queries``.

        Returns:
            In training, losses: ``loss_rpn_cls``, ``loss_rpn_reg``, ``loss_proposal_cls``,
            ``loss_proposal_reg``, ``loss_box_cls``, ``loss_box_reg``, ``loss_reid`` and, if on,
            ``loss_gfn``. At inference, per image a dict with ``instances`` and, where the input has
            ``instances``, ``gt_embeddings``: ``{"reid": (n, D), "loc": (n, 0)}``; with a gallery
            filter also ``scene_embedding`` (D,) and ``scene_fuser``: see
            :mod:`spnet_d2.evaluation.scene_scores`.

        Raises:
            ValueError: an empty batch, images or boxes that can't be used.
        """
        if len(batched_inputs) == 0:
            raise ValueError("The model got an empty list of images; give it at least one.")
        if self.training:
            refuse_random_trunk(self.awaited)
            self.untrained = ()
            return self._losses(batched_inputs)
        refuse_untrained(self.untrained or ())
        with autocast(self.device, inference_precision(self.device, self.test_precision)):
            return self._inference(batched_inputs)

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """
        Take a checkpoint's weights; a memory of other sizes starts anew.

        Raises:
            TransferError: tensors are lacking, of other shapes, or unknown here.
        """
        own = self.state_dict()
        fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
        fitting |= {k: v for k, v in state.items() if k == "roi_heads.reid_loss.lut"}
        different = [n for n in (own.keys() | state.keys()) - fitting.keys() if _is_weight(n)]
        if different:
            raise TransferError(
                f"{len(different)} tensors don't fit this {type(self).__name__}: they are missing, "
                f"unknown, or of another shape: {', '.join(sorted(different)[:5])}."
            )
        if self.roi_heads.reid_loss.lut is not None:
            fitting = {k: v for k, v in fitting.items() if k not in own or own[k].shape == v.shape}
        self.load_state_dict(fitting, strict=False)

    def move_twin_with(self, optimizer: Optimizer) -> None:
        """What the trainer does for a momentum encoder; there is none here."""

    def _losses(self, batched_inputs: list[dict]) -> dict[str, Tensor]:
        given = [checked_targets(x, required=True) for x in batched_inputs]
        batch = self.batch_of(batched_inputs)
        people = [targets.to(self.device) for targets in given]
        features = self.backbone(batch.tensor)
        boxes = [targets.gt_boxes.tensor for targets in people]
        losses = {}
        if self.gallery_filter is not None:
            # First: with "oim", queries are rows of the table as the step before left it.
            losses = self.gallery_filter.losses_of(
                self.gallery_filter.embed(features),
                self.roi_heads.embed_together(features, boxes),
                batched_inputs,
                given,
                self.roi_heads.reid_loss.lut,
            )
        proposals, of_proposals = self.rpn(features, batch.image_sizes, boxes)
        of_heads = self.roi_heads.losses(features, proposals, batch.image_sizes, people)
        return {**losses, **of_proposals, **of_heads}

    def _inference(self, batched_inputs: list[dict]) -> list[dict]:
        """In groups of images that pad to the same size, so that results don't depend on others."""
        groups: dict[tuple, list[int]] = {}
        for i, x in enumerate(batched_inputs):
            padded = (-(-side // _DIVISIBILITY) for side in checked_image(x).shape[-2:])
            groups.setdefault((*padded, bool(x.get("embed_only"))), []).append(i)
        results: list[dict] = [{} for _ in batched_inputs]
        for indices in groups.values():
            found = self._of_one_size([batched_inputs[i] for i in indices])
            for i, result in zip(indices, found, strict=True):
                results[i] = result
        return results

    def _of_one_size(self, batched_inputs: list[dict]) -> list[dict]:
        batch = self.batch_of(batched_inputs)
        features = self.backbone(batch.tensor)
        results: list[dict] = [{} for _ in batched_inputs]
        if not batched_inputs[0].get("embed_only"):
            proposals, _ = self.rpn(features, batch.image_sizes, None)
            found = self.roi_heads.detect(features, proposals, batch.image_sizes)
            for result, people, x in zip(results, found, batched_inputs, strict=True):
                result["instances"] = to_original_size(people, x)
        if self.gallery_filter is not None:
            scoring, scenes = self.gallery_filter.scoring(), self.gallery_filter.embed(features)
            for result, scene in zip(results, scenes, strict=True):
                result.update(scene_embedding=scene, scene_fuser=scoring)
        boxes = [checked_targets(x).gt_boxes.tensor.to(self.device) for x in batched_inputs]
        for i, (result, x) in enumerate(zip(results, batched_inputs, strict=True)):
            if "instances" in x:
                (reid,) = self.roi_heads.embed_boxes(features[i : i + 1], [boxes[i]])
                result["gt_embeddings"] = {"reid": reid, "loc": reid[:, :0]}
        return results

    def batch_of(self, batched_inputs: list[dict]) -> ImageList:
        """Images of a batch as the trunk takes them."""
        images = move([checked_image(x) for x in batched_inputs], self.device)
        images = [(image.float() - self.pixel_mean) / self.pixel_std for image in images]
        return ImageList.from_tensors(images, _DIVISIBILITY)


def _freeze(trunk: nn.Module, names: tuple[str, ...]) -> None:
    for name, layer in trunk.named_children():
        if name.startswith(names):
            layer.requires_grad_(False)


def _is_weight(name: str) -> bool:
    """Whether it is neither of training's memory nor a counter."""
    return not name.startswith("roi_heads.reid_loss.") and not name.endswith(COUNTERS)


def _names_of_trunk(model: nn.Module) -> frozenset[str]:
    """Tensors that ``MODEL.SPNET.BACKBONE.PRETRAINED`` fills, in the trunk and in its copies."""
    return frozenset(
        name
        for name in model.state_dict()
        if (name.startswith("backbone.") or "head.stage." in name)
        and not name.endswith("num_batches_tracked")
    )


def _note_loaded(model: _Sequential, incompatible) -> None:
    """Remember what a checkpoint lacked, but for memories of training and counters."""
    missing = frozenset(incompatible.missing_keys)
    model.awaited &= missing
    before = model.untrained
    model.untrained = tuple(
        name
        for name in model.state_dict()
        if name in missing and _is_weight(name) and (before is None or name in before)
    )


@META_ARCH_REGISTRY.register()
class SeqNet(_Sequential):
    """
    SeqNet: batch norms train (by default), a detection's score is the first stage's.

    The stem's weights are frozen (of SOLIDER's Swin, nothing is); its running statistics move.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        parts = cls._parts(cfg, SeqNetOIM, scores_again=False)
        _freeze(parts["trunk"], _STEM)
        return {**parts, "smooth": 0.0}


@META_ARCH_REGISTRY.register()
class SeqNeXt(_Sequential):
    """
    SeqNeXt: a modern trunk, or ResNet-50 with frozen batch norms; a detection's score is the second
    stage's.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        parts = cls._parts(cfg, OIMLoss, scores_again=True)
        _freeze(parts["trunk"], (*_STEM, "layer1"))
        return {**parts, "smooth": 1 / 9, "freeze_bn": True}
