"""Tensors of the authors' model, by their names, with weights made from the names.

Shapes are those of the authors' ConvNeXt-Tiny checkpoints; values, images and targets follow the
recipe under which the golden numbers of ``tests/modeling/test_golden.py`` were made.
"""

import math

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

WIDTHS, DEPTHS = (96, 192, 384, 768), (3, 3, 9, 3)
C, DIM = 384, 128
NUM_PID, OIM_QUEUE, MOMENTUM_QUEUE = 50, 5000, 64


def _linear(name, out, inp, bias=True):
    shapes = {f"{name}.weight": (out, inp)}
    return {**shapes, f"{name}.bias": (out,)} if bias else shapes


def _conv(name, out, inp, size):
    return {f"{name}.weight": (out, inp, size, size), f"{name}.bias": (out,)}


def _norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _stage(down, blocks, index):
    """Downsampling ``down`` (if any) and blocks of trunk stage ``index``."""
    width = WIDTHS[index]
    shapes = {}
    if down:
        shapes |= _norm(f"{down}.0", WIDTHS[index - 1])
        shapes |= _conv(f"{down}.1", width, WIDTHS[index - 1], 2)
    for j in range(DEPTHS[index]):
        block = f"{blocks}.{j}"
        shapes[f"{block}.layer_scale"] = (width, 1, 1)
        shapes |= _conv(f"{block}.block.0", width, 1, 7)
        shapes |= _norm(f"{block}.block.2", width)
        shapes |= _linear(f"{block}.block.3", 4 * width, width)
        shapes |= _linear(f"{block}.block.5", width, 4 * width)
    return shapes


