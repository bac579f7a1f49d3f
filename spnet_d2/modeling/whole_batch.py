"""Global sums and rows of a batch that is split over processes and accumulation steps.

A process takes its part of a batch at once or, with gradient accumulation, in several parts one
after another. Losses are divided by the whole batch's numbers of rows. Re-id memories take the
whole batch's rows in the order in which one process would see them: image by image, boxes first
and ground truth last.

``DistributedDataParallel`` (over processes) and the trainer (over parts) average the gradients. A
share's loss is therefore its sum times the number of shares, over the whole batch's count. The mean
over shares, which is logged, is then the whole batch's loss.

Collective operations happen in the forward pass: all processes must call the model, each with one
image or more, equally often.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor


@dataclass(frozen=True)
class _Running:
    """What a forward pass is of: ``alone``, see :func:`alone`, and the parts that it is one of."""

    alone: bool = False
    parts: "Parts | None" = None


# Each thread has its own, which lasts as long as the block that sets it.
_WHOLE = _Running()
_running = ContextVar("what a forward pass is of", default=_WHOLE)


@contextmanager
def _inside(**changes: Any) -> Iterator[None]:
    before = _running.set(replace(_running.get(), **changes))
    try:
        yield
    finally:
        _running.reset(before)


def alone() -> AbstractContextManager[None]:
    """Inside, this process's batches are whole by themselves, as in a pass over a test set."""
    return _inside(alone=True)


def num_processes() -> int:
    """How many processes share the batch."""
    return 1 if _running.get().alone else comm.get_world_size()


class Parts:
    """
    One step's batch in parts that a process takes one after another, twice.

    A first pass, without gradients, finds the numbers of rows that losses are divided by, and the
    rows of the momentum queue, which come before the loss. The second one trains.
    """

    def __init__(self, number: int):
        """
        Args:
            number: of parts, the same on all processes.
        """
        self.number = number
        self.index = 0
        self.counting = True
        self._counts: list[list[Tensor]] = [[] for _ in range(number)]
        self._whole: Tensor | None = None
        self._totals: Iterator[Tensor] = iter(())
        self._rows: list[list[list[Tensor]]] = []

    @contextmanager
    def part(self, index: int, counting: bool) -> Iterator[None]:
        """Inside, the model gets part ``index``, in the first pass (``counting``) or the second."""
        self.index, self.counting = index, counting
        if not counting:
            if self._whole is None:
                # Added up over processes once, for all losses.
                counts = torch.stack([torch.stack(part) for part in self._counts])
                self._whole = over_processes(counts.sum(dim=0))
            # Losses ask in the same order again.
            self._totals = iter(self._whole)
        with _inside(parts=self):
            yield

    def total(self, count: Tensor) -> Tensor:
        """The whole batch's number of what this part has ``count`` of; 1 in the first pass."""
        if self.counting:
            self._counts[self.index].append(count)
            return torch.ones_like(count)
        return next(self._totals)

    def add_rows(self, groups: list[list[Tensor]]) -> list[list[Tensor]] | None:
        """Rows of all parts, group by group, when the last part's are given."""
        self._rows.append(groups)
        if self.index < self.number - 1:
            return None
        rows, self._rows = self._rows, []
        return [[torch.cat(t) for t in zip(*group)] for group in zip(*rows)]


def in_first_pass() -> bool:
    """Whether to collect the rows that come before the loss."""
    parts = _running.get().parts
    return parts is None or parts.counting


def in_last_pass() -> bool:
    """Whether losses count, and whether to collect the rows that come after the loss."""
    parts = _running.get().parts
    return parts is None or not parts.counting


@dataclass(frozen=True)
class Share:
    """
    A mean over the whole batch that is not divided yet, so that several are in one exchange.

    Attributes:
        total: sum over the share's rows, a scalar.
        count: number of rows to divide by, of the share alone, a scalar.
        weight: factor on the mean.
    """

    total: Tensor
    count: Tensor
    weight: float = 1.0

    def __mul__(self, factor: float) -> "Share":
        return replace(self, weight=self.weight * factor)

    def mean(self) -> Tensor:
        """Of this one alone."""
        return means({"": self})[""]


def means(losses: "Mapping[str, Share | Tensor]") -> dict[str, Tensor]:
    """
    This share's parts of means over the whole batch, by one exchange for all of them.

    Args:
        losses: by name; tensors stay what they are.

    Returns:
        Of each ``total`` x shares / the whole batch's count (at least 1): its mean over shares is
        the whole batch's mean.
    """
    shares = {name: x for name, x in losses.items() if isinstance(x, Share)}
    found = {name: x for name, x in losses.items() if not isinstance(x, Share)}
    if not shares:
        return found
    counts = _whole_counts([x.count for x in shares.values()])
    for (name, x), count in zip(shares.items(), counts, strict=True):
        found[name] = x.total * _num_shares() / count.clamp(min=1) * x.weight
    return {name: found[name] for name in losses}


def mean(total: Tensor, count: Tensor | int, whole: Tensor | int | None = None) -> Tensor:
    """
    The same of one sum, at once.

    Args:
        total: sum over the share's rows, a scalar.
        count: number of rows to divide by, of the share alone.
        whole: the sum of ``count`` over processes, where it is known, which saves the exchange.
    """
    if whole is None or _running.get().parts is not None:
        return Share(total, _scalar(count, total)).mean()
    return total * _num_shares() / _scalar(whole, total).clamp(min=1)


def _scalar(x: Tensor | int, like: Tensor) -> Tensor:
    return torch.full((), x, device=like.device) if isinstance(x, int) else x


