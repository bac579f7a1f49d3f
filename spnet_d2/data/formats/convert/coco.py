"""COCO's detection JSON, as COCO, CVAT, Roboflow, Label Studio and others write it.

Identities are no part of COCO. Where a file has them they are found as ``track_id``,
``instance_id`` or ``person_id`` of an annotation, or among its ``attributes`` (CVAT).
"""

import json
from pathlib import Path
from typing import Any

from spnet_d2.data.formats.convert.image_files import ImageFiles
from spnet_d2.data.formats.convert.source import (
    Source,
    SourceBox,
    SourceError,
    SourceImage,
    bad,
    number,
    rotated_bounds,
)

_TRACK_KEYS = ("person_id", "instance_id", "track_id")
_COCO_KEYS = ("id", "image_id", "category_id", "area", "iscrowd", "segmentation")
_VIDEO_KEYS = ("video_id", "sequence", "video")
_CAMERA_KEYS = ("cam_id", "camera_id", "camera")
_FRAME_KEYS = ("frame_id", "frame_index", "frame")


def read(path: Path, images: Path | None = None, skip_bad: bool = False) -> Source:
    """
    Read one JSON, or the only one below a folder.

    Args:
        path: the file, or a folder with ``annotations/<name>.json``.
        images: folder that ``file_name`` counts from; found beside the file if not given.
        skip_bad: see :class:`ImageFiles`.

    Raises:
        SourceError: naming the file and the entry.
    """
    file = only_file(path, "*.json")
    content = load(file)
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise bad(file, 'expected an object with "images" and "annotations", as COCO has')
    entries = {kind: _objects(content, kind, file) for kind in ("images", "annotations")}
    categories = _objects(content, "categories", file) if content.get("categories") else []
    classes = {
        str(_need(c, "id", "categories", file)): str(c.get("name", c["id"])) for c in categories
    }
    videos = {
        str(v.get("id")): str(v.get("name", v.get("id"))) for v in content.get("videos") or []
    }
    files = ImageFiles(images or _image_folder(file, entries["images"]), skip_bad)
    source = Source(files.root, [], classes)
    of_id = {}
    for entry in entries["images"]:
        image_id = str(_need(entry, "id", "images", file))
        if image_id in of_id:
            raise bad(file, f"two images have the id {image_id}")
        of_id[image_id] = _image(entry, files, file, videos)
    source.images = [image for image in of_id.values() if image]
    for entry in entries["annotations"]:
        image_id = str(_need(entry, "image_id", "annotations", file))
        if image_id not in of_id:
            raise bad(file, f"{_name(entry)}: there is no image with the id {image_id}")
        box = _box(entry, source, file)
        image = of_id[image_id]
        if image is None:
            source.dropped["in an image left out"] += 1
        elif box:
            image.boxes.append(box)
    source.notes += [
        f"{count} images {reason}, left out" for reason, count in files.skipped.items()
    ]
    return source


def only_file(path: Path, pattern: str) -> Path:
    """``path`` if it is a file, or the only file like ``pattern`` below it."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise SourceError(f"No file or folder at {path.absolute()}.")
    found = sorted(p for p in path.rglob(pattern) if p.is_file())
    if len(found) != 1:
        names = ", ".join(str(p.relative_to(path)) for p in found[:8]) or "none"
        raise SourceError(
            f"{path}: expected one {pattern} below it, found {len(found)}: {names}. "
            "Name the file itself."
        )
    return found[0]


def load(file: Path) -> Any:
    """Parse JSON; :class:`SourceError` names the line."""
    try:
        return json.loads(file.read_bytes())
    except json.JSONDecodeError as error:
        raise bad(file, f"is not JSON ({error.msg}, column {error.colno})", error.lineno) from error
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise bad(file, f"cannot be read ({error})") from error


def _objects(content: dict, kind: str, file: Path) -> list[dict]:
    entries = content[kind]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise bad(file, f'"{kind}" must be a list of objects')
    return entries


def _need(entry: dict, key: str, kind: str, file: Path) -> Any:
    if entry.get(key) is None:
        raise bad(file, f'an entry of "{kind}" lacks {key}: {json.dumps(entry)[:200]}')
    return entry[key]


def _name(entry: dict) -> str:
    return f"annotation {entry.get('id')!r}"


def _first(entry: dict, keys: tuple[str, ...]) -> Any:
    """The first of ``keys`` that an entry or its ``attributes`` have."""
    attributes = entry.get("attributes")
    for source in (entry, attributes if isinstance(attributes, dict) else {}):
        for key in keys:
            if source.get(key) is not None:
                return source[key]
    return None


def _image_folder(file: Path, images: list[dict]) -> Path:
    """Where the first image is: beside the file, or where COCO and CVAT put it."""
    # instances_val2017.json belongs to val2017/.
    part = file.stem.rsplit("_", 1)[-1]
    above = file.parent.parent
    folders = [file.parent / "images", above / "images" / part, above / "images", above / part]
    folders += [file.parent / part, file.parent, above]
    name = str(images[0].get("file_name")) if images else ""
    for folder in folders:
        if (folder / name).is_file():
            return folder
    looked = ", ".join(map(str, dict.fromkeys(folders)))
    raise bad(file, f"image {name!r} is in none of {looked}; name the folder with --images")


def _image(entry: dict, files: ImageFiles, file: Path, videos: dict) -> SourceImage | None:
    name = _need(entry, "file_name", "images", file)
    width, height = entry.get("width"), entry.get("height")
    size = (width, height) if width and height else None
    opened = files.open((str(name),), file, size=size)
    if opened is None:
        return None
    video, camera = _first(entry, _VIDEO_KEYS), _first(entry, _CAMERA_KEYS)
    frame = _first(entry, _FRAME_KEYS)
    return SourceImage(
        *opened,
        sequence="" if video is None else videos.get(str(video), str(video)),
        # -1 stands for no camera in this project's files.
        camera=None if camera in (None, -1) else str(camera),
        frame=int(number(frame, "the frame of an image", file)) if frame is not None else None,
    )


def _box(entry: dict, source: Source, file: Path) -> SourceBox | None:
    class_id = str(_need(entry, "category_id", "annotations", file))
    source.classes.setdefault(class_id, class_id)
    bbox = entry.get("bbox")
    if not bbox:
        source.dropped["without a box"] += 1
        return None
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise bad(file, f"{_name(entry)}: bbox must be [x, y, width, height], found {bbox!r}")
    bbox = tuple(number(value, f"{_name(entry)}: bbox", file) for value in bbox)
    attributes = entry.get("attributes")
    attributes = attributes if isinstance(attributes, dict) else {}
    if turn := number(attributes.get("rotation") or 0, f"{_name(entry)}: rotation", file):
        centre = bbox[0] + bbox[2] / 2, bbox[1] + bbox[3] / 2
        bbox = rotated_bounds(bbox, turn, centre)
    ignore = "crowd" if entry.get("iscrowd") else "ignore 1" if entry.get("ignore") else ""
    # This project's own files give unknown people numbers, too.
    track = None if entry.get("is_known") is False else _first(entry, _TRACK_KEYS)
    visibility = entry.get("visibility")
    if visibility is not None:
        visibility = number(visibility, f"{_name(entry)}: visibility", file)
    return SourceBox(
        bbox,
        class_id,
        track=None if track is None else str(track),
        ignore=ignore,
        visibility=visibility,
        attributes={
            key: str(value)
            for key, value in (entry | attributes).items()
            if key not in _COCO_KEYS and isinstance(value, str | int | float)
        },
    )
