"""Copies of a batch to the GPU: all tensors at once, from pinned memory, without waiting."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Where each tensor starts in the joint buffer, in bytes: a multiple of every type's size.
_ALIGNMENT = 16


def to_device(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
    """
    Tensors of any types and shapes on ``device``; those that are there are returned as they are.

    Those of the host go in one copy, which the host does not wait for.
    """
    result = list(tensors)
    host = []
    for i, tensor in enumerate(tensors):
        if not _is_away(tensor, device):
            continue
        if tensor.device.type == "cpu":
            host.append(i)
        else:
            result[i] = tensor.to(device, non_blocking=True)
    if host:
        copies = _unpack(_upload(_pack([tensors[i] for i in host], device), device), result, host)
        for i, copy in zip(host, copies, strict=True):
            result[i] = copy
    return result


def move(values: Any, device: torch.device) -> Any:
    """Lists, tuples and dataclasses of tensors, on ``device``, see :func:`to_device`."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _map(values, note)
    moved = iter(to_device(found, device))
    return _map(values, lambda _: next(moved))


def _map(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``values`` with every tensor inside changed, in the same order every time."""
    if isinstance(values, Tensor):
        return change(values)
    if isinstance(values, list | tuple):
        return type(values)(_map(value, change) for value in values)
    if dataclasses.is_dataclass(values) and not isinstance(values, type):
        fields = {f.name: getattr(values, f.name) for f in dataclasses.fields(values)}
        return type(values)(**{name: _map(value, change) for name, value in fields.items()})
    return values


def _is_away(tensor: Tensor, device: torch.device) -> bool:
    return tensor.device != device


def _upload(buffer: Tensor, device: torch.device) -> Tensor:
    return buffer.to(device, non_blocking=True)


def _size(tensor: Tensor) -> int:
    """Bytes of a tensor, rounded up to the alignment."""
    return -(-tensor.numel() * tensor.element_size() // _ALIGNMENT) * _ALIGNMENT


def _pack(tensors: list[Tensor], device: torch.device) -> Tensor:
    """The bytes of all tensors one after another."""
    pinned = device.type == "cuda"
    buffer = torch.empty(sum(map(_size, tensors)), dtype=torch.uint8, pin_memory=pinned)
    start = 0
    for tensor in tensors:
        part = buffer[start : start + tensor.numel() * tensor.element_size()]
        part.view(tensor.dtype).view(tensor.shape).copy_(tensor)
        start += _size(tensor)
    return buffer


def _unpack(buffer: Tensor, tensors: list[Tensor], chosen: list[int]) -> list[Tensor]:
    """Views of a buffer that are like the chosen tensors."""
    views, start = [], 0
    for tensor in (tensors[i] for i in chosen):
        part = buffer[start : start + tensor.numel() * tensor.element_size()]
        views.append(part.view(tensor.dtype).view(tensor.shape))
        start += _size(tensor)
    return views
