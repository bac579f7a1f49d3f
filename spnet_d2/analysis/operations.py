"""Parameters and operations of object-centric inference, part by part.

Operations are fvcore's "flops": one multiply-add counts as one. Counting runs every part once.
"""

import logging
from typing import Any, NamedTuple

import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from spnet_d2.modeling.backbone import FEATURES
from spnet_d2.modeling.box_embedder import ROI_SIZE


class Part(NamedTuple):
    """
    Cost of a part of the model.

    Attributes:
        name: what it is.
        parameters: how many it has.
        flops: multiply-adds for one image.
        times: how often it runs, e.g. once per box; already in ``flops``.
    """

    name: str
    parameters: int
    flops: int
    times: int = 1


def inference_parts(model: Any, size: tuple[int, int], boxes: int) -> list[Part]:
    """
    Cost of detecting and embedding people in one image.

    Args:
        model: an SPNet with bridges.
        size: height and width of the network's input, padded as the model pads it.
        boxes: detections that pass the first stage; cascade stages and the re-id embedder run
            for each.

    Returns:
        Parts in the order they run. Pooling, suppression and sorting are not counted.

    Raises:
        ValueError: the model is query-centric only.
    """
    generator, heads = model.proposal_generator, model.roi_heads
    if not hasattr(generator.swap_path, "bridge"):
        raise ValueError(
            "Operations are counted for object-centric inference, but this model has no bridge; "
            "set MODEL.SPNET.TEST_PATHWAY OC."
        )
    was_training = model.training
    model.eval()
    divisor = model.backbone.size_divisibility
    height, width = (-(-side // divisor) * divisor for side in size)
    image = torch.zeros(1, 3, height, width, device=model.device)
    rois = torch.zeros(1, model.backbone.channels, ROI_SIZE, ROI_SIZE, device=model.device)
    try:
        with torch.no_grad():
            maps = model.backbone.trunk_maps(image)
            pyramid = model.backbone.pyramid(maps)
            levels = [pyramid[name] for name in FEATURES]
            x_a = generator.anchor_embedder(levels)
            offsets = x_a[0, : generator.selection.pre_topk]
            parts = [
                _part("trunk", model.backbone.trunk, image),
                _part("FPN", model.backbone.fpn, dict(zip(FEATURES, maps, strict=False))),
                _part("anchor embedder", generator.anchor_embedder, levels),
                _part("bridge 0", generator.swap_path, x_a, call="object_centric"),
                _part("box detector 0", generator.box_detector, offsets),
            ]
            for t in range(1, heads.num_cascades + 1):
                parts += _stage_parts(heads, t, rois, offsets[:1], boxes)
            if heads.loc_embedders and not heads.num_cascades:
                unused = sum(p.numel() for p in heads.loc_embedders.parameters())
                parts.append(Part("localisation embedder (unused)", unused, 0, 0))
            parts.append(_part("re-id embedder", heads.reid_embedder, rois, boxes))
    finally:
        model.train(was_training)
    return parts


def _stage_parts(heads: Any, t: int, rois: Tensor, embedding: Tensor, boxes: int) -> list[Part]:
    """Of cascade stage ``t``, for an RoI and an embedding, ``boxes`` times."""
    if heads.loc_embedders:
        embedder = _part(f"localisation embedder {t}", heads.loc_embedder(t), rois, boxes)
    else:
        # The re-id embedder serves; its parameters are listed where it ends.
        embedder = _part(f"re-id embedder, stage {t}", heads.reid_embedder, rois, boxes)
        embedder = embedder._replace(parameters=0)
    path, detector = heads.swap_paths[t - 1], heads.box_detectors[t - 1]
    return [
        embedder,
        _part(f"bridge {t}", path, embedding, boxes, call="object_centric"),
        _part(f"box detector {t}", detector, embedding, boxes),
    ]


class _Call(nn.Module):
    """A method of a module as a module, for tracing."""

    def __init__(self, module: nn.Module, name: str):
        super().__init__()
        self.module = module
        self.name = name

    def forward(self, *args: Tensor) -> Tensor:
        return getattr(self.module, self.name)(*args)


def _part(name: str, module: nn.Module, inputs, times: int = 1, call: str = "forward") -> Part:
    traced = module if call == "forward" else _Call(module, call)
    analysis = FlopCountAnalysis(traced, (inputs,))
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    # fvcore's own remarks about operations it doesn't count.
    logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
    parameters = sum(p.numel() for p in module.parameters())
    return Part(name, parameters, int(analysis.total()) * times, times)


def _attention(inputs, outputs) -> int:
    """Multiply-adds of softmax(Q K') V, from the shapes of Q and K."""
    q, k = (x.type().sizes() for x in inputs[:2])
    *batch, rows, width = q
    total = 2 * rows * k[-2] * width
    for b in batch:
        total *= b
    return total
