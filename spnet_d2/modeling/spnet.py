"""The meta architecture SPNet (Jaffe and Zakhor, WACV 2025): images -> losses or people.

Shapes: ``N`` images, ``n`` boxes of an image, ``D`` / ``D_r`` localisation / re-id size.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    build_backbone,
    build_proposal_generator,
)
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY
from detectron2.structures import ImageList, Instances
from detectron2.utils import comm
from torch import Tensor, nn
from torch.optim import Optimizer

from ..checkpoint.untrained import (
    names_of_pretrained,
    note_loaded,
    refuse_random_trunk,
    refuse_untrained,
)
from . import whole_batch
from .backbone import FEATURES, PyramidBackbone, pretrained_of
from .box_embedder import RoiMap
from .compiling import compile_networks
from .config_problems import check_model_config
from .device_copies import move
from .gallery_filter import GalleryFilter, build_gallery_filter
from .inputs import checked_image, checked_queries, checked_targets, to_original_size
from .known_counts import known_counts
from .lwf import LearningWithoutForgetting, imagenet_classifier
from .momentum_encoder import MomentumTwin
from .pair_sampler import Pairs, make_queries, unique_people
from .precision import autocast, inference_precision
from .proposal_generator import SwapPathProposalGenerator
from .query_results import QueryInstances
from .roi_heads import ROI_MAP, Features, SPNetROIHeads
from .swap_path import PATHWAYS
from .sync_batch_norm import synchronise_batch_norms, synchronise_trunk
from .targets import Targets
from .whole_batch import Share

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MoreParts:
    """
    What trains beside detection and re-id.

    Attributes:
        twin: the momentum encoder, for the re-id loss.
        lwf: learning without forgetting.
        gallery_filter: gives scenes embeddings.
        reid_only: train re-id alone.
    """

    twin: MomentumTwin | None = None
    lwf: LearningWithoutForgetting | None = None
    gallery_filter: GalleryFilter | None = None
    reid_only: bool = False

    @classmethod
    def from_config(
        cls, cfg: CfgNode, backbone: PyramidBackbone, roi_heads: SPNetROIHeads
    ) -> "MoreParts":
        options = cfg.MODEL.SPNET
        twin = lwf = None
        if options.MOMENTUM_TWIN.ENABLED:
            momentum = options.MOMENTUM_TWIN.MOMENTUM
            twin = MomentumTwin(backbone, roi_heads.reid_embedder, momentum)
        if options.LWF.ENABLED:
            classifier = imagenet_classifier(options.BACKBONE.NAME, pretrained_of(cfg))
            lwf = LearningWithoutForgetting(backbone, classifier)
        filtering = build_gallery_filter(cfg, roi_heads.reid_embedder)
        return cls(twin, lwf, filtering, options.REID.ONLY)


@dataclass(frozen=True)
class Running:
    """
    How a machine runs a model.

    Attributes:
        sync_bn: batch norms see the batches of all processes together.
        sync_trunk: those of the trunk by PyTorch's own layers, which need GPUs.
        compiled: ``torch.compile`` trunks and RoI stages, see :mod:`.compiling`.
        test_precision: of inference, see :mod:`.precision`.
        awaits_weights: the trunk's pretrained weights are not there yet: a checkpoint brings them
            before training.
    """

    sync_bn: bool = False
    sync_trunk: bool = False
    compiled: bool = False
    test_precision: str = "float32"
    awaits_weights: bool = False


@META_ARCH_REGISTRY.register()
class SPNet(nn.Module):
    """
    Backbone, proposal generator (anchors), RoI heads (cascade stages and re-id).

    The input of ``forward`` is Detectron2's ``list[dict]``:

    - ``image``: (3, H, W) RGB, uint8 or float in 0..255; any size;
    - ``height``, ``width``: original size, which outputs are scaled back to (default: H, W);
    - ``instances``: ground truth in the frame of ``image``: ``gt_boxes``, ``gt_classes``,
      ``gt_person_ids``, ``gt_identities``. Needed in training; at inference their embeddings
      are returned (only ``gt_boxes`` is read then);
    - ``ignore_boxes``: optional ``Boxes``, regions whose background trains nothing;
    - ``queries``: optional for each image, people to search for at inference: ``{"reid":
      (Q, D_r), "loc": (Q, D)}``, embeddings that this model gave for their boxes;
    - ``embed_only``: optional, true to embed ``instances`` at inference and detect nobody.
    """

    backbone: PyramidBackbone
    # Or classes of others with the same interface.
    proposal_generator: SwapPathProposalGenerator
    roi_heads: SPNetROIHeads
    pixel_mean: Tensor
    pixel_std: Tensor
    # Queries of an image searched at a time: bounds memory, changes no result.
    queries_per_chunk = 64

    @configurable
    def __init__(
        self,
        *,
        backbone: PyramidBackbone,
        proposal_generator: nn.Module,
        roi_heads: nn.Module,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        pathway: str = "OC",
        test_pathway: str = "",
        more: "MoreParts | None" = None,
        running: "Running | None" = None,
    ):
        """
        Args:
            backbone: image -> pyramid.
            proposal_generator: pyramid -> samples and losses, or proposals.
            roi_heads: the cascade stages after it, and re-id.
            pixel_mean, pixel_std: RGB statistics on the 0..255 scale.
            pathway: "OC" or "QC", of training.
            test_pathway: of inference, default the same. "QC" detects only the people that
                ``queries`` name.
            more: what trains beside detection and re-id; default: nothing.
            running: how a machine runs it; default: as it is, in float32.

        Raises:
            ValueError: unknown pathway.
        """
        super().__init__()
        test_pathway = test_pathway or pathway
        for name, value in (("pathway", pathway), ("test_pathway", test_pathway)):
            if value not in PATHWAYS:
                raise ValueError(f"{name} is {value!r}, expected one of {PATHWAYS}.")
        more, running = more or MoreParts(), running or Running()
        self.test_precision = running.test_precision
        self.pathway = pathway
        self.test_pathway = test_pathway
        self.twin = more.twin
        self.reid_only = more.reid_only
        self.backbone = backbone
        self.proposal_generator = proposal_generator  # type: ignore[assignment]
        self.roi_heads = roi_heads  # type: ignore[assignment]
        self.lwf = more.lwf
        self.gallery_filter = more.gallery_filter
        trunks = [backbone.trunk, *([] if more.twin is None else [more.twin.backbone.trunk])]
        if running.sync_bn and comm.get_world_size() > 1:
            if running.sync_trunk:
                for trunk in trunks:
                    synchronise_trunk(trunk)
            synchronise_batch_norms(self)
        if running.compiled:
            compile_networks(self, trunks)
        # Tensors that a checkpoint left untouched; None: there was no checkpoint.
        self.untrained: tuple[str, ...] | None = None
        # Tensors of pretrained weights that a checkpoint has to bring.
        self.awaited = names_of_pretrained(self) if running.awaits_weights else frozenset()
        self.warned = False
        self.register_load_state_dict_post_hook(note_loaded)
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (pixel_mean, pixel_std))
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)

    @classmethod
    def from_config(cls, cfg):
        options = cfg.MODEL.SPNET
        # Also for those who build a model without this project's tools.
        check_model_config(cfg)
        backbone = build_backbone(cfg)
        # Not Detectron2's builder: the RoI heads copy the trunk's last stage.
        roi_heads = ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)(cfg, backbone)
        return {
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, backbone.output_shape()),
            "roi_heads": roi_heads,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "pathway": options.PATHWAY,
            "test_pathway": options.TEST_PATHWAY,
            "more": MoreParts.from_config(cfg, backbone, roi_heads),
            "running": Running(
                sync_bn=options.SYNC_BN,
                sync_trunk=cfg.MODEL.DEVICE.startswith("cuda"),
                compiled=options.COMPILE,
                test_precision=options.TEST.PRECISION,
                awaits_weights=pretrained_of(cfg) != options.BACKBONE.PRETRAINED,
            ),
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: see the class.

        Returns:
            In training, losses: ``loss_anchor``, ``loss_box_t`` (t = 0 .. T), ``loss_cls_t``
            (t >= 1), ``loss_reid`` and, if on, ``loss_lwf`` and ``loss_gfn``. At inference, per
            image a dict with ``instances`` (``pred_boxes``, ``scores``, ``pred_classes``,
            ``reid_embeddings``; boxes in original-image pixels) and, if the input has
            ``instances``, ``gt_embeddings``: ``{"reid": (n, D_r), "loc": (n, D)}``; with a gallery
            filter also ``scene_embedding`` (D_r,) and ``scene_fuser`` (3, D_r) or None. Where the
            input has ``queries``, or the test pathway is "QC", ``query_instances`` stands instead
            of ``instances``: a sequence of one ``Instances`` per query, made when it is read; and
            ``query_detections``, all of them in one, query by query, with the query's place as
            ``query_index``.

        Raises:
            ValueError: an empty batch, images or boxes that can't be used.
            UntrainedModelError: at inference, parts of the model are neither in the loaded
                checkpoint nor trained since.
        """
        if len(batched_inputs) == 0:
            raise ValueError("SPNet got an empty list of images; give it at least one.")
        if self.training:
            refuse_random_trunk(self.awaited)
            self.untrained = ()
            return self._losses(batched_inputs)
        refuse_untrained(self.untrained or ())
        if self.untrained is None and not self.warned:
            self.warned = True
            logger.warning(
                "No checkpoint was loaded into this model, nor was it trained: what it detects, if "
                "anything, is by chance. Set MODEL.WEIGHTS to a checkpoint."
            )
        precision = inference_precision(self.device, self.test_precision)
        with autocast(self.device, precision):
            return self._inference(batched_inputs)

    def move_twin(self) -> None:
        """One step of the momentum encoder, if there is one, towards the weights as they are."""
        if self.twin is not None:
            self.twin.update(self.backbone, self.roi_heads.reid_embedder)

    def move_twin_with(self, optimizer: Optimizer) -> None:
        """
        Move the momentum encoder right before every step of an optimiser, and only then.

        It then follows the weights of the step before, and stays where no step is taken: for a bad
        batch, and in the parts of an accumulated one. ``spnet_d2.engine.Trainer`` does this.
        """
        optimizer.register_step_pre_hook(lambda *_: self.move_twin())
        if self.twin is not None:
            self.twin.follows = True

    def _losses(self, batched_inputs: list[dict]) -> dict[str, Tensor]:
        query_centric = self.pathway == "QC"
        # All that the host has to know of the batch, before it is on a GPU.
        images = [checked_image(x) for x in batched_inputs]
        given = [checked_targets(x, required=True) for x in batched_inputs]
        targets = self._collect(batched_inputs, given)
        people, rows, queries, pairs = targets, None, None, None
        if query_centric:
            people, rows, pairs = self._sample_pairs(batched_inputs, given)
        images, targets, people, rows, pairs = move(
            (images, targets, people, rows, pairs), self.device
        )
        batch = self._batch(images)
        if not query_centric and not whole_batch.in_last_pass():
            counts = self._known_counts(batch, targets)
            if counts is not None:
                return whole_batch.means(counts)
        maps = self.backbone.trunk_maps(batch.tensor)
        pyramid = self.backbone.pyramid(maps)
        features = with_roi_map(pyramid)
        gt = self.roi_heads.embed_boxes(features, targets.rois, with_loc=query_centric)
        if query_centric:
            assert gt.loc is not None
            queries = gt.loc[rows]
        samples, losses = self.proposal_generator(batch, pyramid, people, queries, pairs)
        teacher = self._teacher(batch, maps)
        if teacher is not None:
            # All boxes, those of people annotated twice as well, are one batch to its norms.
            gt.teacher = teacher(targets.rois)
        if query_centric:
            gt = gt.of_queries(rows)
        losses.update(self.roi_heads.losses(features, samples, people, gt, teacher))
        if self.lwf is not None and not self.reid_only:
            losses["loss_lwf"] = self.lwf(batch.tensor, maps[-1])
        if self.gallery_filter is not None:
            scenes = self.gallery_filter.embed(pyramid[FEATURES[0]])
            table = getattr(self.roi_heads.reid_loss, "lut", None)
            losses.update(
                self.gallery_filter.losses_of(scenes, gt.reid, batched_inputs, given, table)
            )
        if self.reid_only:
            losses = {"loss_reid": losses["loss_reid"]}
        return whole_batch.means(losses)

    def _sample_pairs(
        self, batched_inputs: list[dict], given: list[Instances]
    ) -> tuple[Targets, Tensor, Pairs]:
        """
        Queries of a query-centric batch and the images they are searched in, on the host.

        Returns:
            Ground truth of the queries; their rows (Q,) among all ground-truth boxes; the sampled
            (query, image) pairs.
        """
        masks = unique_people(given)
        queries = make_queries(given, masks, None, self.roi_heads.id_field)
        pairs = self.proposal_generator.sample_pairs(queries, len(given))
        people = self._collect(batched_inputs, [t[mask] for t, mask in zip(given, masks)])
        return people, torch.cat(masks).nonzero()[:, 0], pairs

    def _known_counts(self, batch: ImageList, targets: Targets) -> dict[str, Share] | None:
        """What losses are divided by, if annotations alone say it; else None."""
        return known_counts(
            self.proposal_generator,
            self.roi_heads,
            batch.tensor.shape[-2:],
            targets,
            self.reid_only,
            self.lwf is not None,
        )

    def _teacher(self, batch: ImageList, maps: list[Tensor]) -> Callable[[Tensor], Tensor] | None:
        """The momentum encoder on this batch: boxes (n, 5) -> embeddings (n, D_r)."""
        if self.twin is None:
            return None
        self.twin.mention_standstill()
        p3 = RoiMap.of(self.twin.features(batch.tensor, self.backbone, maps))
        return partial(self.twin.embed, p3)

    def targets_of(self, batched_inputs: list[dict]) -> Targets:
        """Ground truth of a batch, on the model's device."""
        given = [checked_targets(x, required=True) for x in batched_inputs]
        return move(self._collect(batched_inputs, given), self.device)

    def _collect(self, batched_inputs: list[dict], given: list[Instances]) -> Targets:
        """Ground truth of a training batch, on the host."""
        ignore = [x.get("ignore_boxes") for x in batched_inputs]
        return Targets.collect(
            [t.gt_boxes.tensor for t in given],
            [t.get(self.roi_heads.id_field) for t in given],
            [tuple(x["image"].shape[-2:]) for x in batched_inputs],
            [None if boxes is None else boxes.tensor.float().cpu() for boxes in ignore],
        )

    def _inference(self, batched_inputs: list[dict]) -> list[dict]:
        """
        Detect, in groups of images that pad to the same size and are searched the same way.

        Padding moves anchors of the coarse levels and reaches into features: padding images to
        one another's size would make a result depend on what else is in the batch.
        """
        div = self.backbone.size_divisibility
        dim = self.proposal_generator.anchor_embedder.dim
        images = [checked_image(x) for x in batched_inputs]
        boxes = [checked_targets(x).gt_boxes.tensor for x in batched_inputs]
        queries = [checked_queries(x, dim) for x in batched_inputs]
        images, boxes, queries = move((images, boxes, queries), self.device)
        groups: dict[tuple, list[int]] = {}
        for i, image in enumerate(images):
            padded = (-(-side // div) * div for side in image.shape[-2:])
            x = batched_inputs[i]
            kind = "embed" if x.get("embed_only") else "search" if "queries" in x else "detect"
            groups.setdefault((*padded, kind), []).append(i)
        results: list[dict] = [{} for _ in images]
        for indices in groups.values():
            inputs = [_Input(batched_inputs[i], boxes[i], queries[i]) for i in indices]
            batch = self._batch([images[i] for i in indices])
            for i, result in zip(indices, self._detect(inputs, batch), strict=True):
                results[i] = result
        return results

    def _detect(self, inputs: list["_Input"], batch: ImageList) -> list[dict]:
        """Detections, and embeddings of given boxes, of one group of :meth:`_inference`."""
        pyramid = self.backbone(batch.tensor)
        features = with_roi_map(pyramid)
        results: list[dict] = [{} for _ in inputs]
        if inputs[0].given.get("embed_only"):
            pass
        elif "queries" in inputs[0].given:
            results = self._search(inputs, batch, pyramid, features)
        elif self.test_pathway == "QC":
            results = [{"query_instances": []} for _ in inputs]
        else:
            proposals, _ = self.proposal_generator(batch, pyramid)
            detections = self.roi_heads.detect(features, batch.image_sizes, proposals)
            results = [
                {"instances": to_original_size(d, x.given)} for d, x in zip(detections, inputs)
            ]
        if self.gallery_filter is not None:
            fuser = self.gallery_filter.scoring()
            scenes = self.gallery_filter.embed(pyramid[FEATURES[0]])
            for result, scene in zip(results, scenes, strict=True):
                result.update(scene_embedding=scene, scene_fuser=fuser)
        if any("instances" in x.given for x in inputs):
            boxes = [x.boxes for x in inputs]
            counts = [len(b) for b in boxes]
            embedded = self.roi_heads.embed_boxes(features, boxes)
            assert embedded.loc is not None
            reid, loc = (x.split(counts) for x in (embedded.reid, embedded.loc))
            for x, result, r, e in zip(inputs, results, reid, loc, strict=True):
                if "instances" in x.given:
                    result["gt_embeddings"] = {"reid": r, "loc": e}
        return results

    def _search(
        self,
        inputs: list["_Input"],
        batch: ImageList,
        pyramid: dict[str, Tensor],
        features: Features,
    ) -> list[dict]:
        """
        Detections of every image for each of its queries.

        Images are encoded once, queries go in chunks: beside the results, memory does not grow
        with their number.
        """
        queries = [x.queries for x in inputs]
        sizes = batch.image_sizes
        anchors, x_a = self.proposal_generator.embed_anchors(batch, pyramid)
        parts: list[list[Instances]] = [[] for _ in inputs]
        for first in range(0, max(map(len, queries)), self.queries_per_chunk):
            chunk = [q[first : first + self.queries_per_chunk] for q in queries]
            proposals = self.proposal_generator.search(anchors, x_a, sizes, chunk)
            detections = self.roi_heads.detect(features, sizes, proposals, chunk)
            for part, found in zip(parts, detections, strict=True):
                found.query_index += first
                part.append(found)
        results: list[dict] = [{"query_instances": []} for _ in inputs]
        for result, part, x in zip(results, parts, inputs, strict=True):
            if part:
                found = to_original_size(Instances.cat(part), x.given)
                result["query_detections"] = found
                result["query_instances"] = QueryInstances(found, len(x.queries))
        return results

    def _batch(self, images: list[Tensor]) -> ImageList:
        """Images (3, H, W), checked and on the device, in the network's units and padded."""
        images = [(image.float() - self.pixel_mean) / self.pixel_std for image in images]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)

    def batch_of(self, batched_inputs: list[dict]) -> ImageList:
        """Images of a batch as the backbone takes them."""
        return self._batch(move([checked_image(x) for x in batched_inputs], self.device))


class _Input(NamedTuple):
    """One image's dict at inference, and what of it is on the device."""

    given: dict
    boxes: Tensor
    queries: Tensor


def with_roi_map(features: Mapping[str, Tensor]) -> Features:
    """A pyramid, and what RoIs are pooled from."""
    return {**features, ROI_MAP: RoiMap.of(features[FEATURES[0]])}
