"""Counts what would make a step wait for the GPU, on a CPU.

Tensors are told apart by where a GPU's user would have them. The model's weights are on the
"device"; so is what is copied there, what is made there (``device=...``), and what comes of these.
Everything else is on the host. Of each operator on tensors of the device, it is known whether it
brings a number to the host (``item``, ``nonzero``, indexing by a mask ...), which waits for all
work before it. Copies from the host, one by one and not pinned, wait, too.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from spnet_d2.modeling import device_copies

# Operators whose result's size, or value, the host has to know.
_WAITS = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "histc",
    "equal",
    "is_nonzero",
    "isin",
    "nms",
}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
_FACTORIES = (
    "zeros ones full empty arange eye linspace rand randn randint randperm tensor as_tensor"
).split()
_FROM_HOST = ("tensor", "as_tensor")


class Synchronisations(TorchDispatchMode):
    """
    Context that counts, by operator.

    Attributes:
        counts: how often the host waits, by operator.
        uploads: number of copies of the input.
        operators: how many operators ran on the device, those for the host left out.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.uploads = 0
        self.operators = 0
        # By storage: views, and what the graph keeps, are known as well. They are kept, so that no
        # other storage gets the place of one.
        self._device: dict[int, object] = {}
        self._host: dict[int, object] = {}
        for tensor in (*model.parameters(), *model.buffers()):
            self.put(tensor)

    @property
    def total(self) -> int:
        return self.counts.total()

    def put(self, tensor: Tensor) -> Tensor:
        """Note that a tensor is on the device."""
        storage = tensor.untyped_storage()
        self._device[storage._cdata] = storage
        return tensor

    def on_device(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._device

    def _put_on_host(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._host[storage._cdata] = storage
        return tensor

    def _on_host(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._host and not self.on_device(tensor)

    def upload(self, tensor: Tensor) -> Tensor:
        """A copy of the input to the device."""
        self.uploads += 1
        return self.put(tensor.clone())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
        device = [x for x in given if self.on_device(x)]
        name = func.overloadpacket.__name__
        result = func(*args, **kwargs)
        if not device:
            return result
        self.operators += 1
        if name in _WAITS:
            self.counts[name] += 1
        elif name == "repeat_interleave" and kwargs.get("output_size") is None:
            self.counts[name] += 1
        elif name in _INDEXING:
            index = [x for x in args[1] if x is not None]
            masks = sum(x.dtype in (torch.bool, torch.uint8) for x in index)
            self.counts["index by mask"] += masks
            self.counts["index on the host"] += sum(self._on_host(x) for x in index)
        else:
            # A number may stay on the host; CUDA refuses other tensors there.
            wrong = [x for x in given if x.dim() and self._on_host(x)]
            assert not wrong or name == "copy_", f"{name} of tensors on the device and on the host"
            if wrong and self.on_device(args[0]):
                self.counts["copy to the device"] += 1
        for x in tree_iter(result):
            if isinstance(x, Tensor):
                self.put(x)
        return result

    @contextlib.contextmanager
    def watch(self) -> Iterator["Synchronisations"]:
        """Inside, operators of the model and of its backward pass are counted."""
        with contextlib.ExitStack() as stack:
            for name in _FACTORIES:
                stack.enter_context(mock.patch.object(torch, name, self._factory(name)))
            for name in ("to", "new_tensor", "cpu", "numpy", "tolist"):
                method = getattr(self, f"_{name}")(getattr(Tensor, name))
                stack.enter_context(mock.patch.object(Tensor, name, method, create=True))
            upload = mock.patch.object(device_copies, "_upload", lambda x, _: self.upload(x))
            away = mock.patch.object(device_copies, "_is_away", lambda x, _: not self.on_device(x))
            for context in (upload, away, self):
                stack.enter_context(context)
            yield self
        self.counts = +self.counts

    def _factory(self, name: str):
        make = getattr(torch, name)

        def factory(*args, **kwargs):
            result = make(*args, **kwargs)
            if kwargs.get("device") is None:
                return self._put_on_host(result)
            if name in _FROM_HOST:
                self.counts[f"{name} of a host's value"] += 1
                self.put(result)
            # Else it is where what it meets is: host and device have one name here.
            return result

        return factory

    def _to(self, to):
        def method(tensor, *args, **kwargs):
            target = next((x for x in (*args, *kwargs.values()) if _is_device(x)), None)
            result = to(tensor, *args, **kwargs)
            if target is None or self.on_device(tensor):
                return result
            self.counts["copy to the device"] += 1
            return self.put(result.clone())

        return method

    def _new_tensor(self, new_tensor):
        def method(tensor, *args, **kwargs):
            result = new_tensor(tensor, *args, **kwargs)
            if self.on_device(tensor):
                self.counts["new_tensor"] += 1
                self.put(result)
            return result

        return method

    def _to_host(self, name, original):
        def method(tensor, *args, **kwargs):
            if self.on_device(tensor):
                self.counts[name] += 1
                tensor = self._put_on_host(tensor.detach().clone())
                self._device.pop(tensor.untyped_storage()._cdata)
            return original(tensor, *args, **kwargs)

        return method

    def _cpu(self, original):
        return self._to_host("cpu", original)

    def _numpy(self, original):
        return self._to_host("numpy", original)

    def _tolist(self, original):
        return self._to_host("tolist", original)


def _is_device(x) -> bool:
    return isinstance(x, torch.device) or (
        isinstance(x, str) and x.split(":")[0] in ("cpu", "cuda")
    )
