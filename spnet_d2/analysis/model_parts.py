"""Which functions of an SPNet make up which part of a timing, and lower bounds for a step."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.optim import Optimizer

from spnet_d2.analysis.timing import PartClock
from spnet_d2.modeling import proposal_generator, roi_heads
from spnet_d2.modeling.precision import autocast

LIMIT, ANCHOR_LIMIT = "backbone + FPN", "backbone + FPN + anchor convolution"


def part_functions(model: Any) -> list[tuple[Any, str, str]]:
    """The functions that make up a timing: (module or object, name of the function, part).

    Args:
        model: an SPNet.
    """
    generator, heads = model.proposal_generator, model.roi_heads
    functions = [
        (model, "_batch", "input"),
        (model.backbone, "trunk_maps", "backbone"),
        (model.backbone, "pyramid", "FPN"),
        (generator.anchor_embedder, "by_level", "anchor embedding"),
        (generator.swap_path, "affine", "swap path"),
        (generator.swap_path, "query_centric", "swap path"),
        (proposal_generator, "query_distances", "swap path"),
        (proposal_generator, "offset_norm", "swap path"),
        (proposal_generator, "norms_and_rows", "swap path"),
        (generator, "_train", "anchor labels, box head, losses"),
        (generator, "_train_pairs", "anchor labels, box head, losses"),
        (generator, "_propose", "top-k, box head"),
        (generator, "_search", "top-k, box head"),
        (proposal_generator, "nms", "NMS"),
        (proposal_generator, "nms_per_query", "NMS"),
        (roi_heads, "nms_per_query", "NMS"),
        (roi_heads, "embed_boxes", "RoI heads"),
        (heads, "losses", "RoI heads"),
        (heads, "detect", "RoI heads"),
        (heads.reid_loss, "forward", "re-id loss"),
    ]
    if model.twin is not None:
        functions += [(model.twin, name, "momentum encoder") for name in ("features", "embed")]
        functions.append((model.twin, "update", "momentum encoder"))
    return functions


@contextmanager
def timed_parts(model: Any, clock: PartClock) -> Iterator[None]:
    """Inside, ``clock`` sees the parts of ``model``, an SPNet."""
    with ExitStack() as stack:
        for owner, name, part in part_functions(model):
            timed = clock.timed(part, getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, timed))
        yield


def timed_step(
    model: Any,
    optimizer: Optimizer,
    batch: list[dict],
    clock: PartClock,
    precision: str = "float32",
) -> None:
    """A training step of an SPNet, whose parts ``clock`` sees."""
    optimizer.zero_grad()
    with timed_parts(model, clock), autocast(model.device, precision):
        loss = sum(model(batch).values())
    clock.phase("backward")
    loss.backward()
    clock.phase("optimiser")
    with clock.part("optimiser"):
        optimizer.step()


class Limit:
    """
    A lower bound for an image or a step: backbone and FPN on the same input, nothing else.

    With ``anchors`` also the convolution that embeds anchors, which no SPNet does without.
    """

    def __init__(self, model: Any, images: Tensor, anchors: bool = False):
        """
        Args:
            model: an SPNet; gradients of its weights are added up in training.
            images: (N, 3, H, W), normalised and padded.
            anchors: see the class.
        """
        self.model, self.images, self.anchors = model, images, anchors

    def __call__(self) -> None:
        """The forward pass; in training, the backward pass as well."""
        with torch.set_grad_enabled(self.model.training):
            outputs = list(self.model.backbone(self.images).values())
            if self.anchors:
                outputs = [self.model.proposal_generator.anchor_embedder.conv(x) for x in outputs]
        # Below a frozen part there is nothing to go back through.
        outputs = [x for x in outputs if x.requires_grad]
        if outputs:
            torch.autograd.backward(outputs, [torch.ones_like(x) for x in outputs])


def limit_works(
    model: Any, batch: list[dict], precision: str = "float32"
) -> dict[str, Callable[[], None]]:
    """
    Lower bounds for a batch, without and with the anchors, as works to be timed.

    Args:
        model: an SPNet.
        batch: its inputs.
        precision: of convolutions and linear layers, see :mod:`spnet_d2.modeling.precision`.
    """
    images = model.batch_of(batch).tensor

    def run(limit: Limit) -> None:
        with autocast(model.device, precision):
            limit()
        model.zero_grad()

    return {
        LIMIT: lambda: run(Limit(model, images)),
        ANCHOR_LIMIT: lambda: run(Limit(model, images, anchors=True)),
    }


def embedded_boxes(model: Any) -> list[int]:
    """A list to which every batch of RoIs that a box embedder of ``model`` gets adds its size."""
    counts: list[int] = []
    embedders = [model.roi_heads.reid_embedder, *model.roi_heads.loc_embedders]
    for embedder in embedders:
        embedder.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    return counts
