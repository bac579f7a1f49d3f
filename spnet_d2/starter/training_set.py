"""A training set of strangers, for distillation: any boxes, another model's embeddings of them.

Where nobody is labelled, every box is an identity of its own, and a re-id model trained on many
people gives its target embedding (``MODEL.SPNET.REID.LOSS distillation``). Two things stretch
little footage:

* **Recoloured copies.** Another hue and brightness make other clothes, and the re-id model says
  what they look like now.
* **Sheets.** Twenty-four people on one image, each cut out with what is around: a training image
  that costs as much as any other teaches embeddings of ten times as many people. Most wear other
  colours, some with other ones above the waist than below, or have another person's legs: the re-id
  model embeds the result, so that no two cells are the same person (a "patient" teacher sees what
  the model sees: Beyer et al., CVPR 2022).

Written: ``images/``, ``train.json`` (person-search JSON), ``targets.npz`` (embeddings in the order
of identities), ``datasets.yaml`` (for ``DATASETS.FILES``).
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from spnet_d2.search.frames import read_image_bgr
from spnet_d2.utils.atomic_io import atomic_path, write_image, write_json, write_text

logger = logging.getLogger(__name__)

NAME = "starter_train"
# Sheets: people per row and column, pixels of a side, heights of people.
_COLUMNS, _ROWS, _SIDE = 8, 3, 448
_CELL = (_SIDE // _COLUMNS, _SIDE // _ROWS)
_HEIGHTS = (75, 138)
_LEAST_HEIGHT = 40
Embed = Callable[[np.ndarray, np.ndarray], np.ndarray]
# An image of one person, and where they are on it (xywh).
Cell = tuple[np.ndarray, list[float]]


@dataclass(frozen=True, eq=False)
class Scene:
    """
    Footage with boxes.

    Attributes:
        name: of the image file to be written, without suffix.
        image: (H, W, 3) uint8 BGR.
        boxes: (N, 4) xywh.
        ignore: (M, 4) xywh, regions whose people are not annotated.
    """

    name: str
    image: np.ndarray
    boxes: np.ndarray
    ignore: np.ndarray


def annotated_scenes(
    annotations: Path, images: Path, every: int = 1, longest: int = 1000
) -> Iterator[Scene]:
    """
    The images of a person-search JSON.

    Args:
        annotations: the file.
        images: its folder of images.
        every: take each N-th.
        longest: larger images are made so small, pixels of the longer side.
    """
    content = json.loads(annotations.read_text())
    boxes: dict[int, list] = {}
    for a in content["annotations"]:
        boxes.setdefault(a["image_id"], []).append(a["bbox"])
    for entry in content["images"][::every]:
        image: np.ndarray = read_image_bgr(images / entry["file_name"])
        scale = min(1.0, longest / max(image.shape[:2]))
        yield Scene(
            f"{annotations.parent.name}_{entry['id']:06d}",
            image if scale == 1 else _resized(image, scale),
            scale * _rows(boxes.get(entry["id"], [])),
            scale * _rows(entry.get("ignore_regions", [])),
        )


def _resized(image: np.ndarray, scale: float) -> np.ndarray:
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=how)


def _rows(boxes) -> np.ndarray:
    return np.array(boxes, np.float64).reshape(-1, 4)


def recoloured(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The image in other colours and light; people in it wear other clothes."""
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + random.uniform(0, 180)) % 180
    hsv[..., 1] = (hsv[..., 1] * random.uniform(0.5, 1.4)).clip(0, 255)
    bgr = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2BGR)
    shifted: np.ndarray = (bgr / 255) ** random.uniform(0.7, 1.5) * random.uniform(0.75, 1.15)
    if random.random() < 0.5:
        shifted = shifted * random.uniform(0.85, 1.15, 3)
    result = (shifted * 255).clip(0, 255).astype(np.uint8)
    if random.random() < 0.3:
        return cv2.GaussianBlur(result, (0, 0), random.uniform(0.6, 1.5))
    return result


