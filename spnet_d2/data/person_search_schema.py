"""The generic person-search JSON: its fields, and the checks a reader and a writer share.

A partition is one JSON object, a superset of COCO instances::

    images[]:      id, file_name, width, height, cam_id (-1 if none), ignore_regions [[x, y, w, h]]
    annotations[]: id, image_id, bbox [x, y, w, h], area, person_id, is_known, iou_thresh,
                   category_id 1, iscrowd 0

A retrieval protocol is a second object ``{"images": [image ids], "queries": ...}``, see
:class:`spnet_d2.data.person_search_json.Protocol`. Pixels are counted from 0 at the top left.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

CATEGORIES = [{"supercategory": "person", "id": 1, "name": "person"}]
HELP = "datasets/README.md describes the person-search JSON."

_IMAGE_KEYS = ("id", "file_name", "width", "height")
_ANNOTATION_KEYS = ("id", "image_id", "bbox", "person_id", "is_known", "iou_thresh")


class PersonSearchFormatError(ValueError):
    """A file is there but does not hold what the person-search format asks for."""


def variable_iou_thresh(width: float, height: float) -> float:
    """Overlap that a detection needs to count as a hit on a ``width`` x ``height`` pixel box.

    ``min(0.5, w h / ((w + 10) (h + 10)))``: lenient to small boxes. The CUHK-SYSU and PRW scorers
    use it, on the box as annotated, before any clipping to the image.
    """
    return min(0.5, (width * height) / ((width + 10.0) * (height + 10.0)))


def make_annotation(
    annotation_id: int,
    image_id: int,
    bbox: Sequence[float],
    person_id: int,
    is_known: bool,
) -> dict[str, Any]:
    """One entry of ``annotations`` with every derived field filled in; ``bbox`` is x, y, w, h."""
    x, y, width, height = (float(value) for value in bbox)
    return {
        "id": int(annotation_id),
        "image_id": int(image_id),
        "bbox": [x, y, width, height],
        "area": width * height,
        "person_id": int(person_id),
        "is_known": bool(is_known),
        "iou_thresh": variable_iou_thresh(width, height),
        "category_id": 1,
        "iscrowd": 0,
    }


def check_person_search(images: Any, annotations: Any, where: str) -> np.ndarray:
    """Check the entries of a partition.

    Args:
        images, annotations: the two lists as in the JSON.
        where: the file, named in errors.

    Returns:
        float64 array (number of annotations, 4): all boxes, x, y, w, h.

    Raises:
        PersonSearchFormatError: naming the file, the first bad entry and what was expected.
    """
    _check_entries(images, _IMAGE_KEYS, "images", where)
    _check_entries(annotations, _ANNOTATION_KEYS, "annotations", where)
    _check_integers(images, ("id", "width", "height"), "images", where)
    _check_integers(annotations, ("id", "image_id", "person_id"), "annotations", where)
    with_camera = [entry for entry in images if "cam_id" in entry]
    _check_integers(with_camera, ("cam_id",), "images", where)
    image_ids = _check_unique(images, "images", where)
    _check_unique(annotations, "annotations", where)
    for entry in images:
        if entry["width"] < 1 or entry["height"] < 1:
            raise _error(where, "images", entry, "width and height must be at least 1 pixel")
        if not isinstance(entry["file_name"], str) or not entry["file_name"]:
            raise _error(where, "images", entry, "file_name must be a non-empty string")
        regions = entry.get("ignore_regions", [])
        if not isinstance(regions, list | tuple) or not all(map(_is_box, regions)):
            message = f"ignore_regions must be a list of [x, y, w, h], found {regions!r}"
            raise _error(where, "images", entry, message)
    known, unknown = set(), set()
    for entry in annotations:
        if entry["image_id"] not in image_ids:
            message = f"image_id {entry['image_id']} is not the id of any image in the file"
            raise _error(where, "annotations", entry, message)
        if not isinstance(entry["is_known"], bool):
            message = f"is_known must be true or false, found {entry['is_known']!r}"
            raise _error(where, "annotations", entry, message)
        if not _is_number(entry["iou_thresh"]) or not 0 <= entry["iou_thresh"] <= 1:
            message = f"iou_thresh must be a number in [0, 1], found {entry['iou_thresh']!r}"
            raise _error(where, "annotations", entry, message)
        if entry.get("category_id", 1) != 1 or entry.get("iscrowd", 0) != 0:
            message = (
                "only single persons are allowed (category_id 1, iscrowd 0); "
                "regions to leave out belong in ignore_regions of the image"
            )
            raise _error(where, "annotations", entry, message)
        (known if entry["is_known"] else unknown).add(entry["person_id"])
    if both := known & unknown:
        raise PersonSearchFormatError(
            f"{where}: person_id {min(both)} is known in one annotation and unknown in another; "
            f"give every unknown person an id of its own. {HELP}"
        )
    return _boxes(annotations, where)


def _boxes(annotations: list[dict], where: str) -> np.ndarray:
    for entry in annotations:
        if not _is_box(entry["bbox"]):
            message = f"bbox must be four finite numbers [x, y, w, h], found {entry['bbox']!r}"
            raise _error(where, "annotations", entry, message)
    boxes = np.array([entry["bbox"] for entry in annotations], dtype=np.float64)
    return boxes.reshape(-1, 4)


def _check_entries(entries: Any, keys: tuple[str, ...], kind: str, where: str) -> None:
    if not isinstance(entries, list):
        raise PersonSearchFormatError(
            f'{where}: "{kind}" must be a list, found {type(entries).__name__}. {HELP}'
        )
    required = set(keys)
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise PersonSearchFormatError(
                f"{where}: {kind}[{index}] must be an object, found {entry!r}. {HELP}"
            )
        if not required <= entry.keys():
            missing = ", ".join(key for key in keys if key not in entry)
            raise PersonSearchFormatError(
                f"{where}: {kind}[{index}] lacks {missing}; it has {', '.join(entry)}. {HELP}"
            )


def _check_integers(entries: list[dict], keys: tuple[str, ...], kind: str, where: str) -> None:
    for key in keys:
        # `type(...) is int`, for isinstance also takes true and false.
        for entry in entries:
            if type(entry[key]) is not int:
                raise _error(where, kind, entry, f"{key} must be an integer, found {entry[key]!r}")
        if not fit_64_bits([entry[key] for entry in entries]):
            entry = next(entry for entry in entries if not fit_64_bits([entry[key]]))
            message = f"{key} must fit 64 bits with sign, found {entry[key]}"
            raise _error(where, kind, entry, message)


def fit_64_bits(integers: Sequence[int]) -> bool:
    """Whether an array of numpy's int64 can hold all of them."""
    return not integers or (-(2**63) <= min(integers) and max(integers) < 2**63)


def _check_unique(entries: list[dict], kind: str, where: str) -> set[int]:
    ids = {entry["id"] for entry in entries}
    if len(ids) != len(entries):
        value, count = Counter(entry["id"] for entry in entries).most_common(1)[0]
        raise PersonSearchFormatError(
            f"{where}: id {value} occurs {count} times in {kind}; ids must be unique. {HELP}"
        )
    return ids


def _is_number(value: Any) -> bool:
    # The difference is 0 for every finite number, NaN for NaN and the infinities.
    return type(value) in (int, float) and value - value == 0


def _is_box(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 4 and all(map(_is_number, value))


def _error(where: str, kind: str, entry: dict, message: str) -> PersonSearchFormatError:
    return PersonSearchFormatError(f"{where}: {kind} id {entry['id']!r}: {message}. {HELP}")
