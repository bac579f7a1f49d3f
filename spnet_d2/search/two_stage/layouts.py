"""What detectors put out, to boxes of people.

Every decoder takes the outputs of one image and gives ``boxes`` (N, 4) xyxy in pixels of the
network's input and ``scores`` (N,) of the class "person", before any threshold and NMS.

``C`` classes, ``A`` cells or anchors.
"""

from collections.abc import Callable, Sequence

import numpy as np

from .settings import LAYOUTS, DetectorSettings, ModelFileError

Outputs = Sequence[np.ndarray]
Decoded = tuple[np.ndarray, np.ndarray]


def grid(size: tuple[int, int], strides: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """
    Cells of all levels in YOLOX's order: finest level first, rows from the top.

    Returns:
        (A, 2) x and y of each cell, in cells, and (A,) its stride.
    """
    cells, steps = [], []
    for stride in strides:
        rows, columns = size[0] // stride, size[1] // stride
        y, x = np.mgrid[:rows, :columns]
        cells.append(np.stack([x.ravel(), y.ravel()], axis=1))
        steps.append(np.full(rows * columns, stride))
    return np.concatenate(cells), np.concatenate(steps)


def yolox(outputs: Outputs, settings: DetectorSettings) -> Decoded:
    """
    YOLOX without its decoding: (1, A, 5 + C) of dx, dy, log width, log height, objectness, classes.

    The centre is ``(cell + dxy) * stride``, the size ``exp(log size) * stride``.
    """
    rows = _rows(outputs, 2, settings)
    cells, strides = grid(settings.size, settings.strides)
    if len(cells) != len(rows):
        raise _wrong(settings, f"{len(cells)} rows for strides {list(settings.strides)}", rows)
    centres = (rows[:, :2] + cells) * strides[:, None]
    # Untrained cells may say anything; a box of no finite size is dropped later.
    with np.errstate(over="ignore"):
        sizes = np.exp(rows[:, 2:4]) * strides[:, None]
    return _from_centres(centres, sizes), rows[:, 4] * _class(rows, 5, settings)


def yolov5(outputs: Outputs, settings: DetectorSettings) -> Decoded:
    """YOLOv5's, v7's and decoded YOLOX's (1, A, 5 + C): centre, size, objectness, classes."""
    rows = _rows(outputs, 2, settings)
    return _from_centres(rows[:, :2], rows[:, 2:4]), rows[:, 4] * _class(rows, 5, settings)


def yolov8(outputs: Outputs, settings: DetectorSettings) -> Decoded:
    """YOLOv8's and v11's (1, 4 + C, A): centre, size, classes."""
    rows = _rows(outputs, 2, settings).T
    return _from_centres(rows[:, :2], rows[:, 2:4]), _class(rows, 4, settings)


def ssd(outputs: Outputs, settings: DetectorSettings) -> Decoded:
    """
    OpenVINO's detection output (1, 1, N, 7): image, class, score, x1, y1, x2, y2 as fractions.

    The list ends where the image is -1.
    """
    rows = _rows(outputs, 2, settings)
    if rows.shape[1] != 7:
        raise _wrong(settings, "rows of 7 numbers", rows)
    ends = np.flatnonzero(rows[:, 0] < 0)
    rows = rows[: ends[0]] if len(ends) else rows
    rows = rows[rows[:, 1] == settings.person]
    height, width = settings.size
    return rows[:, 3:7] * np.array([width, height, width, height]), rows[:, 2]


def boxes_labels_scores(outputs: Outputs, settings: DetectorSettings) -> Decoded:
    """Three outputs: boxes (N, 4) xyxy in pixels, classes (N,), scores (N,), as torchvision's."""
    if len(outputs) != 3:
        raise _wrong(settings, "three outputs", *outputs)
    boxes, labels, scores = (np.asarray(output) for output in outputs)
    boxes, labels, scores = boxes.reshape(-1, 4), labels.ravel(), scores.ravel()
    if not len(boxes) == len(labels) == len(scores):
        raise _wrong(settings, "boxes, classes and scores of one number", *outputs)
    people = labels == settings.person
    return boxes[people].astype(np.float64), scores[people].astype(np.float64)


# By name of the layout.
DECODERS: dict[str, Callable[[Outputs, DetectorSettings], Decoded]] = dict(
    zip(LAYOUTS, (yolox, yolov5, yolov8, ssd, boxes_labels_scores), strict=True)
)


def _rows(outputs: Outputs, ndim: int, settings: DetectorSettings) -> np.ndarray:
    """The one output without its leading ones, (rows, columns) float64."""
    if len(outputs) != 1:
        raise _wrong(settings, "one output (choose it with the key outputs)", *outputs)
    array = np.asarray(outputs[0], np.float64)
    while array.ndim > ndim and len(array) == 1:
        array = array[0]
    if array.ndim != ndim:
        raise _wrong(settings, "one table", array)
    return array


def _class(rows: np.ndarray, first: int, settings: DetectorSettings) -> np.ndarray:
    if first + settings.person >= rows.shape[1]:
        raise _wrong(settings, f"more than {settings.person} classes", rows)
    return rows[:, first + settings.person]


def _from_centres(centres: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)


def _wrong(settings: DetectorSettings, expected: str, *found: np.ndarray) -> ModelFileError:
    shapes = ", ".join(str(np.shape(array)) for array in found)
    return ModelFileError(
        f"{settings.network}: layout {settings.layout} expects {expected}, found {shapes}; choose "
        "another layout."
    )
