"""One model, trained by several processes together (``DistributedDataParallel``).

DDP averages the gradient of every parameter, so it has to know which ones get none: by default it
searches the graph of each step. Which ones these are depends on the settings alone, not on the
batch: losses keep their graph where a batch has no people, pairs or boxes. So they are found once,
and left to their process.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.config import CfgNode
from detectron2.engine import create_ddp_model
from detectron2.utils import comm
from torch import Tensor, nn

from spnet_d2.modeling import SPNet, SPNetROIHeads, SwapPathProposalGenerator
from spnet_d2.modeling.backbone import PyramidBackbone

# Pixels of the image that finds out which of a backbone's parameters its pyramid depends on.
_SIDE = 64


def distribute(model: nn.Module, cfg: CfgNode) -> nn.Module:
    """
    Let processes train one model together; with one process, the model itself.

    Buffers are not broadcast before every step: those of re-id memories are the same on all
    processes by themselves, and running statistics of batch norms are averaged where they are used
    (:class:`~spnet_d2.engine.hooks.AverageBatchNorms`). Parameters that no loss depends on, as
    many an ablation has some, are no part of the exchange: otherwise they would stop the run, and
    must keep having no gradient, or weight decay would shrink them. Of classes that are not this
    package's they are not known, so that every step searches for them.
    """
    if comm.get_world_size() == 1:
        return model
    more = {"device_ids": None} if cfg.MODEL.DEVICE == "cpu" else {}
    idle = without_gradient(model)
    # Frozen while DDP looks, so that their values are broadcast and their gradients not awaited.
    with _frozen(idle or []):
        return create_ddp_model(
            model, broadcast_buffers=False, find_unused_parameters=idle is None, **more
        )


def without_gradient(model: nn.Module) -> list[nn.Parameter] | None:
    """
    Trainable parameters that no loss of a training step depends on, whatever the batch.

    Returns:
        None where classes that are not this package's don't let it be known.
    """
    if not (isinstance(model, SPNet) and _is_own(model)):
        return None
    used = {id(p) for p in _with_gradient(model)}
    return [p for p in model.parameters() if p.requires_grad and id(p) not in used]


def _is_own(model: SPNet) -> bool:
    """Whether proposal generator, RoI heads and re-id loss are this package's, not a user's."""
    parts = [model, model.proposal_generator, model.roi_heads, model.roi_heads.reid_loss]
    return all(type(part).__module__.startswith("spnet_d2.") for part in parts)


def _with_gradient(model: SPNet) -> Iterator[nn.Parameter]:
    """The parameters that a loss depends on."""
    heads, generator = model.roi_heads, model.proposal_generator
    assert isinstance(heads, SPNetROIHeads) and isinstance(generator, SwapPathProposalGenerator)
    yield from _of_pyramid(model.backbone, p3_alone=model.reid_only)
    yield from heads.reid_embedder.parameters()
    if model.reid_only:
        return
    yield from generator.anchor_embedder.parameters()
    yield from generator.anchor_logits.parameters()
    # Anchors have a loss of their own, so the first class head only scores.
    yield from generator.box_detector.box_head.parameters()
    query_centric = model.pathway == "QC"
    # Queries replace the bridges.
    paths = [] if query_centric else [generator.swap_path, *heads.swap_paths]
    # Queries are embedded by the first, which exists without stages, too.
    embedders = heads.loc_embedders[: max(heads.num_cascades, int(query_centric))]
    networks = [] if model.lwf is None else [model.lwf.classifier]
    for module in (*paths, *embedders, *heads.box_detectors, *networks):
        yield from module.parameters()


def _of_pyramid(backbone: PyramidBackbone, p3_alone: bool) -> list[nn.Parameter]:
    """Parameters that the pyramid, or p3, depends on: of any trunk, by trying."""
    parameters = [p for p in backbone.parameters() if p.requires_grad]
    training = {module: module.training for module in backbone.modules()}
    # No statistics are kept and nothing is drawn at random.
    backbone.eval()
    try:
        with torch.enable_grad():
            image = torch.zeros(1, 3, _SIDE, _SIDE, device=next(backbone.parameters()).device)
            maps = backbone.trunk_maps(image)
            levels = [backbone.finest(maps)] if p3_alone else backbone.pyramid(maps).values()
            total = torch.stack([level.float().sum() for level in levels]).sum()
            gradients = _gradients(total, parameters)
    finally:
        for module, mode in training.items():
            module.training = mode
    return [p for p, g in zip(parameters, gradients, strict=True) if g is not None]


def _gradients(total: Tensor, parameters: list[nn.Parameter]) -> tuple[Tensor | None, ...]:
    if not total.requires_grad:
        return (None,) * len(parameters)
    return torch.autograd.grad(total, parameters, allow_unused=True)


@contextmanager
def _frozen(parameters: list[nn.Parameter]) -> Iterator[None]:
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)
