"""Label Studio's JSON export: rectangles in percent of the image. https://labelstud.io/guide/task_format

One task is an image, with one annotation for each annotator; a region is one or more results of
the same ``id``: the rectangle, and what was said of it (choices, text, number), which can name a
person.
"""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

from spnet_d2.data.formats.convert.coco import load, only_file
from spnet_d2.data.formats.convert.image_files import ImageFiles
from spnet_d2.data.formats.convert.source import (
    Source,
    SourceBox,
    SourceImage,
    bad,
    number,
    rotated_bounds,
)
from spnet_d2.data.image_reader import is_image_name

# A file that was uploaded gets eight characters and a dash before its name.
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")


def read(path: Path, images: Path | None = None, skip_bad: bool = False) -> Source:
    """
    Read one export in the format "JSON" (not JSON-MIN).

    Args:
        path: the file, or a folder with only one ``.json``.
        images: folder with the images; default: the file's folder.
        skip_bad: see :class:`ImageFiles`.

    Raises:
        SourceError: naming the file and the task.
    """
    file = only_file(path, "*.json")
    tasks = load(file)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise bad(file, "expected a list of tasks, as Label Studio exports as JSON")
    files = ImageFiles(images or file.parent, skip_bad)
    source = Source(files.root, [], {})
    for task in tasks:
        where = f"{file}: task {task.get('id')!r}"
        results = _results(task, source, where)
        opened = files.open(_names(task, where), where)
        if opened is None:
            source.dropped["in an image left out"] += len(results)
            continue
        boxes = _boxes(results, opened[1:], source, where)
        source.images.append(SourceImage(*opened, boxes=boxes))
    source.notes += [
        f"{count} images {reason}, left out" for reason, count in files.skipped.items()
    ]
    return source


def _names(task: dict, where: str) -> tuple[str, ...]:
    """What the image of a task may be called below the image folder."""
    data = task.get("data")
    if not isinstance(data, dict):
        raise bad(where, 'lacks "data"; export as JSON, not as JSON-MIN')
    links = [value for value in data.values() if isinstance(value, str)]
    links = [link for link in links if is_image_name(_path_of(link))]
    if not links:
        raise bad(where, f'"data" names no image: {json.dumps(data)[:200]}')
    parts = _path_of(links[0]).strip("/").split("/")
    # Whatever of the path lies below the image folder.
    names = ["/".join(parts[start:]) for start in range(len(parts))]
    if _UPLOADED.match(parts[-1]):
        names.append(_UPLOADED.sub("", parts[-1]))
    return tuple(names)


def _path_of(link: str) -> str:
    """The path in a link: of a web address, an upload, a bucket, or local storage (``?d=``)."""
    parsed = urlparse(link)
    local = parse_qs(parsed.query).get("d")
    return unquote(local[0] if local else parsed.path)


def _results(task: dict, source: Source, where: str) -> list[dict]:
    """The results of the one annotation that counts: marked as ground truth, else the first."""
    annotations = task.get("annotations", task.get("completions", []))
    if not isinstance(annotations, list) or not all(isinstance(a, dict) for a in annotations):
        raise bad(where, '"annotations" must be a list of objects')
    done = [a for a in annotations if not (a.get("was_cancelled") or a.get("skipped"))]
    done.sort(key=lambda a: not (a.get("ground_truth") or a.get("honeypot")))
    for other in done[1:]:
        source.dropped["by a further annotator"] += len(other.get("result") or [])
    results = done[0].get("result") or [] if done else []
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise bad(where, '"result" must be a list of objects')
    return results


def _boxes(
    results: list[dict], size: tuple[int, int], source: Source, where: str
) -> list[SourceBox]:
    regions = defaultdict(list)
    for result in results:
        # A choice for the whole image has an id of its own, but no rectangle.
        regions[str(result.get("id"))].append(result)
    boxes = []
    for region in regions.values():
        shapes = [r for r in region if r.get("type") in ("rectanglelabels", "rectangle")]
        if shapes:
            boxes.append(_box(shapes[0], region, size, source, where))
        else:
            kind = str(region[0].get("type"))
            if kind not in ("choices", "textarea", "number", "rating", "taxonomy"):
                source.dropped[f"{kind}, no rectangle"] += 1
    return boxes


def _box(
    shape: dict, region: list[dict], size: tuple[int, int], source: Source, where: str
) -> SourceBox:
    value = shape.get("value")
    if not isinstance(value, dict):
        raise bad(where, f"region {shape.get('id')!r} lacks a value")
    if shape.get("image_rotation"):
        raise bad(
            where,
            f"region {shape.get('id')!r} was drawn in an image turned by "
            f"{shape['image_rotation']} degrees; turn the image file and label it again",
        )
    original = shape.get("original_width"), shape.get("original_height")
    if None not in original and original != size:
        raise bad(
            where,
            f"was labelled at {original[0]}x{original[1]} pixels, but the image has "
            f"{size[0]}x{size[1]} (upright)",
        )
    percent = [number(value.get(key), key, where) for key in ("x", "y", "width", "height")]
    x, y, w, h = (part / 100 * size[index % 2] for index, part in enumerate(percent))
    bbox = (x, y, w, h)
    if turn := number(value.get("rotation") or 0, "rotation", where):
        # About its corner.
        bbox = rotated_bounds(bbox, turn, (x, y))
        note = "rotated rectangles became the upright boxes around them"
        if note not in source.notes:
            source.notes.append(note)
    label = _label(region)
    source.classes[label] = label
    return SourceBox(bbox, label, attributes=_attributes(region))


def _label(region: list[dict]) -> str:
    """The class of a region; rectangles without one belong to one class without a name."""
    for result in region:
        for kind in ("rectanglelabels", "labels"):
            names = (result.get("value") or {}).get(kind)
            if names:
                return str(names[0])
    return "(no label)"


def _attributes(region: list[dict]) -> dict[str, str]:
    """What was said of a region, by the name of the control."""
    said: dict[str, Any] = {}
    for result in region:
        value = result.get("value") or {}
        for kind in ("choices", "text", "number", "rating"):
            if kind in value:
                said[str(result.get("from_name"))] = value[kind]
    return {
        name: str(value[0] if isinstance(value, list) and value else value or "").strip()
        for name, value in said.items()
    }