@dataclass
class DistillationSet:
    """
    The set while it is made.

    Args:
        folder: where it is written.
        embed: another model's embeddings of boxes: image (H, W, 3) BGR, (N, 4) xyxy -> (N, D).
        seed: for colours and sheets.
    """

    folder: Path
    embed: Embed
    seed: int = 0
    images: list[dict] = field(default_factory=list)
    annotations: list[dict] = field(default_factory=list)
    targets: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self):
        self._random = np.random.default_rng(self.seed)
        # Annotations of people in their own colours.
        self._originals: list[int] = []
        (self.folder / "images").mkdir(parents=True, exist_ok=True)

    def add(self, scenes: Iterable[Scene], copies: int = 0) -> None:
        """Scenes, each with a number of recoloured copies."""
        for scene in scenes:
            first = len(self.annotations)
            self._add(scene, scene.image, "")
            self._originals += range(first, len(self.annotations))
            for number in range(copies):
                self._add(scene, recoloured(scene.image, self._random), f"_{number + 1}")

    def _add(self, scene: Scene, image: np.ndarray, suffix: str) -> None:
        height, width = image.shape[:2]
        size = np.array([width, height], np.float64)
        low = scene.boxes[:, :2].clip(0, size)
        high = (scene.boxes[:, :2] + scene.boxes[:, 2:]).clip(0, size)
        large = ((high - low) > (3, 8)).all(axis=1)
        boxes = np.concatenate([low, high - low], axis=1)[large]
        self._note_image(f"{scene.name}{suffix}.jpg", image, scene.ignore)
        self._note_people(image, boxes)

    def _note_image(self, name: str, image: np.ndarray, ignore: np.ndarray) -> None:
        write_image(self.folder / "images" / name, image, [cv2.IMWRITE_JPEG_QUALITY, 93])
        height, width = image.shape[:2]
        self.images.append(
            {
                "id": len(self.images),
                "file_name": name,
                "width": width,
                "height": height,
                "cam_id": -1,
                "ignore_regions": ignore.tolist(),
            }
        )

    def _note_boxes(self, boxes: np.ndarray, people: Iterable[int]) -> None:
        for (x, y, w, h), person in zip(boxes.tolist(), people):
            self.annotations.append(
                {
                    "id": len(self.annotations),
                    "image_id": len(self.images) - 1,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "person_id": int(person),
                    "is_known": True,
                    "iou_thresh": min(0.5, w * h / ((w + 10) * (h + 10))),
                    "category_id": 1,
                    "iscrowd": 0,
                }
            )

    def add_sheets(self, count: int) -> None:
        """Sheets of people from all scenes so far, everybody about as often."""
        files = [entry["file_name"] for entry in self.images]
        usable = [self.annotations[i] for i in self._originals]
        usable = [a for a in usable if a["bbox"][3] >= _LEAST_HEIGHT]
        usable = [a for a in usable if 0.15 < a["bbox"][2] / a["bbox"][3] < 1.2]
        if not usable:
            return
        per_sheet = _COLUMNS * _ROWS
        rounds = -(-count * per_sheet // len(usable))
        order = np.concatenate([self._random.permutation(len(usable)) for _ in range(rounds)])
        for number in range(count):
            chosen = [usable[i] for i in order[number * per_sheet : (number + 1) * per_sheet]]
            cells = [self._cell(files[a["image_id"]], a["bbox"]) for a in chosen]
            cells = [self._dressed(cell, others) for cell, others in zip(cells, cells[1:] + cells)]
            sheet = _sheet([cell for cell, _ in cells])
            corners = [
                (i % _COLUMNS * _CELL[0], i // _COLUMNS * _CELL[1]) for i in range(len(cells))
            ]
            boxes = _rows([[x + b[0], y + b[1], *b[2:]] for (x, y), (_, b) in zip(corners, cells)])
            self._note_image(f"sheet_{number:05d}.jpg", sheet, np.zeros((0, 4)))
            self._note_people(sheet, boxes)

    def _note_people(self, image: np.ndarray, boxes: np.ndarray) -> None:
        """Boxes (N, 4) xywh of the image noted last, each a person of its own."""
        first = sum(map(len, self.targets))
        self._note_boxes(boxes, range(first, first + len(boxes)))
        if len(boxes):
            corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
            self.targets.append(self.embed(image, corners))

    def _dressed(self, cell: Cell, other: Cell) -> Cell:
        """The person of a cell in other clothes, now and then with the other's legs."""
        image, place = cell[0].copy(), cell[1]
        x, y, w, h = (round(v) for v in place)
        waist = y + round(h * self._random.uniform(0.45, 0.6))
        if self._random.random() < 0.2:
            x2, y2, w2, h2 = (round(v) for v in other[1])
            legs = other[0][y2 + round((waist - y) / h * h2) : y2 + h2, x2 : x2 + w2]
            image[waist : y + h, x : x + w] = cv2.resize(legs, (w, y + h - waist))
        how = self._random.random()
        if how < 0.3:
            return recoloured(image, self._random), place
        if how < 0.6:
            for rows in (slice(0, waist), slice(waist, None)):
                image[rows] = recoloured(image[rows], self._random)
        return image, place

    def _cell(self, file: str, box: list[float]) -> Cell:
        """A person with what is around, and where they are in the cell (xywh)."""
        image = read_image_bgr(self.folder / "images" / file)
        x, y, w, h = box
        width, height = _CELL
        scale = min(self._random.uniform(*_HEIGHTS) / h, (width - 4) / w)
        left = self._random.uniform(2, max(2.1, width - 2 - w * scale))
        top = self._random.uniform(2, max(2.1, height - 2 - h * scale))
        # Only what the cell shows is made smaller.
        x0, y0 = max(0, int(x - left / scale)), max(0, int(y - top / scale))
        x1, y1 = int(x0 + width / scale) + 2, int(y0 + height / scale) + 2
        part = _resized(image[y0:y1, x0:x1], scale)
        shift = [left - (x - x0) * scale, top - (y - y0) * scale]
        moved = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
        cell = cv2.warpAffine(part, moved, _CELL, borderMode=cv2.BORDER_REFLECT_101)
        place = [left, top, w * scale, h * scale]
        if self._random.random() < 0.5:
            cell, place[0] = cell[:, ::-1], width - left - w * scale
        light = cell * self._random.uniform(0.75, 1.3) + self._random.uniform(-12, 12)
        return light.clip(0, 255).astype(np.uint8), place

    def save(self) -> None:
        """Write annotations, targets and the file for ``DATASETS.FILES``."""
        content = {
            "images": self.images,
            "annotations": self.annotations,
            "categories": [{"id": 1, "name": "person", "supercategory": "person"}],
        }
        write_json(self.folder / "train.json", content)
        targets = np.concatenate(self.targets)
        targets = targets / np.linalg.norm(targets, axis=1, keepdims=True)
        with atomic_path(self.folder / "targets.npz") as part, open(part, "wb") as file:
            np.savez(file, embeddings=targets.astype(np.float16))
        files = f"{NAME}:\n  json: train.json\n  images: images\n"
        write_text(self.folder / "datasets.yaml", files)


def _sheet(cells: list[np.ndarray]) -> np.ndarray:
    sheet = np.zeros((_SIDE, _SIDE, 3), np.uint8)
    for i, cell in enumerate(cells):
        x, y = i % _COLUMNS * _CELL[0], i // _COLUMNS * _CELL[1]
        sheet[y : y + _CELL[1], x : x + _CELL[0]] = cell
    return sheet
