"""Batch norm over the batches of all processes (``MODEL.SPNET.SYNC_BN``).

PyTorch's ``SyncBatchNorm`` works on GPUs only, and needs a row or more; Detectron2's weights
processes by images, not by rows, and needs affine parameters. This one is what ``BatchNorm``
computes on the joined batch, on any device, whatever the processes' numbers of rows. On GPUs a
trunk, whose maps are large, gets PyTorch's, which is fused.
"""

import torch
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn

from .precision import full_precision
from .whole_batch import num_processes, sum_with_gradient


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """
    Batch norm of (n, C, ...), n >= 0, with statistics over the rows of all processes.

    Where these are less than two, running statistics are used and stay as they are. The counter of
    batches is that of one process: it skips a stage without maps, vectors it counts always. At
    inference it is the plain batch norm.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # What timm's fused layers do behind the norm.
        self.drop: nn.Module = nn.Identity()
        self.act: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, ...) -> the same shape and type."""
        y = self._normalise(x) if self.training else super().forward(x)
        return self.act(self.drop(y))

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"Expected (n, C, ...) to normalise, found {tuple(x.shape)}.")

    def _normalise(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        # As every batch norm of a trunk or embedder, with a fixed step.
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        with full_precision(x):
            values = x.float()
            mean, var, count = _moments(values)
            enough = count >= 2
            with torch.no_grad():
                self.num_batches_tracked.add_(1 if x.dim() == 2 else count[0] > 0)
                step = self.momentum * enough
                unbiased = var * count / (count - 1).clamp(min=1)
                seen = self.running_mean.clone(), self.running_var.clone()
                self.running_mean.lerp_(mean, step)
                self.running_var.lerp_(unbiased, step)
            mean, var = torch.where(enough, mean, seen[0]), torch.where(enough, var, seen[1])
            scale = torch.rsqrt(var + self.eps)
            if self.weight is not None:
                scale = scale * self.weight
            shift = -mean * scale
            if self.bias is not None:
                shift = shift + self.bias
            shape = (1, -1, *[1] * (x.dim() - 2))
            return (values * scale.view(shape) + shift.view(shape)).to(x.dtype)


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), biased variance (C,) and number of values per channel, over all processes."""
    axes = [0, *range(2, x.dim())]
    count = torch.full((1,), x.numel() / x.shape[1], device=x.device)
    if x.numel():
        var, mean = torch.var_mean(x, axes, correction=0)
    else:
        # Zeros with a graph: all processes must take part in the backward pass as well.
        mean = var = x.sum(axes)
    if num_processes() == 1:
        return mean, var, count
    sums = sum_with_gradient(torch.cat([mean * count, count]))
    whole = sums[-1:].detach()
    common = sums[:-1] / whole.clamp(min=1)
    # In two steps: the difference of mean square and squared mean would lose digits.
    var = sum_with_gradient((var + (mean - common).square()) * count) / whole.clamp(min=1)
    return common, var, whole


def synchronise_batch_norms(module: nn.Module) -> None:
    """
    Put a :class:`SyncBatchNorm` in the place of every batch norm inside ``module``.

    Parameters, buffers and their names stay. Norms that are synchronised already stay as well.
    """
    for name, child in module.named_children():
        if isinstance(child, (SyncBatchNorm, nn.SyncBatchNorm)):
            continue
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, _synchronised(child))
        else:
            synchronise_batch_norms(child)


def synchronise_trunk(trunk: nn.Module) -> None:
    """Put PyTorch's ``SyncBatchNorm``, for GPUs, in the place of every batch norm of a trunk."""
    for name, child in trunk.named_children():
        setattr(trunk, name, convert_sync_batchnorm(child))


def is_synchronised(norm: nn.Module) -> bool:
    """Whether a batch norm has the same statistics on all processes."""
    return isinstance(norm, (SyncBatchNorm, nn.SyncBatchNorm))


def synchronises(module: nn.Module) -> bool:
    """Whether ``module`` trains such a norm, so all processes must call it or none."""
    return any(isinstance(m, SyncBatchNorm) and m.training for m in module.modules())


def _synchronised(norm: nn.modules.batchnorm._BatchNorm) -> SyncBatchNorm:
    with torch.device("meta"):
        new = SyncBatchNorm(norm.num_features, norm.eps, norm.momentum, affine=norm.affine)
    new.weight, new.bias = norm.weight, norm.bias
    for name, buffer in norm.named_buffers(recurse=False):
        setattr(new, name, buffer)
    if isinstance(norm, BatchNormAct2d):
        new.drop, new.act = norm.drop, norm.act
    new.train(norm.training)
    return new
