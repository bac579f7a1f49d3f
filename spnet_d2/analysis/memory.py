"""Memory of a training step, from what autograd stores, on any device.

Tensors that the forward pass saves for the backward pass are counted through
``torch.autograd.graph.saved_tensors_hooks``: every storage once, weights not. Steps of small
batches of small images, which a CPU can run, are fitted by

    bytes(N, pixels) = constant + N * (per_image + per_pixel * pixels)

and extrapolated. The RoI part is ``per_image``: K boxes of each image, whatever its size.

Shapes: ``N`` images, ``n`` boxes of an image.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from spnet_d2.data.synthetic import make_batch


@dataclass(frozen=True)
class Account:
    """
    Memory of one training step, in bytes.

    Attributes:
        images: N.
        pixels: of one image.
        activations: what autograd holds when the forward pass ends.
        weights, frozen, buffers: of the model: trained, not trained, others.
        gradients: of the trained weights.
    """

    images: int
    pixels: int
    activations: int
    weights: int
    frozen: int
    buffers: int
    gradients: int


class _Saved:
    """What autograd keeps instead of a tensor; dies with the graph."""

    __slots__ = ("__weakref__",)


@dataclass
class _Storage:
    """A storage that is saved, perhaps several times (views, two users)."""

    alive: StorageWeakRef
    bytes: int
    users: int = 0


class SavedStorages:
    """
    Counts what the code inside saves for its backward pass, every storage once.

    Nothing is kept, so that large steps can be counted where they would not fit. There is no
    backward pass then.
    """

    def __init__(self, known: set[int]):
        """
        Args:
            known: data pointers of storages that are not counted (weights).
        """
        self.known = known
        self.latest: dict[int, _Storage] = {}
        self.bytes = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count inside; ``bytes`` is what is held at any moment."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, _no_backward):
            yield

    def _pack(self, tensor: Tensor) -> _Saved:
        saved, storage = _Saved(), tensor.untyped_storage()
        key = storage.data_ptr()
        if key in self.known or not storage.nbytes():
            return saved
        entry = self.latest.get(key)
        # An address is used again once its storage is freed.
        if entry is None or entry.alive.expired():
            entry = self.latest[key] = _Storage(StorageWeakRef(storage), storage.nbytes())
        self.bytes += 0 if entry.users else entry.bytes
        entry.users += 1
        weakref.finalize(saved, self._drop, entry).atexit = False
        return saved

    def _drop(self, entry: _Storage) -> None:
        entry.users -= 1
        self.bytes -= 0 if entry.users else entry.bytes


def _no_backward(saved: _Saved):
    raise RuntimeError("Saved tensors were counted, not kept: there is no backward pass.")


def account_step(model: Any, images: int, side: int, boxes: int = 8, amp: bool = False) -> Account:
    """
    Run the forward pass of a training step on noise and account for its memory.

    All sampled boxes train re-id, as with a detector that finds everybody; ordinarily it is those
    near to a person only. So this is the most that a step takes.

    Args:
        model: an SPNet; its memories and statistics change.
        images: N.
        side: of the square crops, pixels.
        boxes: n, ground truth.
        amp: under autocast, on CPUs to bfloat16. It is as wide as the float16 of GPUs, but GPUs
            keep the inputs of layer norms in float32.
    """
    model.train()
    heads = model.roi_heads
    lut = getattr(heads.reid_loss, "lut", None)
    batch = make_batch(images, side, boxes, 0 if lut is None else len(lut))
    parameters, buffers = list(model.parameters()), list(model.buffers())
    known = {t.untyped_storage().data_ptr() for t in (*parameters, *buffers)}
    threshold, heads.reid_iou_thresh = heads.reid_iou_thresh, -1.0
    device = model.device.type
    try:
        saved = SavedStorages(known)
        with saved.counted(), torch.autocast(device, torch.bfloat16, enabled=amp):
            losses = model(batch)
            activations = saved.bytes
    finally:
        heads.reid_iou_thresh = threshold
    del losses
    trained = sum(p.nbytes for p in parameters if p.requires_grad)
    return Account(
        images=images,
        pixels=side * side,
        activations=activations,
        weights=trained,
        frozen=sum(p.nbytes for p in parameters if not p.requires_grad),
        buffers=sum(b.nbytes for b in buffers),
        gradients=trained,
    )


@dataclass(frozen=True)
class Fit:
    """
    Activations as a function of batch and image size, in bytes.

    Attributes:
        constant, per_image, per_pixel: see the module.
        error: largest relative deviation from an account it was made from.
    """

    constant: float
    per_image: float
    per_pixel: float
    error: float

    def __call__(self, images: int, side: int) -> float:
        return self.constant + images * (self.per_image + self.per_pixel * side * side)


def fit_accounts(accounts: list[Account]) -> Fit:
    """
    Fit activations by least squares.

    Raises:
        ValueError: not two batch sizes and two image sizes.
    """
    if min(len({a.images for a in accounts}), len({a.pixels for a in accounts})) < 2:
        raise ValueError("A fit takes accounts of two batch sizes and two image sizes at least.")
    rows = np.array([[1.0, a.images, a.images * a.pixels] for a in accounts])
    measured = np.array([a.activations for a in accounts], dtype=np.float64)
    # Relative deviations, so that small steps count as much as large ones.
    solution = np.linalg.lstsq(rows / measured[:, None], np.ones(len(rows)), rcond=None)[0]
    error = np.abs(rows @ solution / measured - 1).max()
    constant, per_image, per_pixel = solution.tolist()
    return Fit(constant, per_image, per_pixel, float(error))
