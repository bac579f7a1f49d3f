"""The outcome of a step's forward and backward pass: what the host waits for, once."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor


@dataclass
class Outcome:
    """
    What the host has to know of a step, fetched from the device at once.

    Attributes:
        losses: means over parts and processes.
        bad_losses: whether one of them, of any part on any process, is infinite or NaN.
        grad_norm: norm of the gradient, before clipping.
        slowest_data: seconds that data took, of the process that waited longest.
    """

    losses: dict[str, float]
    bad_losses: bool
    grad_norm: float
    slowest_data: float

    @classmethod
    def of(cls, losses: list[dict[str, Tensor]], grad_norm: Tensor, data_time: float) -> "Outcome":
        """
        Args:
            losses: scalars by name, of every part.
            grad_norm: the same scalar on all processes, which must all call this.
            data_time: of this process, seconds.
        """
        table = torch.stack([torch.stack([*part.values()]).float() for part in losses])
        means = table.mean(dim=0) if len(table) > 1 else table[0]
        bad = ~(table.isfinite().all() & means.isfinite().all())
        numbers = torch.cat([means, bad.float()[None]])
        processes = comm.get_world_size()
        times = [data_time]
        if processes > 1:
            own = torch.zeros(processes, device=numbers.device)
            own[comm.get_rank()].fill_(data_time)
            # One exchange; a time of each process stands in a place of its own.
            numbers = torch.cat([numbers, own])
            dist.all_reduce(numbers)
            numbers, own = numbers.tensor_split([len(means) + 1])
            numbers = torch.cat([numbers / processes, own])
        *values, norm = torch.cat([numbers, grad_norm.detach().float()[None]]).tolist()
        if processes > 1:
            values, times = values[:-processes], values[-processes:]
        *logged, is_bad = values
        return cls(dict(zip(losses[0], logged, strict=True)), is_bad > 0, norm, max(times))

    def write(self, data_time: float, iteration: int) -> None:
        """Put the losses into the event storage, as Detectron2's ``SimpleTrainer`` does."""
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=iteration)
        if comm.is_main_process():
            storage.put_scalar("data_time", self.slowest_data, cur_iter=iteration)
            storage.put_scalar("total_loss", sum(self.losses.values()), cur_iter=iteration)
            if len(self.losses) > 1:
                storage.put_scalars(cur_iter=iteration, **self.losses)
