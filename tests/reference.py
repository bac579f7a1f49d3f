"""Tensors of the authors' model, by their names, with weights made from the names.

Shapes are those of the authors' ConvNeXt-Tiny checkpoints; values, images and targets follow the
recipe under which the golden numbers of ``tests/modeling/test_golden.py`` were made.
"""

import math

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from tests.llnl_shapes import llnl_shapes

NUM_PID, OIM_QUEUE, MOMENTUM_QUEUE = 50, 5000, 64


def reference_shapes(memory: str = "oim", **architecture) -> dict[str, tuple[int, ...]]:
    """
    Names and shapes of a ConvNeXt-Tiny checkpoint of the authors'.

    Args:
        memory: "oim" or "cq", which has a teacher.
        architecture: of :func:`~tests.llnl_shapes.llnl_shapes`.
    """
    moco = memory == "cq"
    queue = MOMENTUM_QUEUE if moco else OIM_QUEUE
    sizes = {"identities": NUM_PID, "queue": queue, **architecture}
    return llnl_shapes("convnext_tiny", memory=memory, moco=moco, **sizes)


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
