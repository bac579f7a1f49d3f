"""The generic person-search JSON: its fields, and the checks a reader and a writer share.

A partition is one JSON object, a superset of COCO instances::

    images[]:      id, file_name, width, height, cam_id (-1 if none), ignore_regions [[x, y, w, h]]
    annotations[]: id, image_id, bbox [x, y, w, h], area, person_id, is_known, iou_thresh,
                   category_id 1, iscrowd 0

A retrieval protocol is a second object ``{"images": [image ids], "queries": ...}``, see
:class:`spnet_d2.data.person_search_json.Protocol`. Pixels are counted from 0 at the top left.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import PureWindowsPath
from typing import Any

import numpy as np

from spnet_d2.errors import UserError

CATEGORIES = [{"supercategory": "person", "id": 1, "name": "person"}]
HELP = "datasets/README.md describes the person-search JSON."
# No pixel is further away, and areas of such boxes are numbers still.
_FARTHEST = 2**31

_IMAGE_KEYS = ("id", "file_name", "width", "height")
_ANNOTATION_KEYS = ("id", "image_id", "bbox", "person_id", "is_known", "iou_thresh")
# What to write where a field is missing.
_MEANING = {
    "person_id": "one integer for each person",
    "is_known": "true where it is known who the person is",
    "iou_thresh": "no annotation needs it, or all",
}


class PersonSearchFormatError(UserError, ValueError):
    """A file is there but is not in the person-search format."""


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
        if problem := _image_problem(entry):
            raise _error(where, "images", images, entry, problem)
    known: set[int] = set()
    unknown: set[int] = set()
    for entry in annotations:
        if problem := _annotation_problem(entry, image_ids):
            raise _error(where, "annotations", annotations, entry, problem)
        (known if entry["is_known"] else unknown).add(entry["person_id"])
    if both := known & unknown:
        raise PersonSearchFormatError(
            f"{where}: person_id {min(both)} is known in one annotation and unknown in another; "
            f"give every unknown person an id of its own. {HELP}"
        )
    return _boxes(annotations, where)


def _image_problem(entry: dict) -> str | None:
    if not (1 <= entry["width"] <= _FARTHEST and 1 <= entry["height"] <= _FARTHEST):
        found = f"{entry['width']} and {entry['height']}"
        return f"width and height must be at least 1 pixel, and at most 2^31, found {found}"
    if problem := _file_name_problem(entry["file_name"]):
        return f"file_name {problem}, found {entry['file_name']!r}"
    regions = entry.get("ignore_regions", [])
    if not isinstance(regions, list | tuple) or not all(map(is_box, regions)):
        return f"ignore_regions must be a list of [x, y, w, h], found {regions!r}"
    return None


def _file_name_problem(name: Any) -> str | None:
    if not isinstance(name, str) or not name:
        return "must be a non-empty string"
    if "\\" in name:
        return "must have / between folders, not \\"
    if PureWindowsPath(name).drive and os.name != "nt":
        return "must not begin with a Windows drive"
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        return "can't be the name of a file"
    return "can't be the name of a file" if b"\0" in encoded else None


def _annotation_problem(entry: dict, image_ids: set[int]) -> str | None:
    if entry["image_id"] not in image_ids:
        return f"image_id {entry['image_id']} is not the id of any image in the file"
    if not isinstance(entry["is_known"], bool):
        return f"is_known must be true or false, found {entry['is_known']!r}"
    if not _is_number(entry["iou_thresh"]) or not 0 <= entry["iou_thresh"] <= 1:
        return f"iou_thresh must be a number in [0, 1], found {entry['iou_thresh']!r}"
    category, crowd = entry.get("category_id", 1), entry.get("iscrowd", 0)
    if category != 1 or crowd != 0:
        return (
            f"only single persons are allowed (category_id 1, iscrowd 0), found category_id "
            f"{category!r} and iscrowd {crowd!r}; regions to leave out belong in ignore_regions of "
            "the image"
        )
    return None


def _boxes(annotations: list[dict], where: str) -> np.ndarray:
    for entry in annotations:
        if not is_box(entry["bbox"]):
            message = (
                "bbox must be four finite numbers [x, y, w, h], at most 2^31, found "
                f"{entry['bbox']!r}"
            )
            raise _error(where, "annotations", annotations, entry, message)
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
            missing = ", ".join(
                f"{key} ({_MEANING[key]})" if key in _MEANING else key
                for key in keys
                if key not in entry
            )
            others = sum(required <= other.keys() for other in entries if isinstance(other, dict))
            raise PersonSearchFormatError(
                f"{where}: {kind}[{index}] lacks {missing}; it has {', '.join(entry)}. "
                f"{others} of {len(entries)} {kind} lack nothing. {HELP}"
            )


def _check_integers(entries: list[dict], keys: tuple[str, ...], kind: str, where: str) -> None:
    for key in keys:
        # `type(...) is int`, for isinstance also takes true and false.
        for entry in entries:
            if type(entry[key]) is not int:
                message = f"{key} must be an integer, found {entry[key]!r}"
                raise _error(where, kind, entries, entry, message)
        if not fit_64_bits([entry[key] for entry in entries]):
            entry = next(entry for entry in entries if not fit_64_bits([entry[key]]))
            message = f"{key} must fit 64 bits with sign, found {entry[key]}"
            raise _error(where, kind, entries, entry, message)


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


def is_box(value: Any) -> bool:
    """Whether it is x, y, w, h: four finite numbers that are no farther than any pixel."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 4
        and all(_is_number(side) and abs(side) <= _FARTHEST for side in value)
    )


def _error(
    where: str, kind: str, entries: list[dict], entry: dict, message: str
) -> PersonSearchFormatError:
    place = next(index for index, other in enumerate(entries) if other is entry)
    message = f"{kind} id {entry['id']!r}: {message} (at {kind}[{place}])"
    return PersonSearchFormatError(f"{where}: {message}. {HELP}")
