"""NT-Xent (Sohn, NeurIPS 2016; Chen et al., ICML 2020) within the batch: re-id without a memory.

Shapes: ``n`` rows (boxes), ``g`` ground-truth rows among them, ``U`` distinct people, ``D``
embedding size.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from .. import whole_batch
from ..device_copies import to_device
from ..precision import full_precision, unit_rows
from .registry import REID_LOSSES, ReidLoss


@REID_LOSSES.register("nt_xent")
class NTXentLoss(ReidLoss):
    """
    Pull rows towards the mean of their person's ground-truth boxes, away from one other person's.

    The authors' code offers it with the loss and the miner of pytorch-metric-learning (cosine
    similarity, temperature 0.1, pairs "easy" / "semihard"); no published run uses it. A row's
    negative is the most similar person who is less similar than its own; rows without one train
    nothing, and the loss is the mean over the others. Gradients flow through rows and means, and
    means are normalised after averaging: loss and gradients are that library's. Rows beyond
    ``max_rows`` are left out, ground truth last; which ones the authors take is not known: here it
    is the first. Rows of all processes are compared; parts of a batch (gradient accumulation) see
    their own only.
    """

    takes: ClassVar[tuple[str, ...]] = ("num_gt",)

    def __init__(self, scale: float = 10.0, max_rows: int = 10_000):
        """
        Args:
            scale: 1 / tau.
            max_rows: most rows that are compared.
        """
        super().__init__()
        self.scale = scale
        self.max_rows = max_rows

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "NTXentLoss":
        reid = cfg.MODEL.SPNET.REID
        if reid.GT_ONLY:
            raise ValueError(
                "MODEL.SPNET.REID.LOSS nt_xent compares detected boxes with ground truth: set "
                "REID.GT_ONLY to False."
            )
        return cls(reid.SCALE)

    def forward(self, embeddings: Tensor, person_ids: Tensor, num_gt: int) -> Tensor:
        """
        Args:
            embeddings: (n, D), not normalised; ground truth comes last.
            person_ids: (n,) one number per person.
            num_gt: g.

        Returns:
            Scalar; 0 (with a graph) where no row has a negative.
        """
        embeddings, person_ids, num_gt = whole_batch.rows_with_gradient(
            num_gt, embeddings.float(), person_ids
        )
        if num_gt == 0:
            return whole_batch.mean(embeddings.sum() * 0.0, 0, whole=0)
        with full_precision(embeddings):
            boxes, gt = embeddings.tensor_split([len(embeddings) - num_gt])
            box_ids, gt_ids = person_ids.tensor_split([len(embeddings) - num_gt])
            # The host waits for these, and knows all numbers then.
            people, index, counts = gt_ids.cpu().unique(return_inverse=True, return_counts=True)
            people, index, counts = to_device([people, index, counts], gt.device)
            sums = gt.new_zeros(len(people), gt.shape[1]).index_add(0, index, gt)
            means = unit_rows(sums / counts[:, None])

            gt, gt_ids = gt[: self.max_rows], gt_ids[: self.max_rows]
            left = self.max_rows - len(gt)
            rows = unit_rows(torch.cat([boxes[:left], gt]))
            similarity = rows @ means.T
            ids = torch.cat([box_ids[:left], gt_ids])
            own = ids[:, None] == people
            positive = similarity.gather(1, torch.searchsorted(people, ids)[:, None])
            harder = similarity >= positive
            negative = similarity.masked_fill(own | harder, -torch.inf).amax(dim=1)
            # NaN is kept, so that the loss shows it.
            without = negative == -torch.inf
            margin = (negative - positive[:, 0]).masked_fill(without, 0.0)
            losses = F.softplus(self.scale * margin).masked_fill(without, 0.0)
            # Of all processes' rows, so every process gives the same number.
            count = (~without).sum()
            whole = count * whole_batch.num_processes()
            return whole_batch.mean(losses.sum(), count, whole=whole)
