"""CrowdHuman: ``.odgt``, one JSON object per line. https://www.crowdhuman.org/download.html

Each person has a full box (``fbox``, also where hidden), a visible box (``vbox``) and a head
(``hbox``). The tag ``mask`` and ``ignore`` 1 mean crowds, reflections, statues.
"""

import json
from pathlib import Path
from typing import Any

from spnet_d2.data.formats.convert.coco import only_file
from spnet_d2.data.formats.convert.image_files import ImageFiles
from spnet_d2.data.formats.convert.source import (
    XYWH,
    Source,
    SourceBox,
    SourceImage,
    bad,
    number,
    read_text,
)

KINDS = {"full": "fbox", "visible": "vbox", "head": "hbox"}


def read(
    path: Path, images: Path | None = None, skip_bad: bool = False, kind: str = "full"
) -> Source:
    """
    Read one file.

    Args:
        path: the ``.odgt``, or a folder with only one.
        images: default: ``Images`` beside it, or its folder.
        skip_bad: see :class:`ImageFiles`.
        kind: which box of a person, "full", "visible" or "head".

    Raises:
        SourceError: naming the file and line.
    """
    file = only_file(path, "*.odgt")
    beside = file.parent / "Images"
    files = ImageFiles(images or (beside if beside.is_dir() else file.parent), skip_bad)
    source = Source(files.root, [], {"person": "person", "mask": "mask"}, ("person",), ("mask",))
    for line, text in enumerate(read_text(file).splitlines(), 1):
        if not text.strip():
            continue
        try:
            entry = json.loads(text)
            name, people = str(entry["ID"]), list(entry["gtboxes"])
        except (KeyError, TypeError, ValueError) as error:
            message = f'expected an object with "ID" and "gtboxes" ({error})'
            raise bad(file, message, line) from error
        # The id has no suffix; the box of an image may be None where an image has no people.
        opened = files.open((name,), file, line)
        if opened is None:
            source.dropped["in an image left out"] += len(people)
            continue
        boxes = [_box(person, kind, file, line) for person in people]
        source.images.append(SourceImage(*opened, boxes=boxes))
    source.notes.append(f"boxes: {kind} ({KINDS[kind]})")
    source.notes += [
        f"{count} images {reason}, left out" for reason, count in files.skipped.items()
    ]
    return source


def _box(person: Any, kind: str, file: Path, line: int) -> SourceBox:
    if not isinstance(person, dict) or "tag" not in person:
        raise bad(file, f'an entry of "gtboxes" lacks "tag": {str(person)[:200]}', line)
    tag = str(person["tag"])
    # A region to leave out has no parts: all its boxes are the same or only the full one is there.
    wanted = KINDS[kind] if tag == "person" else "fbox"
    bbox = _numbers(person, wanted, file, line)
    extra, head = (person.get(key) or {} for key in ("extra", "head_attr"))
    ignored = head if kind == "head" and tag == "person" else extra
    ignore = "ignore 1" if extra.get("ignore") == 1 or ignored.get("ignore") == 1 else ""
    visibility = None
    if tag == "person" and "vbox" in person and kind == "full":
        visible = _numbers(person, "vbox", file, line)
        if bbox[2] > 0 and bbox[3] > 0:
            visibility = min(1.0, visible[2] * visible[3] / (bbox[2] * bbox[3]))
    return SourceBox(bbox, tag, ignore=ignore, visibility=visibility)


def _numbers(person: dict, key: str, file: Path, line: int) -> XYWH:
    value = person.get(key)
    if not isinstance(value, list) or len(value) != 4:
        raise bad(file, f"{key} must be [x, y, width, height], found {value!r}", line)
    x, y, width, height = (number(part, key, file, line) for part in value)
    return x, y, width, height
