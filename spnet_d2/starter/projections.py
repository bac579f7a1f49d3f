"""The re-id projections once more, by least squares.

Distillation teaches the last linear layers by thousands of small steps, all other layers with them.
For features that no longer change, the layers that come nearest to the targets are known in closed
form. What gradients found ranks better, what least squares finds lies nearer: the mean of both
finds strangers better than either (docs/starter.md).

Shapes: ``n`` boxes, ``F`` numbers of a feature, ``K`` of a projection, ``D`` of an embedding.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from spnet_d2.config_files import get_config_file
from spnet_d2.config_reader import read_config
from spnet_d2.data.transforms import build_augmentation
from spnet_d2.modeling.reid_losses.distillation import DistillationLoss, read_targets
from spnet_d2.search.frames import read_image_bgr
from spnet_d2.search.predictor import PersonSearchPredictor
from spnet_d2.utils.atomic_io import atomic_path

# Ridge, as a share of each feature's variance.
RIDGE = 0.1
# Each image at one of these sizes of its shorter side: people of many heights.
_SIDES = (448, 640, 800)
# Boxes are shifted by up to this share of their sides: detected ones aren't exact, either.
_JITTER = 0.06


@dataclass
class Moments:
    """First and second moments of features (n, F) and what they are to become (n, K)."""

    count: int
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor

    @classmethod
    def none(cls, features: int, outputs: int) -> "Moments":
        """Of no rows."""
        sizes = ((features,), (outputs,), (features, features), (features, outputs))
        return cls(0, *(torch.zeros(size, dtype=torch.float64) for size in sizes))

    def add(self, x: Tensor, y: Tensor) -> None:
        """Rows (n, F) and (n, K)."""
        x, y = x.double(), y.double()
        self.count += len(x)
        self.x += x.sum(dim=0)
        self.y += y.sum(dim=0)
        self.xx += x.T @ x
        self.xy += x.T @ y


def refit(linear: nn.Linear, norm: nn.BatchNorm1d, moments: Moments) -> None:
    """
    Make a projection the mean of what it is and of the least squares, each of unit variance.

    Args:
        linear: F -> K, changed in place.
        norm: of K, not affine; its statistics become those of the rows.
        moments: of the rows.
    """
    mean, goal = moments.x / moments.count, moments.y / moments.count
    spread = moments.xx / moments.count - mean.outer(mean)
    towards = moments.xy / moments.count - mean.outer(goal)
    # Features that hardly change get weights that hardly count.
    ridge = RIDGE * (spread.diagonal().clamp(min=0).sqrt() + 1e-3) ** 2
    fitted = torch.linalg.solve(spread + ridge.diag(), towards).T
    learnt = linear.weight.detach().double()
    weight = (_of_unit_variance(fitted, spread) + _of_unit_variance(learnt, spread)) / 2
    # The norm undoes any scale. That of before lets trainings that go on take steps of that size.
    weight *= (learnt.norm(dim=1) / weight.norm(dim=1).clamp(min=1e-12))[:, None]
    assert norm.running_mean is not None and norm.running_var is not None
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.zero_()
        norm.running_mean.copy_(weight @ mean)
        norm.running_var.copy_(_variances(weight, spread))


def _variances(weight: Tensor, spread: Tensor) -> Tensor:
    return ((weight @ spread) * weight).sum(dim=1)


def _of_unit_variance(weight: Tensor, spread: Tensor) -> Tensor:
    return weight / _variances(weight, spread).clamp(min=1e-12).sqrt()[:, None]


def fit_projections(
    config: str,
    weights: str | os.PathLike,
    data: Path,
    output: Path,
    images: int = 1650,
    opts: Sequence[str] = (),
) -> None:
    """
    Refit the re-id projections of a checkpoint to a training set's targets, in one pass over it.

    Args:
        config: of the model, below ``projects_configs``, without suffix.
        weights: the checkpoint.
        data: the training set's folder (:mod:`.training_set`).
        output: the checkpoint to write: ``weights`` with other projections.
        images: of the training set that are looked at, every n-th.
        opts: KEY VALUE settings of the model.

    Raises:
        UserError: weights or targets that can't be used.
    """
    serving = ("MODEL.SPNET.BACKBONE.PRETRAINED", "", "MODEL.SPNET.REID.TARGETS", "")
    cfg = read_config(get_config_file(config), [*opts, *serving])
    targets = DistillationLoss(read_targets(data / "targets.npz", cfg.MODEL.SPNET.REID_DIM)).targets
    assert targets is not None
    predictor = PersonSearchPredictor(cfg, weights=str(weights))
    sizes = [_augmentation(cfg, side) for side in _SIDES]
    projectors = predictor.model.roi_heads.reid_embedder.projectors
    moments = [Moments.none(linear.in_features, linear.out_features) for linear, _ in projectors]
    parts = [linear.out_features for linear, _ in projectors]
    random = np.random.default_rng(0)
    for number, (image, boxes, people) in enumerate(_people(data, images)):
        predictor.augmentation = sizes[number % len(sizes)]
        sides = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, keepdims=True)
        with _inputs([linear for linear, _ in projectors]) as features:
            predictor.embed(image, boxes + random.uniform(-_JITTER, _JITTER, boxes.shape) * sides)
        wanted = targets[people].split(parts, dim=1)
        for moment, x, y in zip(moments, features, wanted, strict=True):
            moment.add(torch.cat(x).cpu(), y)
    for (linear, norm), moment in zip(projectors, moments, strict=True):
        refit(linear, norm, moment)
    _write(predictor.model, weights, output)


def _augmentation(cfg, side: int):
    cfg = cfg.clone()
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = side, round(side * 16 / 9)
    return build_augmentation(cfg, is_train=False)


def _people(data: Path, images: int) -> Iterator[tuple[np.ndarray, np.ndarray, list[int]]]:
    """Image (H, W, 3) BGR, boxes (N, 4) xyxy and rows of the targets, of every n-th image."""
    content = json.loads((data / "train.json").read_text())
    people: dict[int, list[dict]] = {}
    for annotation in content["annotations"]:
        people.setdefault(annotation["image_id"], []).append(annotation)
    shown = [image for image in content["images"] if image["id"] in people]
    for image in tqdm(shown[:: -(-len(shown) // images)], "projections", disable=None):
        boxes = np.array([a["bbox"] for a in people[image["id"]]], np.float64)
        boxes[:, 2:] += boxes[:, :2]
        rows = [a["person_id"] for a in people[image["id"]]]
        yield read_image_bgr(data / "images" / image["file_name"]), boxes, rows


@contextmanager
def _inputs(layers: Sequence[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """What each layer is given meanwhile."""
    seen: list[list[Tensor]] = [[] for _ in layers]
    hooks = [
        layer.register_forward_pre_hook(lambda _, given, to=to: to.append(given[0]))
        for layer, to in zip(layers, seen)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _write(model: nn.Module, weights: str | os.PathLike, output: Path) -> None:
    state = torch.load(weights, map_location="cpu", weights_only=True)["model"]
    new = model.state_dict()
    for key in state:
        if ".reid_embedder.projectors." in key:
            state[key] = new[key].to("cpu", state[key].dtype)
    with atomic_path(output) as part:
        torch.save({"model": state}, part)
