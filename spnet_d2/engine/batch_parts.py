"""The parts of a batch under gradient accumulation, and the pass that counts before they train."""

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import nn

from spnet_d2.modeling.activation_checkpointing import unchanged_statistics
from spnet_d2.modeling.whole_batch import Parts


def cut(data: list[dict], number: int, views: int = 1) -> list[list[dict]]:
    """
    Cut a batch into parts, as equal as whole sets of views allow.

    Args:
        data: N inputs.
        number: of parts; fewer come back where there are fewer sets, as in the short last batch
            of an epoch.
        views: inputs in a row that stay together.
    """
    sets = [data[i : i + views] for i in range(0, len(data), views)]
    number = min(number, len(sets))
    bounds = [len(sets) * k // number for k in range(number + 1)]
    return [sum(sets[a:b], []) for a, b in itertools.pairwise(bounds)]


def count_parts(
    model: nn.Module, inputs: list[list[dict]], precision: Callable[[], AbstractContextManager]
) -> Parts:
    """
    Pass all parts through a model once without gradients, leaving everything as it was.

    Random numbers are the ones that training the parts, in the same order, will draw.

    Args:
        model: in training mode, not inside of ``DistributedDataParallel``.
        inputs: of :func:`cut`.
        precision: gives the context that the model runs in.

    Returns:
        What knows the whole batch's numbers, for the second pass.
    """
    device = next(model.parameters()).device
    parts = Parts(len(inputs))
    with (
        torch.no_grad(),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        unchanged_statistics(model),
    ):
        for k, part in enumerate(inputs):
            with parts.part(k, counting=True), precision():
                model(part)
    return parts
