"""Distillation: learn the embeddings that another re-id model gave the training boxes.

Not of the paper. Where few people are labelled, a re-id model trained on many says how similar two
people look (Hinton et al., 2015, for embeddings: Budnik and Avrithis, CVPR 2021). Its embeddings
are made once, one per identity of the training set; with every box an identity of its own, no label
is needed.

Shapes: ``n`` rows (boxes), ``L`` identities, ``D`` embedding size.
"""

import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from spnet_d2.errors import UserError

from .. import whole_batch
from ..precision import full_precision, unit_rows
from .registry import REID_LOSSES, ReidLoss

# Of cosines: the ten or so nearest of ten thousand targets count.
SCALE = 20.0
# Targets that rankings are of, taken evenly: more cost time and teach no more.
RANKED = 16384


class TargetsError(UserError, ValueError):
    """A file of target embeddings that can't be used."""


@REID_LOSSES.register("distillation")
class DistillationLoss(ReidLoss):
    """
    The mean over rows that have a target of ``1 - cosine`` to it, and of the divergence between two
    rankings of targets: the target's and the row's (softmax of cosines, as in CompRess,
    NeurIPS 2020). The first says where a row belongs, the second what it must not be mixed up with.

    Targets are taken relative to their mean: embeddings end in a batch norm, which has none.

    Targets are no part of checkpoints: serving needs none, and training reads them again.
    """

    id_field: ClassVar[str] = "gt_identities"
    targets: Tensor | None

    def __init__(self, targets: Tensor | None):
        """
        Args:
            targets: (L, D), not zero; None: this model only serves.
        """
        super().__init__()
        known = None
        if targets is not None:
            known = unit_rows(targets.float())
            known = unit_rows(known - known.mean(dim=0))
        self.register_buffer("targets", known, persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "DistillationLoss":
        file = cfg.MODEL.SPNET.REID.TARGETS
        return cls(read_targets(file, cfg.MODEL.SPNET.REID_DIM) if file else None)

    def forward(self, embeddings: Tensor, identities: Tensor) -> Tensor:
        """
        Args:
            embeddings: (n, D), not normalised.
            identities: (n,) rows of the targets, -1 for boxes without one.

        Returns:
            Scalar; 0 (with a graph) where no row has a target.

        Raises:
            RuntimeError: there are no targets.
        """
        if self.targets is None:
            raise RuntimeError(
                "Distillation has no targets to learn: build it with targets (of the .npz file "
                "MODEL.SPNET.REID.TARGETS), the training set's embeddings by another model."
            )
        with full_precision(embeddings):
            x = unit_rows(embeddings.float())
            known = identities >= 0
            wanted = self.targets[identities.clamp(min=0)]
            distances = 1 - (x * wanted).sum(dim=1)
            ranked = self.targets[:: -(-len(self.targets) // RANKED)]
            ranking = (SCALE * wanted @ ranked.T).softmax(dim=1)
            found = (SCALE * x @ ranked.T).log_softmax(dim=1)
            divergences = F.kl_div(found, ranking, reduction="none").sum(dim=1)
            return whole_batch.mean(((distances + divergences) * known).sum(), known.sum())


def read_targets(path: str | os.PathLike, dim: int) -> Tensor:
    """
    Target embeddings, float32.

    Args:
        path: ``.npz`` with ``embeddings`` (L, D).
        dim: D, that of the model to train.

    Raises:
        TargetsError: no such file, other contents, another size, or numbers that aren't finite.
    """
    what = "the target embeddings of MODEL.SPNET.REID.TARGETS"
    if not Path(path).is_file():
        raise TargetsError(
            f"No file at {path} ({what}): tools/make_starter.py makes one (docs/starter.md)."
        )
    try:
        with np.load(path) as file:
            found = file["embeddings"].astype(np.float32)
    except (OSError, ValueError, KeyError) as error:
        raise TargetsError(f"{path} can't be read as {what}: {error}.") from error
    if found.ndim != 2 or found.shape[1] != dim:
        raise TargetsError(
            f"{path} has embeddings of shape {found.shape}, and MODEL.SPNET.REID_DIM is {dim}: set "
            "REID_DIM to the size of the model that gave them."
        )
    if not np.isfinite(found).all() or not found.any(axis=1).all():
        raise TargetsError(f"{path} has embeddings that are zero or not finite; make it again.")
    return torch.from_numpy(found)
