"""The contrastive loss of anchors with what they are compared with."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Of cosines in training; scores at inference have none.
TEMPERATURE = 0.1
# Adds nothing to a sum of exponentials, and has no gradient.
_ABSENT = -1e4


def contrastive_loss(cosines: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """
    Mean over positive pairs of ``-log(e^p / (e^p + sum of e^n))``, n over the anchor's negatives.

    Other positives of an anchor are not in the denominator. An anchor without negatives has a loss
    of 0 for each of its positives.

    Args:
        cosines: (A, B) of anchors, by row.
        positive, negative: (A, B) bool.

    Returns:
        Scalar; 0, with a graph, without any positive or negative pair, and as the authors have it
        with one of each.
    """
    count = int(positive.sum())
    if count == 0 or max(count, int(negative.sum())) <= 1:
        return cosines.sum() * 0.0
    logits = cosines / TEMPERATURE
    others = torch.logsumexp(logits.masked_fill(~negative, _ABSENT), dim=1, keepdim=True)
    return F.softplus((others - logits)[positive]).mean()
