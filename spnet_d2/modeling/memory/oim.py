"""Online instance matching (Xiao et al., CVPR 2017): look-up table and circular queue.

Shapes: ``n`` rows (boxes), ``L`` labelled identities, ``Q`` queue rows, ``D`` embedding size.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import whole_batch
from ..precision import full_precision, unit_rows

# What identities of boxes without a known one are given as.
UNKNOWN = -1


class OIMLoss(nn.Module):
    """
    Cross-entropy of cosine similarities to the look-up table (LUT) and the circular queue (CQ).

    The CQ holds the last embeddings of unknown people, as negatives. Both start as zero rows.
    An empty row's similarity is set to -1, or to +1 where it is the row's own identity; this and
    the division by all rows, unknown ones included, follow the authors' code. Rows are the whole
    batch's, on all processes, which keep the same memory: see :mod:`..whole_batch`.
    """

    # What it is given beside embeddings and identities.
    takes: ClassVar[tuple[str, ...]] = ("num_gt",)

    def __init__(
        self,
        dim: int,
        num_identities: int,
        queue_size: int,
        scale: float = 30.0,
        momentum: float = 0.5,
    ):
        """
        Args:
            dim: D.
            num_identities: L; -1 to take it from the checkpoint that will be loaded.
            queue_size: Q.
            scale: 1 / temperature.
            momentum: weight of the old LUT row in an update.
        """
        super().__init__()
        if queue_size < 1 or num_identities < -1:
            raise ValueError(
                "OIM needs a queue of at least one row and 0 or more identities (-1: those of "
                f"the checkpoint), got {queue_size} rows and {num_identities} identities."
            )
        self.dim = dim
        self.scale = scale
        self.momentum = momentum
        # None: not part of the state, so that a checkpoint's table can be adopted.
        unsized = num_identities < 0
        self.register_buffer("lut", None if unsized else torch.zeros(num_identities, dim))
        self.register_buffer("queue", torch.zeros(queue_size, dim))
        # Where the next unknown embedding goes. A buffer, so that it is resumed.
        self.register_buffer("queue_head", torch.zeros((), dtype=torch.int64))

    def forward(self, embeddings: Tensor, identities: Tensor, num_gt: int = 0) -> Tensor:
        """
        Compute the loss, then update the memory.

        Args:
            embeddings: (n, D), not normalised.
            identities: (n,) LUT rows, -1 for unknown people.
            num_gt: how many rows, the last ones, are ground truth: memories take them last.

        Returns:
            Scalar: the sum over labelled rows / n; 0 (with a graph) for no rows.
        """
        if self.lut is None:
            raise RuntimeError(
                "The OIM look-up table has no size yet: set MODEL.SPNET.REID.NUM_IDENTITIES to "
                "the number of identities of the training set, or load a checkpoint."
            )
        # Similarities in float32 under autocast too.
        with full_precision(embeddings):
            x = unit_rows(embeddings.float())
            # The memory is changed in place before backward: the loss works on copies.
            lut, queue = self.lut.clone(), self.queue.clone()
            known = identities != UNKNOWN
            rows = known.nonzero()[:, 0]
            sim_lut = x @ lut.T
            sim_queue = x @ queue.T
            empty = (lut == 0).all(dim=1)
            sim_lut = sim_lut.masked_fill(empty, -1.0)
            own_empty = rows[empty[identities[rows]]]
            sim_lut = sim_lut.index_put(
                (own_empty, identities[own_empty]), sim_lut.new_ones(len(own_empty))
            )
            sim_queue = sim_queue.masked_fill((queue == 0).all(dim=1), -1.0)
            logits = self.scale * torch.cat([sim_lut, sim_queue], dim=1)
            total = F.cross_entropy(logits, identities, ignore_index=UNKNOWN, reduction="sum")
            # Rows of unknown people are in no term of the sum, but go into the memory: one that
            # isn't finite must show in the loss, too.
            total = total + 0.0 * x.detach().sum()
        if whole_batch.in_last_pass():
            rows = whole_batch.whole_rows(num_gt, x, identities)
            if rows is not None:
                self.update(*rows)
        return whole_batch.mean(total, len(x))

    @torch.no_grad()
    def update(self, x: Tensor, identities: Tensor) -> None:
        """
        Write normalised rows into the memory, as if one by one in row order.

        Args:
            x: (n, D), L2-normalised.
            identities: (n,), as in :meth:`forward`.
        """
        known = identities != UNKNOWN
        self._update_lut(x[known], identities[known])
        self._push(x[~known])

    def _update_lut(self, x: Tensor, identities: Tensor) -> None:
        """Running means. Rows of different identities don't meet: take the k-th of each at once."""
        order = identities.argsort(stable=True)
        unique, counts = identities.unique(return_counts=True)
        first = counts.cumsum(0) - counts
        for k in range(int(counts.max()) if len(counts) else 0):
            more = counts > k
            rows = order[first[more] + k]
            mean = self.momentum * self.lut[unique[more]] + (1 - self.momentum) * x[rows]
            self.lut[unique[more]] = unit_rows(mean)

    def _push(self, x: Tensor) -> None:
        size = len(self.queue)
        # Where more rows come than fit, the last ones stay.
        slots = (self.queue_head + torch.arange(len(x), device=x.device)) % size
        self.queue[slots[-size:]] = x[-size:]
        self.queue_head.add_(len(x)).remainder_(size)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        """Adopt the look-up table's size where it was left to the checkpoint."""
        lut = state_dict.get(prefix + "lut")
        if self.lut is None and lut is not None:
            self.lut = torch.zeros_like(lut, device=self.queue.device)
        super()._load_from_state_dict(state_dict, prefix, *args)
