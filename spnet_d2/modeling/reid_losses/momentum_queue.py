"""Momentum queue (paper section 3.5): contrast people with the momentum encoder's means of others.

Shapes: ``n`` rows (boxes), ``U`` distinct people among them, ``Q`` queue rows, ``D`` embedding
size.
"""

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

# Label of a queue row that holds nobody.
_EMPTY = -1


@REID_LOSSES.register("momentum_queue")
class MomentumQueueLoss(ReidLoss):
    """
    Cross-entropy of cosine similarities to one row per person.

    A person's row is the mean of all their embeddings in the batch (every view, detected and
    ground-truth boxes) by the momentum encoder, L2-normalised after averaging. The batch's people
    enter the queue *before* the loss, so every row has its one positive; everybody else in the
    queue, the batch's other people included, is a negative. The batch is the whole one, on all
    processes, which keep the same queue: see :mod:`..whole_batch`.
    """

    takes: ClassVar[tuple[str, ...]] = ("teacher", "num_gt")
    queue: Tensor
    labels: Tensor
    ages: Tensor
    queue_head: Tensor

    def __init__(self, dim: int, queue_size: int = 65536, scale: float = 10.0):
        """
        Args:
            dim: D.
            queue_size: Q.
            scale: 1 / tau.
        """
        super().__init__()
        if queue_size < 1:
            raise ValueError(f"A momentum queue needs at least one row, got {queue_size}.")
        self.scale = scale
        self.register_buffer("queue", torch.zeros(queue_size, dim))
        self.register_buffer("labels", torch.full((queue_size,), _EMPTY))
        # Steps since a row was written, 0 for empty rows: a diagnostic.
        self.register_buffer("ages", torch.zeros(queue_size, dtype=torch.int64))
        # Where the next person goes. A buffer, so that it is resumed.
        self.register_buffer("queue_head", torch.zeros((), dtype=torch.int64))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "MomentumQueueLoss":
        reid = cfg.MODEL.SPNET.REID
        return cls(cfg.MODEL.SPNET.REID_DIM, reid.QUEUE_SIZE, reid.SCALE)

    def forward(
        self,
        embeddings: Tensor,
        person_ids: Tensor,
        teacher: Tensor | None = None,
        num_gt: int = 0,
    ) -> Tensor:
        """
        Update the queue, then compute the loss.

        Args:
            embeddings: (n, D), not normalised.
            person_ids: (n,) one number per person, 0 or more.
            teacher: (n, D) the momentum encoder's embeddings of the same boxes, not normalised;
                default: the embeddings themselves.
            num_gt: how many rows, the last ones, are ground truth.

        Returns:
            Scalar: mean over the rows; 0 (with a graph) for no rows.

        Raises:
            ValueError: more people in the batch than the queue has rows.
        """
        teacher = embeddings if teacher is None else teacher
        rows = None
        if whole_batch.in_first_pass():
            rows = whole_batch.whole_rows(num_gt, teacher.float(), person_ids)
            if rows is not None:
                self.update(*rows)
        total = self._summed(embeddings, person_ids)
        whole = None if rows is None else len(rows[0])
        return whole_batch.mean(total, len(embeddings), whole=whole)

    def _summed(self, embeddings: Tensor, person_ids: Tensor) -> Tensor:
        """The loss of all rows together."""
        with full_precision(embeddings):
            x = unit_rows(embeddings.float())
            # In the first of two passes, people may not be there yet.
            if len(x) == 0 or not whole_batch.in_last_pass():
                return x.sum()
            used = self._used_rows()
            queue, labels = self.queue[:used], self.labels[:used]
            similarities = x.detach() @ queue.T
            similarities.masked_fill_(labels == _EMPTY, -torch.inf)
            order = labels.argsort()
            targets = order[torch.searchsorted(labels[order], person_ids)]
            return memory_loss(x, [queue], similarities, targets, self.scale)

    def _used_rows(self) -> int:
        """Number of rows up to the last that holds somebody; the host waits for it."""
        rows = torch.arange(1, len(self.labels) + 1, device=self.labels.device)
        return int((rows * (self.labels != _EMPTY)).max())

    @torch.no_grad()
    def update(self, embeddings: Tensor, person_ids: Tensor) -> None:
        """
        Write the mean of every person into the queue, people in ascending order.

        A person who is in it already moves to the head; the old row is emptied.

        Args:
            embeddings: (n, D), not normalised.
            person_ids: (n,).
        """
        # The host waits for these; all else of the update is known then.
        people, inverse = person_ids.cpu().unique(return_inverse=True)
        size = len(self.queue)
        if len(people) > size:
            raise ValueError(
                f"A batch has {len(people)} people but the momentum queue only {size} rows; "
                "raise queue_size (MODEL.SPNET.REID.QUEUE_SIZE)."
            )
        self.ages += self.labels != _EMPTY
        if len(people) == 0:
            return
        people, inverse = to_device([people, inverse], embeddings.device)
        numbers = torch.arange(len(people), device=embeddings.device)
        # A product, since GPUs add rows up in any order, and processes would drift apart.
        own = (inverse == numbers[:, None]).to(embeddings.dtype)
        with full_precision(embeddings):
            means = unit_rows(own @ embeddings / own.sum(dim=1, keepdim=True))
        near = torch.searchsorted(people, self.labels).clamp(max=len(people) - 1)
        old = people[near] == self.labels
        self.labels.masked_fill_(old, _EMPTY)
        self.ages.masked_fill_(old, 0)
        slots = (self.queue_head + numbers) % size
        self.queue.index_copy_(0, slots, means.to(self.queue.dtype))
        self.labels.index_copy_(0, slots, people)
        self.ages.index_fill_(0, slots, 1)
        self.queue_head.add_(len(people)).remainder_(size)
        if statistics.due():
            statistics.record(num_queue_rows=(self.labels != _EMPTY).sum())
