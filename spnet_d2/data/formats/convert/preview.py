"""A contact sheet of converted images, to see at a glance whether boxes and people are right."""

import colorsys
from pathlib import Path

import cv2
import numpy as np

from spnet_d2.data.formats.splits import Partition
from spnet_d2.data.image_reader import read_image_bgr

HEIGHT = 300
COLUMNS = 3
_GREY = (150, 150, 150)
_WHITE = (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_preview(partition: Partition, root: Path, count: int = 12) -> np.ndarray:
    """
    Draw some images with people in them, evenly spread, each with the boxes and numbers it got.

    Known people have a colour and their ``person_id``, unknown ones are grey with "?", ignore
    regions are crossed out.

    Args:
        partition: with images to show.
        root: folder that ``file_name`` counts from.
        count: images at most.

    Returns:
        (H, W, 3) uint8 BGR.
    """
    boxes: dict[int, list] = {}
    for entry in partition["annotations"]:
        boxes.setdefault(entry["image_id"], []).append(entry)
    images = [image for image in partition["images"] if image["id"] in boxes]
    chosen = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)
    tiles = [_tile(images[i], boxes[images[i]["id"]], root) for i in chosen.tolist()]
    rows = [_row(tiles[start : start + COLUMNS]) for start in range(0, len(tiles), COLUMNS)]
    width = max(row.shape[1] for row in rows)
    return np.concatenate(
        [
            cv2.copyMakeBorder(
                row, 0, 0, 0, width - row.shape[1], cv2.BORDER_CONSTANT, value=_WHITE
            )
            for row in rows
        ]
    )


def _row(tiles: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(tiles, axis=1)


def _tile(image: dict, boxes: list[dict], root: Path) -> np.ndarray:
    canvas = read_image_bgr(root / image["file_name"])
    scale = HEIGHT / image["height"]
    size = (max(1, round(image["width"] * scale)), HEIGHT)
    canvas = cv2.resize(canvas, size, interpolation=cv2.INTER_AREA)
    for x, y, width, height in image.get("ignore_regions", []):
        start, end = _corners((x, y, width, height), scale)
        cv2.rectangle(canvas, start, end, _GREY, 1)
        cv2.line(canvas, start, end, _GREY, 1)
        cv2.line(canvas, (start[0], end[1]), (end[0], start[1]), _GREY, 1)
    for entry in boxes:
        start, end = _corners(entry["bbox"], scale)
        colour = _colour(entry["person_id"]) if entry["is_known"] else _GREY
        cv2.rectangle(canvas, start, end, colour, 2)
        _label(canvas, str(entry["person_id"]) if entry["is_known"] else "?", start, colour)
    _label(canvas, image["file_name"][-44:], (0, HEIGHT), _WHITE)
    return cv2.copyMakeBorder(canvas, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=_WHITE)


def _corners(bbox, scale: float) -> tuple[tuple[int, int], tuple[int, int]]:
    x, y, width, height = (value * scale for value in bbox)
    return (round(x), round(y)), (round(x + width), round(y + height))


def _colour(person_id: int) -> tuple[int, int, int]:
    # Neighbouring numbers get hues far apart.
    red, green, blue = colorsys.hsv_to_rgb(person_id * 0.618034 % 1, 0.85, 1.0)
    return int(255 * blue), int(255 * green), int(255 * red)


def _label(canvas: np.ndarray, text: str, corner: tuple[int, int], colour) -> None:
    (width, height), _ = cv2.getTextSize(text, _FONT, 0.4, 1)
    x = max(0, min(corner[0], canvas.shape[1] - width - 4))
    y = min(max(height + 4, corner[1]), canvas.shape[0])
    cv2.rectangle(canvas, (x, y - height - 4), (x + width + 4, y), colour, -1)
    cv2.putText(canvas, text, (x + 2, y - 3), _FONT, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
