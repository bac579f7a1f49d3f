"""Online instance matching (Xiao et al., CVPR 2017): look-up table and circular queue.

Shapes: ``n`` rows (boxes), ``L`` labelled identities, ``Q`` queue rows, ``D`` embedding size.
"""

import math
import sys
from typing import ClassVar

import torch
from detectron2.config import CfgNode
from torch import Tensor

from .. import training_statistics as statistics
from .. import whole_batch
from ..device_copies import to_device
from ..precision import full_precision, unit_rows
from .memory_loss import memory_loss
from .registry import REID_LOSSES, ReidLoss

# What identities of boxes without a known one are given as.
UNKNOWN = -1


@REID_LOSSES.register("oim")
class OIMLoss(ReidLoss):
    """
    Cross-entropy of cosine similarities to the look-up table (LUT) and the circular queue (CQ).

    The CQ holds the last embeddings of unknown people, as negatives. Both start as zero rows.
    An empty row's similarity is set to -1, or to +1 where it is the row's own identity; this and
    the division by all rows, unknown ones included, follow the authors' code. Rows are the whole
    batch's, on all processes, which keep the same memory: see :mod:`..whole_batch`.
    """

    id_field: ClassVar[str] = "gt_identities"
    takes: ClassVar[tuple[str, ...]] = ("num_gt",)
    divides_by_rows: ClassVar[bool] = True
    learns_known_people: ClassVar[bool] = True
    lut: Tensor | None
    queue: Tensor
    queue_head: Tensor

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

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "OIMLoss":
        reid, dim = cfg.MODEL.SPNET.REID, cfg.MODEL.SPNET.REID_DIM
        return cls(dim, reid.NUM_IDENTITIES, reid.QUEUE_SIZE, reid.SCALE)

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
        # Similarities in float32 under autocast too.
        with full_precision(embeddings):
            x = unit_rows(embeddings.float())
            memory = [self._table, self.queue]
            similarities = self._similarities(x.detach(), identities)
            total = memory_loss(x, memory, similarities, identities, self.scale)
            # Rows of unknown people are in no term of the sum, but go into the memory: one that
            # isn't finite must show in the loss, too.
            total = total + 0.0 * x.detach().sum()
        rows = None
        if whole_batch.in_last_pass():
            rows = whole_batch.whole_rows(num_gt, x, identities)
            if rows is not None:
                self.update(*rows)
        return whole_batch.mean(total, len(x), whole=None if rows is None else len(rows[0]))

    @property
    def _table(self) -> Tensor:
        if self.lut is None:
            raise RuntimeError(
                "The OIM look-up table has no size yet: build it with num_identities "
                "(MODEL.SPNET.REID.NUM_IDENTITIES), the number of identities of the training set, "
                "or load a checkpoint."
            )
        return self.lut

    @torch.no_grad()
    def _similarities(self, x: Tensor, identities: Tensor) -> Tensor:
        """Of rows (n, D) to the memory, and the constants of its empty rows: (n, L + Q)."""
        memory = (self._table, self.queue)
        similarities = x.new_empty(len(x), sum(map(len, memory)))
        for part, rows in zip(similarities.split([len(m) for m in memory], dim=1), memory):
            part.copy_(x @ rows.T)
        empty = torch.cat([rows.any(dim=1) for rows in memory]).logical_not_()
        similarities.masked_fill_(empty, -1.0)
        own = identities.clamp(min=0)
        own_empty = (identities != UNKNOWN) & empty[own]
        column = own[:, None]
        value = similarities.gather(1, column).masked_fill_(own_empty[:, None], 1.0)
        return similarities.scatter_(1, column, value)

    @torch.no_grad()
    def update(self, x: Tensor, identities: Tensor) -> None:
        """
        Write normalised rows into the memory, as if one by one in row order.

        Args:
            x: (n, D), L2-normalised.
            identities: (n,), as in :meth:`forward`.
        """
        # The one time that the host waits for the GPU. What goes where is known then.
        identities = identities.cpu()
        people, steps, sizes = _rounds(identities, self._most_rounds)
        unknown = (identities == UNKNOWN).nonzero()[:, 0]
        people, steps, unknown = to_device([people, steps, unknown], x.device)
        if len(people):
            self._update_lut(x, people, steps.split(sizes))
        self._push(x[unknown])
        if statistics.due():
            filled = {"lut": self._table, "queue": self.queue}
            rows = {f"num_{name}_rows": rows.any(dim=1).sum() for name, rows in filled.items()}
            statistics.record(**rows)

    @property
    def _most_rounds(self) -> int:
        """
        Rows of one identity that its LUT row depends on: the last ones.

        A row at right angles to the mean so far turns it, so that what was before counts for
        ``m / sqrt(m^2 + (1 - m)^2)`` as much; rows that are alike forget faster. This is twice as
        many as it then takes for 2^-24, float32's rounding.
        """
        left = self.momentum / math.hypot(self.momentum, 1 - self.momentum)
        if left in (0.0, 1.0):
            return 1 if left == 0 else sys.maxsize
        return 2 * math.ceil(math.log(2**-24) / math.log(left))

    def _update_lut(self, x: Tensor, people: Tensor, steps: tuple[Tensor, ...]) -> None:
        """Running means of people (U,), most rows first: the k-th row of all who have one."""
        means = self._table[people]
        for rows in steps:
            mean = self.momentum * means[: len(rows)] + (1 - self.momentum) * x[rows]
            means[: len(rows)] = unit_rows(mean)
        self._table.index_copy_(0, people, means)

    def _push(self, x: Tensor) -> None:
        size = len(self.queue)
        # Where more rows come than fit, the last ones stay.
        slots = (self.queue_head + torch.arange(len(x), device=x.device)) % size
        self.queue.index_copy_(0, slots[-size:], x[-size:])
        self.queue_head.add_(len(x)).remainder_(size)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        """Adopt the look-up table's size where it was left to the checkpoint."""
        lut = state_dict.get(prefix + "lut")
        if self.lut is None and lut is not None:
            self.lut = torch.zeros_like(lut, device=self.queue.device)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _rounds(identities: Tensor, most: int) -> tuple[Tensor, Tensor, list[int]]:
    """
    Rows of identities as rounds, the k-th of every identity in round k.

    Args:
        identities: (n,) on the host.
        most: of an identity with more rows, these last ones are taken.

    Returns:
        The identities (U,), those with most rows first; the rounds' rows, one round after another,
        each in the order of the identities; and the rounds' sizes.
    """
    order = identities.argsort(stable=True)
    order = order[identities[order] != UNKNOWN]
    people, counts = identities[order].unique_consecutive(return_counts=True)
    starts = counts.cumsum(0) - counts
    taken = counts.clamp(max=most)
    by_length = taken.argsort(descending=True, stable=True)
    people, counts, starts, taken = (t[by_length] for t in (people, counts, starts, taken))
    first = (starts + counts - taken).tolist()
    sizes = [int((taken > k).sum()) for k in range(int(taken.max()) if len(taken) else 0)]
    rows = [order[[f + k for f in first[:size]]] for k, size in enumerate(sizes)]
    return people, torch.cat(rows) if rows else order, sizes
