"""The meta architecture SPNet (Jaffe and Zakhor, WACV 2025): images -> losses or people.

Shapes: ``N`` images, ``n`` boxes of an image, ``D`` / ``D_r`` localisation / re-id size.
"""

import logging
from functools import partial

import torch
from detectron2.config import configurable
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    Backbone,
    build_backbone,
    build_proposal_generator,
)
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from .backbone import pretrained_of
from .lwf import LearningWithoutForgetting, imagenet_classifier
from .momentum import MomentumTwin
from .pair_sampler import make_queries, unique_people
from .precision import autocast, inference_precision
from .serving import names_of_pretrained, note_loaded, refuse_random_trunk, refuse_untrained
from .sync_batch_norm import synchronise_batch_norms

logger = logging.getLogger(__name__)

PATHWAYS = ("OC", "QC")
_TRAINING_FIELDS = ("gt_boxes", "gt_person_ids", "gt_identities")


@META_ARCH_REGISTRY.register()
class SPNet(nn.Module):
    """
    Backbone, proposal generator (first round), RoI heads (further rounds and re-id).

    The input of ``forward`` is Detectron2's ``list[dict]``:

    - ``image``: (3, H, W) RGB, uint8 or float in 0..255; any size;
    - ``height``, ``width``: original size, which outputs are scaled back to (default: H, W);
    - ``instances``: ground truth in the frame of ``image``: ``gt_boxes``, ``gt_classes``,
      ``gt_person_ids``, ``gt_identities``. Needed in training; at inference their embeddings
      are returned (only ``gt_boxes`` is read then);
    - ``ignore_boxes``: optional ``Boxes``, regions whose background trains nothing;
    - ``queries``: optional for each image, people to search for at inference: ``{"reid":
      (Q, D_r), "loc": (Q, D)}``, embeddings that this model gave for their boxes.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: nn.Module,
        roi_heads: nn.Module,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        pathway: str = "OC",
        test_pathway: str = "",
        twin: MomentumTwin | None = None,
        lwf: LearningWithoutForgetting | None = None,
        lwf_loss_weight: float = 1.0,
        reid_only: bool = False,
        queries_per_chunk: int = 64,
        sync_bn: bool = False,
        test_precision: str = "float32",
        awaits_weights: bool = False,
    ):
        """
        Args:
            backbone: image -> pyramid.
            proposal_generator: pyramid -> samples and losses, or proposals.
            roi_heads: the rounds after it.
            pixel_mean, pixel_std: RGB statistics on the 0..255 scale.
            pathway: "OC" or "QC", of training.
            test_pathway: of inference, default the same. "QC" detects only what it is asked
                for by ``queries``.
            twin: momentum twin for the re-id loss.
            lwf: learning without forgetting, and the factor on its loss.
            reid_only: train re-id alone.
            queries_per_chunk: queries of an image searched at a time.
            sync_bn: batch norms see the batches of all processes together.
            test_precision: of inference, see :mod:`.precision`.
            awaits_weights: the trunk's pretrained weights are not there yet: a checkpoint brings
                them before training.

        Raises:
            ValueError: unknown pathway, or a chunk without queries.
        """
        super().__init__()
        test_pathway = test_pathway or pathway
        for key, value in (("PATHWAY", pathway), ("TEST_PATHWAY", test_pathway)):
            if value not in PATHWAYS:
                raise ValueError(f"MODEL.SPNET.{key} is {value!r}, expected one of {PATHWAYS}.")
        if queries_per_chunk < 1:
            raise ValueError(
                f"MODEL.SPNET.TEST.QUERIES_PER_CHUNK must be 1 or more, found {queries_per_chunk}."
            )
        self.queries_per_chunk = queries_per_chunk
        self.test_precision = test_precision
        self.pathway = pathway
        self.test_pathway = test_pathway
        self.twin = twin
        # False where the trainer moves the twin, with the optimiser's steps.
        self.update_twin = True
        self.lwf_loss_weight = lwf_loss_weight
        self.reid_only = reid_only
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        self.lwf = lwf
        if sync_bn:
            synchronise_batch_norms(self)
        # Tensors that a checkpoint left untouched; None: there was no checkpoint.
        self.untrained: tuple[str, ...] | None = None
        # Tensors of pretrained weights that a checkpoint has to bring.
        self.awaited = names_of_pretrained(self) if awaits_weights else frozenset()
        self.warned = False
        self.register_load_state_dict_post_hook(note_loaded)
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (pixel_mean, pixel_std))
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)

    @classmethod
    def from_config(cls, cfg):
        options = cfg.MODEL.SPNET
        # Detectron2's tools turn pictures into what the config says, the model takes RGB.
        if cfg.INPUT.FORMAT != "RGB":
            raise ValueError(f'INPUT.FORMAT must be "RGB" for SPNet, found "{cfg.INPUT.FORMAT}".')
        backbone = build_backbone(cfg)
        # Not Detectron2's builder: the RoI heads copy the trunk's last stage.
        roi_heads = ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)(cfg, backbone)
        twin = None
        if options.MOMENTUM_TWIN.ENABLED:
            if options.REID.LOSS != "momentum_queue":
                raise ValueError(
                    "MODEL.SPNET.MOMENTUM_TWIN fills the momentum queue, but MODEL.SPNET.REID.LOSS "
                    f"is {options.REID.LOSS!r}: set it to 'momentum_queue', or turn the twin off."
                )
            momentum = options.MOMENTUM_TWIN.MOMENTUM
            twin = MomentumTwin(backbone, roi_heads.reid_embedder, momentum)
        lwf = None
        if options.LWF.ENABLED:
            classifier = imagenet_classifier(options.BACKBONE.NAME, pretrained_of(cfg))
            lwf = LearningWithoutForgetting(backbone, classifier, options.LWF.TEMPERATURE)
        return {
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, backbone.output_shape()),
            "roi_heads": roi_heads,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "pathway": options.PATHWAY,
            "test_pathway": options.TEST_PATHWAY,
            "twin": twin,
            "lwf": lwf,
            "lwf_loss_weight": options.LWF.LOSS_WEIGHT,
            "reid_only": options.REID.ONLY,
            "queries_per_chunk": options.TEST.QUERIES_PER_CHUNK,
            "sync_bn": options.SYNC_BN,
            "test_precision": options.TEST.PRECISION,
            "awaits_weights": pretrained_of(cfg) != options.BACKBONE.PRETRAINED,
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
            (t >= 1), ``loss_reid`` and, if on, ``loss_lwf``. At inference, per image a dict with
            ``instances`` (``pred_boxes``, ``scores``, ``pred_classes``, ``reid_embeddings``;
            boxes in original-image pixels) and, if the input has ``instances``,
            ``gt_embeddings``: ``{"reid": (n, D_r), "loc": (n, D)}``. Where the input has
            ``queries``, or the test pathway is "QC", ``query_instances`` stands instead of
            ``instances``: a list of one ``Instances`` per query.

        Raises:
            ValueError: an empty batch, images or boxes that can't be used.
            UntrainedModelError: detections are asked for, but the checkpoint that was loaded
                left parts of the model untouched, which were not trained since.
        """
        if not batched_inputs:
            raise ValueError("SPNet got an empty list of images; give it at least one.")
        images = [self._normalise(x) for x in batched_inputs]
        if self.training:
            refuse_random_trunk(self.awaited)
            self.untrained = ()
            return self._losses(batched_inputs, images)
        refuse_untrained(self.untrained or ())
        if self.untrained is None and not self.warned:
            self.warned = True
            logger.warning(
                "No checkpoint was loaded into this model, nor was it trained: what it detects, if "
                "anything, is by chance. Set MODEL.WEIGHTS to a checkpoint."
            )
        precision = inference_precision(self.device, self.test_precision)
        with autocast(self.device, precision):
            return self._inference(batched_inputs, images)

    def move_twin(self) -> None:
        """One step of the momentum twin, if there is one, towards the weights as they are."""
        if self.twin is not None:
            self.twin.update(self.backbone, self.roi_heads.reid_embedder)

    def _losses(self, batched_inputs: list[dict], images: list[Tensor]) -> dict[str, Tensor]:
        targets = [self._targets(x, required=True) for x in batched_inputs]
        ignore = [x.get("ignore_boxes") for x in batched_inputs]
        batch = ImageList.from_tensors(images, self.backbone.size_divisibility)
        maps = self.backbone.trunk_maps(batch.tensor)
        features = self.backbone.pyramid(maps)
        query_centric = self.pathway == "QC"
        boxes = [t.gt_boxes.tensor for t in targets]
        gt = self.roi_heads.embed_boxes(features, boxes, with_loc=query_centric)
        queries = None
        if query_centric:
            masks = unique_people(targets)
            queries = make_queries(targets, masks, gt["loc"], self.roi_heads.id_field)
            targets = [t[mask] for t, mask in zip(targets, masks)]
            gt["reid"] = gt["reid"][torch.cat(masks)]
        samples, losses = self.proposal_generator(batch, features, targets, ignore, queries)
        teacher = None
        if self.twin is not None:
            p3 = self.twin.features(batch.tensor, self.backbone, maps)
            teacher = partial(self.twin.embed, p3)
            # All boxes, those of people annotated twice as well, are one batch to its norms.
            gt["teacher"] = teacher(boxes)
            if query_centric:
                gt["teacher"] = gt["teacher"][torch.cat(masks)]
        losses.update(
            self.roi_heads.losses(features, batch.image_sizes, samples, targets, gt, teacher)
        )
        if self.lwf is not None and not self.reid_only:
            losses["loss_lwf"] = self.lwf(batch.tensor, maps[-1]) * self.lwf_loss_weight
        if self.update_twin:
            # After the forward pass, before the optimiser's step: from the last step's weights.
            self.move_twin()
        if self.reid_only:
            return {"loss_reid": losses["loss_reid"]}
        return losses

    def _inference(self, batched_inputs: list[dict], images: list[Tensor]) -> list[dict]:
        """
        Detect, in groups of images that pad to the same size and all have queries or none has.

        Padding moves anchors of the coarse levels and reaches into features: padding images to
        one another's size would make a result depend on what else is in the batch.
        """
        div = self.backbone.size_divisibility
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, image in enumerate(images):
            padded = (-(-side // div) * div for side in image.shape[-2:])
            groups.setdefault((*padded, "queries" in batched_inputs[i]), []).append(i)
        results: list[dict] = [{} for _ in images]
        for indices in groups.values():
            batch = ImageList.from_tensors([images[i] for i in indices], div)
            inputs = [batched_inputs[i] for i in indices]
            for i, result in zip(indices, self._detect(inputs, batch), strict=True):
                results[i] = result
        return results

    def _detect(self, batched_inputs: list[dict], batch: ImageList) -> list[dict]:
        """Detections, and embeddings of given boxes, of one group of :meth:`_inference`."""
        features = self.backbone(batch.tensor)
        if "queries" in batched_inputs[0]:
            results = self._search(batched_inputs, batch, features)
        elif self.test_pathway == "QC":
            results = [{"query_instances": []} for _ in batched_inputs]
        else:
            proposals, _ = self.proposal_generator(batch, features)
            detections = self.roi_heads.detect(features, batch.image_sizes, proposals)
            results = [
                {"instances": to_original_size(d, x)} for d, x in zip(detections, batched_inputs)
            ]
        if any("instances" in x for x in batched_inputs):
            boxes = [self._targets(x).gt_boxes.tensor for x in batched_inputs]
            counts = [len(b) for b in boxes]
            embedded = self.roi_heads.embed_boxes(features, boxes)
            reid, loc = (embedded[name].split(counts) for name in ("reid", "loc"))
            for x, result, r, e in zip(batched_inputs, results, reid, loc, strict=True):
                if "instances" in x:
                    result["gt_embeddings"] = {"reid": r, "loc": e}
        return results

    def _search(
        self, batched_inputs: list[dict], batch: ImageList, features: dict[str, Tensor]
    ) -> list[dict]:
        """
        Detections of every image for each of its queries.

        Images are encoded once, queries go in chunks: beside the results, memory does not grow
        with their number.
        """
        queries = [self._queries(x) for x in batched_inputs]
        sizes = batch.image_sizes
        anchors, x_a = self.proposal_generator.embed_anchors(batch, features)
        results: list[dict] = [{"query_instances": []} for _ in batched_inputs]
        for first in range(0, max(map(len, queries)), self.queries_per_chunk):
            chunk = [q[first : first + self.queries_per_chunk] for q in queries]
            proposals = self.proposal_generator.search(anchors, x_a, sizes, chunk)
            detections = self.roi_heads.detect(features, sizes, proposals, chunk)
            for result, found, x, asked in zip(results, detections, batched_inputs, chunk):
                found = to_original_size(found, x)
                result["query_instances"] += split_by_query(found, len(asked))
        return results

    def _queries(self, x: dict) -> Tensor:
        """Localisation embeddings (Q, D) of one input's queries, checked."""
        loc = x["queries"]["loc"].to(self.device).float()
        dim = self.proposal_generator.anchor_embedder.dim
        if loc.dim() != 2 or loc.shape[1] != dim:
            raise ValueError(
                f"Expected queries['loc'] as (Q, {dim}), found {tuple(loc.shape)}{_whose(x)}."
            )
        if not torch.isfinite(loc).all():
            raise ValueError(f"Query embeddings have NaN or infinite values{_whose(x)}.")
        return loc

    def _normalise(self, x: dict) -> Tensor:
        """The image of one input, checked, in the network's units."""
        image = x.get("image")
        if not isinstance(image, Tensor) or image.dim() != 3 or image.shape[0] != 3:
            found = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise ValueError(
                f"Expected 'image' as an RGB tensor (3, H, W) with values 0..255, found {found}"
                f"{_whose(x)}."
            )
        if 0 in image.shape:
            raise ValueError(f"An image has no pixels, shape {tuple(image.shape)}{_whose(x)}.")
        image = image.to(self.device)
        if image.is_floating_point() and not torch.isfinite(image).all():
            raise ValueError(f"An image has NaN or infinite pixels{_whose(x)}.")
        return (image.float() - self.pixel_mean) / self.pixel_std

    def _targets(self, x: dict, required: bool = False) -> Instances:
        """Ground truth of one input on the model's device; an empty one where there is none."""
        if "instances" not in x:
            if required:
                raise ValueError(
                    f"Training needs 'instances' with ground truth in every input{_whose(x)}; "
                    "an image without people has instances of length 0."
                )
            return Instances((0, 0), gt_boxes=Boxes(torch.zeros(0, 4, device=self.device)))
        given = x["instances"]
        lacking = [name for name in _TRAINING_FIELDS if required and not given.has(name)]
        if lacking:
            raise ValueError(
                f"Training needs {', '.join(lacking)} in 'instances'{_whose(x)}, found "
                f"{', '.join(given.get_fields()) or 'no fields'}. Detectron2's DatasetMapper gives "
                "no people: take spnet_d2.data.mapper.PersonSearchMapper, as spnet_d2.engine."
                "Trainer does, for a data set of register_person_search."
            )
        targets = given.to(self.device)
        boxes = targets.gt_boxes.tensor
        # `not (a > b)` is also true of NaN.
        degenerate = ~((boxes[:, 2:] > boxes[:, :2]).all(dim=1) & boxes.isfinite().all(dim=1))
        if degenerate.any():
            raise ValueError(
                "Ground-truth boxes must have x2 > x1 and y2 > y1, found "
                f"{boxes[degenerate][0].tolist()}{_whose(x)}; drop or repair such boxes."
            )
        return targets


def _whose(x: dict) -> str:
    """Names the image of an input in an error message."""
    known = [f"{key} {x[key]}" for key in ("image_id", "file_name") if key in x]
    return f" ({', '.join(known)})" if known else ""


def split_by_query(found: Instances, num_queries: int) -> list[Instances]:
    """
    Part an image's detections by query.

    Args:
        found: with ``query_index``, ascending.
        num_queries: Q.

    Returns:
        One ``Instances`` per query, without ``query_index``.
    """
    counts = found.query_index.bincount(minlength=num_queries).tolist()
    boxes = [Boxes(part) for part in found.pred_boxes.tensor.split(counts)]
    names = [n for n in found.get_fields() if n not in ("query_index", "pred_boxes")]
    columns = [found.get(name).split(counts) for name in names]
    return [
        Instances(found.image_size, pred_boxes=box, **dict(zip(names, values)))
        for box, *values in zip(boxes, *columns, strict=True)
    ]


def to_original_size(detections: Instances, x: dict) -> Instances:
    """
    Scale detections from the network's input to the original image.

    Args:
        detections: with ``pred_boxes`` and image size (H, W) of the network's input.
        x: the input, with ``height`` and ``width`` of the original image.

    Returns:
        The same detections, none dropped, with the original image's size.
    """
    height, width = detections.image_size
    size = (x.get("height", height), x.get("width", width))
    result = Instances(size, **detections.get_fields())
    boxes = detections.pred_boxes.clone()
    boxes.scale(size[1] / width, size[0] / height)
    result.pred_boxes = boxes
    return result
