"""Cross-entropy of similarities to the rows of a memory, whose gradient is known with the loss.

Shapes: ``n`` rows, ``C`` rows of the memory, ``D`` embedding size.
"""

import torch
from torch import Tensor


def memory_loss(
    x: Tensor, memory: list[Tensor], similarities: Tensor, targets: Tensor, scale: float
) -> Tensor:
    """
    ``-log softmax(scale x similarities)[target]``, summed over the rows that have a target.

    Only ``x`` gets a gradient. It is computed at once and all that is kept for the backward pass:
    the memory may change in place in between, and the (n, C) matrix is gone.

    Args:
        x: (n, D).
        memory: parts (C_i, D), C rows together. Rows whose similarity is a constant are zero.
        similarities: (n, C), of ``x.detach()`` to the memory's rows, and constants. Overwritten.
        targets: (n,) int64 row of the memory, negative where a row has none.
        scale: 1 / temperature.
    """
    return _MemoryLoss.apply(x, memory, similarities, targets, scale)


class _MemoryLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x: Tensor, memory: list[Tensor], logits: Tensor, targets: Tensor, scale: float
    ) -> Tensor:
        without, column = (targets < 0)[:, None], targets.clamp(min=0)[:, None]
        logits.mul_(scale)
        sums = logits.logsumexp(dim=1, keepdim=True)
        losses = (sums - logits.gather(1, column)).masked_fill_(without, 0.0)
        if ctx.needs_input_grad[0]:
            shares = logits.sub_(sums).exp_()
            shares.scatter_add_(1, column, torch.full_like(sums, -1.0))
            shares.masked_fill_(without, 0.0)
            parts = shares.split([len(rows) for rows in memory], dim=1)
            gradient = torch.zeros_like(x)
            for part, rows in zip(parts, memory, strict=True):
                gradient.addmm_(part, rows)
            ctx.save_for_backward(gradient.mul_(scale))
        return losses.sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor):
        (of_x,) = ctx.saved_tensors
        return gradient * of_x, None, None, None, None
