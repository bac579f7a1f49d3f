"""Synthetic scenes and people, for what is measured or tried where no data are needed.

``N`` images, ``n`` people in an image. Boxes of files are x, y, width, height in pixels.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from spnet_d2.data.geometry import Size
from spnet_d2.data.person_search_json import write_person_search_json
from spnet_d2.data.person_search_schema import make_annotation
from spnet_d2.utils.atomic_io import write_image


@dataclass(frozen=True)
class Scene:
    """An image to write, and the people in it.

    Attributes:
        file_name: relative to the folder of the images; its suffix chooses the format.
        image: (H, W, 3) uint8 BGR.
        boxes: (n, 4) x, y, width, height.
        people: (n,) ids.
        known: (n,) whether the id is one that others can be matched with.
        camera: number of the camera; -1 if there is none.
    """

    file_name: str
    image: np.ndarray
    boxes: Sequence[Sequence[float]]
    people: Sequence[int]
    known: Sequence[bool]
    camera: int = -1


def write_scenes(
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
    scenes: Iterable[Scene],
    options: Sequence[int] = (),
) -> None:
    """Write images, and their people as person-search JSON; ids count from 0.

    Args:
        json_file: the partition.
        image_root: folder of the images.
        scenes: one is in memory at a time.
        options: of the images' format, as ``cv2.imwrite`` takes them.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    for i, scene in enumerate(scenes):
        write_image(Path(image_root, scene.file_name), scene.image, options)
        height, width = scene.image.shape[:2]
        entry = {"id": i, "file_name": scene.file_name, "width": width, "height": height}
        images.append({**entry, "cam_id": scene.camera})
        for box, person, known in zip(scene.boxes, scene.people, scene.known, strict=True):
            annotations.append(make_annotation(len(annotations), i, box, person, known))
    write_person_search_json(json_file, images, annotations)


def draw_people(
    image: np.ndarray, boxes: Sequence[Sequence[float]], people: Sequence[int]
) -> np.ndarray:
    """Fill each box of ``image`` with the colour of its person; the image is changed."""
    for box, person in zip(boxes, people, strict=True):
        x, y, w, h = map(int, box)
        image[y : y + h, x : x + w] = (person * 67 % 256, person * 131 % 256, person * 29 % 256)
    return image


def photograph(rng: np.random.Generator, size: Size) -> np.ndarray:
    """(H, W, 3) uint8 that compresses about as photographs do: smooth colours and some noise."""
    height, width = size
    coarse = rng.uniform(0, 255, (height // 24 + 1, width // 24 + 1, 3)).astype(np.float32)
    image = cv2.resize(coarse, (width, height)) + rng.normal(0, 6, (height, width, 1))
    return image.clip(0, 255).astype(np.uint8)


def noise_images(images: int, height: int, width: int) -> list[dict]:
    """Inputs of a model for detection: uint8 noise (3, height, width)."""
    generator = torch.Generator().manual_seed(0)
    size = (images, 3, height, width)
    noise = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
    return [{"image": image} for image in noise]


def make_batch(images: int, side: int, boxes: int, identities: int) -> list[dict]:
    """Noise with boxes, as the loader gives training crops; two views of every image.

    Args:
        images: N.
        side: of the square crops, pixels.
        boxes: n.
        identities: rows of the look-up table; 0: nobody is known.
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