def reference_shapes(
    cascades: int = 0, separate: bool = False, reid_dim: int = 128, memory: str = "oim"
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a ConvNeXt-Tiny checkpoint of the authors'."""
    shapes = _conv("backbone.body.0.0", 96, 3, 4) | _norm("backbone.body.0.1", 96)
    for i in range(4):
        down = f"backbone.body.{2 * i}" if i else None
        shapes |= _stage(down, f"backbone.body.{2 * i + 1}", i)
    for i, width in enumerate(WIDTHS[1:]):
        shapes |= _conv(f"backbone.fpn.inner_blocks.{i}.0", C, width, 1)
        shapes |= _conv(f"backbone.fpn.layer_blocks.{i}.0", C, C, 3)
    shapes |= _conv("backbone.fpn.extra_blocks.p6", C, 768, 3)
    shapes |= _conv("backbone.fpn.extra_blocks.p7", C, C, 3)
    shapes |= _conv("head.feature_head.emb_pred", 9 * DIM, C, 3)
    for t in range(cascades + 1):
        shapes |= _linear(f"head.bridge_layer.{t}.linear", DIM, DIM)
        for k in (0, 2, 4, 6):
            shapes |= _linear(f"head.regression_head.{t}.tfm.{k}", DIM, DIM)
        shapes |= _linear(f"head.regression_head.{t}.head", 4, DIM)
    head = "head.align_emb_head"
    shapes |= _stage(f"{head}.emb_head.head.0", f"{head}.emb_head.head.1", 3)
    for level, width in ((4, 384), (5, 768)):
        out = reid_dim // 2
        projector = f"{head}.nae_head.projectors.feat_res{level}"
        shapes |= _linear(f"{projector}.0", out, width)
        shapes |= {f"{projector}.1.running_{s}": (out,) for s in ("mean", "var")}
        shapes[f"{projector}.1.num_batches_tracked"] = ()
    for t in range(1, max(cascades, 1) + 1) if separate else ():
        loc = f"head.align_emb_loc_head.{t}"
        shapes |= _stage(f"{loc}.emb_head.head.0", f"{loc}.emb_head.head.1", 3)
        shapes |= _linear(f"{loc}.head", DIM, 768, bias=False)
    if memory == "oim":
        shapes["head.reid_loss.lut"] = (NUM_PID, reid_dim)
        shapes["head.reid_loss.cq"] = (OIM_QUEUE, reid_dim)
    else:
        twin = {
            name.replace("backbone.", "moco_backbone.", 1): shape
            for name, shape in shapes.items()
            if name.startswith("backbone.")
        }
        twin |= {
            name.replace("align_emb_head", "moco_align_emb_head"): shape
            for name, shape in shapes.items()
            if name.startswith(f"{head}.")
        }
        shapes |= twin
        shapes["head.reid_loss.emb_cq"] = (MOMENTUM_QUEUE, reid_dim)
        shapes["head.reid_loss.label_cq"] = shapes["head.reid_loss.age_cq"] = (MOMENTUM_QUEUE,)
    return shapes


def _uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    seed = sum(map(ord, name)) % 997
    k = np.arange(1, math.prod(shape) + 1, dtype=np.float64)
    values = np.sin(12.9898 * k + 78.233 * seed) * 43758.5453
    return (values - np.floor(values)).reshape(shape)


def reference_tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor of the recipe."""
    if name.endswith(("num_batches_tracked", "age_cq")):
        return torch.zeros(shape, dtype=torch.int64)
    if name.endswith("label_cq"):
        return torch.full(shape, -1)
    if name.endswith("emb_cq"):
        return torch.zeros(shape)
    if "moco_" in name:
        student = reference_tensor(name.replace("moco_", ""), shape)
        return student if "running" in name else 0.9 * student
    u = _uniform(name, shape)
    if name.endswith("running_mean"):
        x = 0.2 * (2 * u - 1)
    elif name.endswith("running_var"):
        x = 9 * (0.5 + u)
    elif name.endswith((".lut", ".cq")):
        x = u - 0.5
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        x[40 if name.endswith("lut") else 30 :] = 0
    elif name.endswith("layer_scale"):
        x = 0.3 + 0.1 * (u - 0.5)
    elif name.endswith(".weight") and len(shape) == 1:
        x = 1 + 0.2 * (u - 0.5)
    elif name.endswith(".bias"):
        x = 0.1 * (u - 0.5)
    else:
        x = (u - 0.5) * math.sqrt(12) * math.sqrt(shape[0] / math.prod(shape))
    if name == "head.feature_head.emb_pred.weight":
        x = x * 0.35
    if "bridge_layer" in name:
        x = x * 0.5
    if "align_emb_loc_head" in name and name.split(".", 3)[-1] == "head.weight":
        x = x * 0.5
    if "regression_head" in name and ".head." in name:
        x = x * 0.1
    return torch.from_numpy(x).float()


def reference_state_dict(**architecture) -> dict[str, torch.Tensor]:
    """All tensors of :func:`reference_shapes`."""
    shapes = reference_shapes(**architecture)
    return {name: reference_tensor(name, shape) for name, shape in shapes.items()}


MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1).double()
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1).double()


def network_image(i: int, height: int, width: int) -> np.ndarray:
    """The recipe's image ``i``, as the network sees it after normalisation."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    return np.stack(
        [
            np.sin(0.05 * (c + 1) * x + 0.03 * (i + 1) * y)
            + 0.5 * np.cos(0.2 * x - 0.13 * (c + 1) * y + i)
            for c in range(3)
        ]
    )


# x1, y1, x2, y2, person id, label (1 .. 50 known, 51 unknown)
TARGETS = [
    [(20, 30, 80, 200, 5, 6), (100, 50, 150, 180, 9, 10)],
    [(30, 30, 90, 200, 5, 6), (120, 50, 170, 180, 9, 10)],
    [(20, 40, 60, 120, 3, 51)],
    [(40, 40, 80, 120, 3, 51), (150, 60, 200, 200, 7, 8)],
]


def model_input(i: int, height: int, width: int, targets: list) -> dict:
    """Image ``i`` on the 0..255 scale with its targets, as the model takes it."""
    image = (torch.from_numpy(network_image(i, height, width)) * STD + MEAN) * 255
    rows = torch.tensor(targets, dtype=torch.float64).reshape(-1, 6)
    labels = rows[:, 5].long()
    instances = Instances(
        (height, width),
        gt_boxes=Boxes(rows[:, :4].float()),
        gt_classes=torch.zeros(len(rows), dtype=torch.int64),
        gt_person_ids=rows[:, 4].long(),
        gt_identities=torch.where(labels <= NUM_PID, labels - 1, -1),
    )
    return {"image": image.float(), "height": height, "width": width, "instances": instances}


def training_batch() -> list[dict]:
    """The recipe's four training images."""
    return [model_input(i, 256, 256, targets) for i, targets in enumerate(TARGETS)]


def inference_batch() -> list[dict]:
    """The recipe's test image."""
    return [model_input(7, 300, 420, TARGETS[0])]
