"""Running statistics of batch norms, which every process keeps of its own batches."""

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import nn

from spnet_d2.engine.periodic import PeriodicHook
from spnet_d2.modeling.sync_batch_norm import is_synchronised


class AverageBatchNorms(PeriodicHook):
    """
    Averages running statistics over processes before they are used: saved, or evaluated with.

    Training itself doesn't use them, so averaging more often would change nothing but rounding.
    """

    def act(self) -> None:
        average_batch_norms(self.trainer.model)


@torch.no_grad()
def average_batch_norms(model: nn.Module) -> None:
    """
    Set running means and variances to their averages over processes, which must all call this.

    Frozen norms, and synchronised ones, have the same everywhere already.

    Args:
        model: in training mode.
    """
    norms = [
        m
        for m in model.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training and not is_synchronised(m)
    ]
    buffers = [b for m in norms for b in (m.running_mean, m.running_var) if b is not None]
    if comm.get_world_size() == 1 or not buffers:
        return
    flat = torch.cat(buffers)
    dist.all_reduce(flat)
    flat /= comm.get_world_size()
    for buffer, average in zip(buffers, flat.split([len(b) for b in buffers]), strict=True):
        buffer.copy_(average)
