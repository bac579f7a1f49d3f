"""Online instance matching as SeqNet's authors compute it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import whole_batch
from ..precision import full_precision
from ..reid_losses.oim import UNKNOWN, OIMLoss


class SeqNetOIM(OIMLoss):
    """
    :class:`~..reid_losses.oim.OIMLoss`, but empty rows of the memory have a logit of 0, and the
    sum is divided by labelled rows. Where nobody is known, it is 0 (theirs: NaN).
    """

    def forward(self, embeddings: Tensor, identities: Tensor, num_gt: int = 0) -> Tensor:
        """
        Compute the loss, then update the memory.

        Args:
            embeddings: (n, D), unit length.
            identities: (n,) rows of the look-up table, -1 for unknown people.
            num_gt: not read.

        Raises:
            RuntimeError: the table has no size.
        """
        if self.lut is None:
            raise RuntimeError("The look-up table has no size: set REID.NUM_IDENTITIES.")
        with full_precision(embeddings):
            x = embeddings.float()
            # A copy: the update must not change what the gradient needs.
            logits = self.scale * x @ torch.cat([self.lut, self.queue]).T
            total = F.cross_entropy(logits, identities, ignore_index=UNKNOWN, reduction="sum")
        # The table is the same on all processes.
        rows = None
        if whole_batch.in_last_pass():
            rows = whole_batch.whole_rows(0, x.detach(), identities)
        if rows is not None:
            self.update(*rows)
        return total / (identities != UNKNOWN).sum().clamp(min=1)
