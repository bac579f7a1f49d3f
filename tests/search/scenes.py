"""Synthetic scenes: "people" are coloured rectangles, and a model that finds exactly those."""

import cv2
import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from spnet_d2.data.transforms import WindowResize
from spnet_d2.search import PersonSearchPredictor

# BGR.
RED, GREEN, BLUE, YELLOW = (20, 20, 220), (30, 200, 30), (220, 40, 20), (20, 210, 220)


def draw_scene(people: dict, size=(120, 160)) -> np.ndarray:
    """People are ``{colour: (x, y, w, h)}``."""
    image = np.full((*size, 3), 128, np.uint8)
    for color, (x, y, w, h) in people.items():
        image[y : y + h, x : x + w] = color
    return image


class RectangleFinder(nn.Module):
    """
    Stands in for SPNet: same input and output; embeds a box by its mean colour, and with ``scenes``
    the image by that of its people.
    """

    def __init__(self, scenes: bool = False):
        super().__init__()
        self.scenes = scenes
        self.weight = nn.Parameter(torch.eye(3))

    def forward(self, batched_inputs):
        assert not self.training and not torch.is_grad_enabled()
        return [self._one(x) for x in batched_inputs]

    def _one(self, x):
        image = x["image"].float()
        colorful = ((image.amax(0) - image.amin(0)) > 60).numpy().astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(colorful)
        boxes = torch.tensor([[a, b, a + w, b + h] for a, b, w, h, _ in stats[1:].tolist()])
        boxes = boxes.reshape(-1, 4).float()
        height, width = image.shape[1:]
        scale = torch.tensor([x["width"] / width, x["height"] / height]).repeat(2)
        result = {
            "instances": Instances(
                (x["height"], x["width"]),
                pred_boxes=Boxes(boxes * scale),
                # The leftmost is the surest.
                scores=0.95 - 0.3 * boxes[:, 0] / width,
                pred_classes=torch.zeros(len(boxes), dtype=torch.int64),
                reid_embeddings=self._embed(image, boxes),
            )
        }
        if self.scenes:
            people = image[:, torch.from_numpy(colorful).bool()]
            result["scene_embedding"] = (people - 128).sum(1)
        if "instances" in x:
            gt = x["instances"].gt_boxes.tensor
            result["gt_embeddings"] = {"reid": self._embed(image, gt), "loc": gt}
        return result

    def _embed(self, image, boxes):
        rows = [
            image[:, round(b) : round(d), round(a) : round(c)].mean((1, 2)) - 128
            for a, b, c, d in boxes.tolist()
        ]
        return torch.stack(rows) @ self.weight if rows else torch.zeros(0, 3)


def make_predictor(scenes: bool = False, **kwargs) -> PersonSearchPredictor:
    return PersonSearchPredictor(
        model=RectangleFinder(scenes), augmentation=WindowResize(240, 400), **kwargs
    )


def write_video(path, images, fps=10.0) -> str:
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, images[0].shape[1::-1]
    )
    assert writer.isOpened()
    for image in images:
        writer.write(image)
    writer.release()
    return str(path)