def _num_shares() -> int:
    parts = _running.get().parts
    return num_processes() * (1 if parts is None else parts.number)


def _whole_counts(counts: list[Tensor]) -> list[Tensor]:
    """The whole batch's numbers of what this share has ``counts`` of."""
    if parts := _running.get().parts:
        return [parts.total(count) for count in counts]
    if num_processes() == 1:
        return counts
    return list(over_processes(torch.stack(counts)))


def share_of(limit: int) -> int:
    """How much of a budget for the whole batch this share gets: equal parts, up to one."""
    rank = comm.get_rank() if num_processes() > 1 else 0
    parts = _running.get().parts
    number, index = (1, 0) if parts is None else (parts.number, parts.index)
    shares, share = num_processes() * number, rank * number + index
    return limit // shares + (share < limit % shares)


@torch.no_grad()
def whole_rows(num_last: int, *tensors: Tensor) -> list[Tensor] | None:
    """
    Rows of the whole batch, the same on all processes.

    Args:
        num_last: how many rows, the last ones, are ground truth.
        tensors: (n, ...) each, n may be 0 and differs between shares.

    Returns:
        A tensor for each, on its device: the boxes of all shares in order, then all ground truth.
        None while parts of the batch are missing.
    """
    groups = [list(group) for group in zip(*(_cut(t, num_last) for t in tensors))]
    if parts := _running.get().parts:
        all_parts = parts.add_rows(groups)
        if all_parts is None:
            return None
        groups = all_parts
    if num_processes() == 1:
        return [torch.cat(parts) for parts in zip(*groups)]
    # One exchange of all counts, and one of the rows of all tensors.
    counts = torch.tensor([len(group[0]) for group in groups], device=tensors[0].device)
    sizes = _gathered(counts)
    joined = [torch.cat(parts) for parts in zip(*groups)]
    whole = _gather_uneven(_as_bytes(joined), [sum(s) for s in sizes])
    split = [_cut(w, s[1]) for w, s in zip(whole, sizes)]
    return _from_bytes(torch.cat([part for group in zip(*split) for part in group]), joined)


def _as_bytes(tensors: list[Tensor]) -> Tensor:
    """Tensors (n, ...) of any types, row beside row: (n, bytes)."""
    rows = [t.contiguous().reshape(len(t), math.prod(t.shape[1:])) for t in tensors]
    return torch.cat([row.view(torch.uint8) for row in rows], dim=1)


def _from_bytes(rows: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Rows (n, bytes) of :func:`_as_bytes` as tensors, of the types and widths of ``like``."""
    widths = [t.element_size() * math.prod(t.shape[1:]) for t in like]
    return [
        # Contiguous: numbers must start where their type may.
        part.clone(memory_format=torch.contiguous_format)
        .view(t.dtype)
        .reshape(len(rows), *t.shape[1:])
        for part, t in zip(rows.split(widths, dim=1), like, strict=True)
    ]


def rows_with_gradient(num_last: int, tensor: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
    """
    Rows of all processes in the order of :func:`whole_rows`, through which gradients flow back.

    Parts of a batch do not see one another's. Every process has to compute the same loss of them.

    Args:
        num_last: as for :func:`whole_rows`.
        tensor: (n, ...) rows.
        labels: (n,) numbers of them, without gradient.

    Returns:
        Rows, labels and number of last rows, of all processes.
    """
    if num_processes() == 1:
        return tensor, labels, num_last
    counts = torch.tensor([len(tensor) - num_last, num_last], device=tensor.device)
    sizes = _gathered(counts)
    rows = sum_with_gradient(_between(tensor, num_last, sizes))
    whole = over_processes(_between(labels, num_last, sizes))
    return rows, whole, sum(size[1] for size in sizes)


def _between(tensor: Tensor, num_last: int, sizes: list[list[int]]) -> Tensor:
    """This process's rows in their places among all processes', which are zeros."""
    rank = comm.get_rank()
    # Boxes of all processes, then ground truth of all; each process fills in its own rows.
    lengths = [size[group] for group in (0, 1) for size in sizes]
    blocks = [tensor.new_zeros(length, *tensor.shape[1:]) for length in lengths]
    blocks[rank], blocks[len(sizes) + rank] = _cut(tensor, num_last)
    return torch.cat(blocks)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(_, tensor: Tensor) -> Tensor:
        tensor = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(tensor)
        return tensor

    @staticmethod
    def backward(_, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)


def sum_with_gradient(tensor: Tensor) -> Tensor:
    """
    The sum over processes, on each of them; in the backward pass gradients are summed as well.

    Args:
        tensor: of the same shape on all processes.
    """
    return _Sum.apply(tensor)


def _cut(tensor: Tensor, num_last: int) -> tuple[Tensor, Tensor]:
    first = len(tensor) - num_last
    return tensor[:first], tensor[first:]


def over_processes(count: Tensor) -> Tensor:
    """The sum over processes."""
    if num_processes() == 1:
        return count
    count = count.clone()
    dist.all_reduce(count)
    return count


def _gathered(counts: Tensor) -> list[list[int]]:
    """Numbers (k,) of every process, by rank."""
    gathered = counts.new_empty(num_processes(), len(counts))
    dist.all_gather(list(gathered), counts)
    return gathered.tolist()


def _gather_uneven(tensor: Tensor, lengths: list[int]) -> list[Tensor]:
    """Tensors (n_r, ...) of every process, by rank: padded to the longest and cut again."""
    padded = tensor.new_zeros(max(lengths), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    gathered = padded.new_empty(len(lengths), *padded.shape)
    if gathered.numel():
        dist.all_gather(list(gathered), padded)
    return [g[:length] for g, length in zip(gathered, lengths)]
