"""Noise with people in it: what is measured on where no data are needed."""

import torch
from detectron2.structures import Boxes, Instances


def synthetic_images(images: int, height: int, width: int) -> list[dict]:
    """As many inputs for detection, uint8 (3, height, width)."""
    generator = torch.Generator().manual_seed(0)
    size = (images, 3, height, width)
    noise = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
    return [{"image": image} for image in noise]


def make_batch(images: int, side: int, boxes: int, identities: int) -> list[dict]:
    """
    Noise with boxes, as the loader gives training crops; two views of every image.

    Args:
        images: N.
        side: of the square crops, pixels.
        boxes: n.
        identities: rows of the look-up table.
    """
    generator = torch.Generator().manual_seed(0)
    batch = []
    for i in range(images):
        corner = torch.rand(boxes, 2, generator=generator) * side * 0.6
        extent = (0.1 + 0.25 * torch.rand(boxes, 2, generator=generator)) * side
        people = torch.arange(boxes) + i // 2 * boxes
        instances = Instances(
            (side, side),
            gt_boxes=Boxes(torch.cat([corner, corner + extent], dim=1)),
            gt_classes=torch.zeros(boxes, dtype=torch.int64),
            gt_person_ids=people,
            gt_identities=people % identities if identities > 0 else people * 0 - 1,
        )
        image = torch.randint(0, 256, (3, side, side), generator=generator, dtype=torch.uint8)
        batch.append({"image": image, "height": side, "width": side, "instances": instances})
    return batch
