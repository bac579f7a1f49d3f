"""PASCAL VOC: one XML per image, as VOC, labelImg, CVAT and Roboflow write it.

VOC counts pixels from 1 and its ``xmax`` is the last pixel of the box; most tools write corners
that count from 0. A fraction, or a corner at 0, shows the second kind. ILSVRC's videos add a
``trackid`` to each object.
"""

from pathlib import Path

from spnet_d2.data.formats.convert.image_files import ImageFiles
from spnet_d2.data.formats.convert.source import Source, SourceBox, SourceError, SourceImage, bad
from spnet_d2.data.formats.convert.xml_lines import Element, read_xml

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read(
    path: Path, images: Path | None = None, skip_bad: bool = False, first_pixel: int | None = None
) -> Source:
    """
    Read all XML files below a folder.

    Args:
        path: folder with ``Annotations/*.xml`` or with the files themselves.
        images: default: ``JPEGImages`` or ``images`` beside them, or ``path``.
        skip_bad: see :class:`ImageFiles`.
        first_pixel: 1: VOC's own coordinates, 0: corners from 0; None: found out.

    Raises:
        SourceError: naming the file and line.
    """
    if not path.is_dir():
        raise SourceError(f"No folder at {path.absolute()}; expected one with XML files below it.")
    roots = [(file, read_xml(file)) for file in sorted(path.rglob("*.xml"))]
    roots = [(file, root) for file, root in roots if root.tag == "annotation"]
    if not roots:
        raise SourceError(f"{path}: no XML file with <annotation>, which VOC has, below it.")
    if first_pixel is None:
        first_pixel = 0 if any(_counts_from_0(root) for _, root in roots) else 1
    files = ImageFiles(images or _image_folder(path), skip_bad)
    source = Source(files.root, [], {})
    source.notes.append(
        f"pixels counted from {first_pixel}"
        + (", as VOC does: x = xmin - 1" if first_pixel else ": x = xmin")
        + " (--first-pixel)"
    )
    for file, root in roots:
        boxes = [_box(obj, first_pixel) for obj in root.each("object")]
        source.classes.update((box.class_id, box.class_id) for box in boxes)
        opened = files.open(_names(file, root), file, root.line, _size(root))
        if opened is None:
            source.dropped["in an image left out"] += len(boxes)
            continue
        tracked = any(box.track is not None for box in boxes)
        folder = root.words("folder") if tracked else ""
        source.images.append(SourceImage(*opened, boxes=boxes, sequence=folder))
    source.notes += [
        f"{count} images {reason}, left out" for reason, count in files.skipped.items()
    ]
    return source


def _image_folder(path: Path) -> Path:
    for folder in (
        path / "JPEGImages",
        path.parent / "JPEGImages",
        path / "images",
        path.parent / "images",
    ):
        if folder.is_dir():
            return folder
    return path


def _names(file: Path, root: Element) -> tuple[str, ...]:
    """What the image may be called. Some tools leave out its suffix, or the element is stale."""
    names = [root.words("filename"), file.stem]
    return tuple(dict.fromkeys(name for name in names if name))


def _size(root: Element) -> tuple[int, int] | None:
    size = root.find("size")
    if size is None:
        return None
    width, height = int(size.child_number("width")), int(size.child_number("height"))
    # Some tools write zeros.
    return (width, height) if width > 0 and height > 0 else None


def _bndbox(obj: Element) -> Element:
    # Not that of a <part>, such as the head.
    box = obj.find("bndbox")
    if box is None:
        raise bad(obj.path, "<object> lacks <bndbox>", obj.line)
    return box


def _counts_from_0(root: Element) -> bool:
    for obj in root.each("object"):
        corners = [_bndbox(obj).child_number(name) for name in _CORNERS]
        if min(corners[:2]) < 1 or any(value != int(value) for value in corners):
            return True
    return False


def _box(obj: Element, first_pixel: int) -> SourceBox:
    name = obj.words("name")
    if not name:
        raise bad(obj.path, "<object> lacks <name>", obj.line)
    xmin, ymin, xmax, ymax = (_bndbox(obj).child_number(corner) for corner in _CORNERS)
    x, y = xmin - first_pixel, ymin - first_pixel
    # From the left edge of the first pixel to the right edge of the last.
    bbox = (x, y, xmax - x, ymax - y)
    return SourceBox(
        bbox,
        name,
        track=obj.words("trackid") or None,
        ignore="difficult" if obj.words("difficult") in ("1", "true") else "",
        attributes={
            **{child.tag: (child.text or "").strip() for child in obj if not len(child)},
            # CVAT and Datumaro.
            **{a.words("name"): a.words("value") for a in obj.each("attributes/attribute")},
        },
    )
