"""Weights to be handed on: what serving needs, in half precision."""

import os
from pathlib import Path

import torch

from spnet_d2.errors import UserError
from spnet_d2.utils.atomic_io import atomic_path


class PackError(UserError, ValueError):
    """Weights that half precision can't hold."""


def pack_weights(
    checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    before: str | os.PathLike | None = None,
) -> float:
    """
    Write a checkpoint's model in float16, without optimiser and schedule.

    Args:
        checkpoint: of a training run.
        output: the file to write.
        before: checkpoint that the run began with: the mean of both is written, which is good at
            what either is good at (a "model soup": Wortsman et al., ICML 2022).

    Returns:
        Its size in MB.

    Raises:
        PackError: a weight is too large for float16, or not finite.
    """
    state = _model_of(checkpoint)
    if before is not None:
        first = _model_of(before)
        state = {k: (v + first[k]) / 2 if v.is_floating_point() else v for k, v in state.items()}
    packed = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    wrong = [k for k, v in packed.items() if v.is_floating_point() and not v.isfinite().all()]
    if wrong:
        raise PackError(f"{checkpoint}: {wrong[0]} does not fit into float16.")
    with atomic_path(output) as part:
        torch.save({"model": packed}, part)
    return Path(output).stat().st_size / 1e6


def _model_of(checkpoint: str | os.PathLike) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(checkpoint, map_location="cpu", weights_only=True)[
        "model"
    ]
    return state
