"""YOLO: one text file per image, each line a class and a box as shares of the image.

``class centre_x centre_y width height``, class numbers from 0. Names come from ``data.yaml``
(Ultralytics, Roboflow), ``classes.txt`` (labelImg, Label Studio) or ``obj.names`` (darknet, CVAT).
The text of ``images/a/1.jpg`` is ``labels/a/1.txt``, or lies beside the image.
"""

from pathlib import Path

import yaml

from spnet_d2.data.formats.convert.image_files import ImageFiles
from spnet_d2.data.formats.convert.source import (
    Source,
    SourceBox,
    SourceError,
    SourceImage,
    bad,
    number,
    read_text,
)

_NAMES = ("classes.txt", "obj.names", "names.txt")


def read(path: Path, images: Path | None = None, skip_bad: bool = False) -> Source:
    """
    Read all images below a folder.

    Args:
        path: folder, or a ``data.yaml`` in it.
        images: folder of the images, where they are elsewhere; default ``path``.
        skip_bad: see :class:`ImageFiles`.

    Raises:
        SourceError: naming the file and line.
    """
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise SourceError(f"No file or folder at {path.absolute()}.")
    files = ImageFiles(images or folder, skip_bad)
    source = Source(files.root, [], _classes(path, folder))
    used, without = set(), 0
    for name in files.all():
        opened = files.open((name,), name)
        if opened is None:
            continue
        text = _text_of(Path(name), folder, files.root)
        without += text is None
        used.add(text)
        boxes = _boxes(text, opened[1:], source) if text else []
        source.images.append(SourceImage(*opened, boxes=boxes))
    if not source.images:
        raise SourceError(f"{files.root}: no images below it; name their folder with --images.")
    if without == len(source.images):
        raise SourceError(
            f"{folder}: no text file belongs to an image of {files.root}. That of images/1.jpg is "
            "labels/1.txt, or lies beside it."
        )
    _check_texts(folder, used, skip_bad, source)
    source.notes.append(f"{without} images without a text file: taken as images of nobody")
    source.notes += [
        f"{count} images {reason}, left out" for reason, count in files.skipped.items()
    ]
    return source


def _classes(path: Path, folder: Path) -> dict[str, str]:
    yamls = (
        [path] if path.is_file() else sorted(folder.glob("*.yaml")) + sorted(folder.glob("*.yml"))
    )
    for file in yamls:
        try:
            content = yaml.safe_load(read_text(file))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise bad(file, f"is not YAML ({' '.join(str(error).split())})") from error
        names = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, list):
            names = dict(enumerate(names))
        if isinstance(names, dict):
            return {str(key): str(name) for key, name in names.items()}
    # labelImg puts it among the texts.
    listed = (file for name in _NAMES for file in sorted(folder.rglob(name)))
    names_file = next(listed, None)
    lines = read_text(names_file).splitlines() if names_file else []
    return {str(row): line.strip() for row, line in enumerate(lines) if line.strip()}


def _text_of(image: Path, folder: Path, root: Path) -> Path | None:
    """The text file of an image, which counts from ``root``."""
    parts = list(image.with_suffix(".txt").parts)
    candidates = [root.joinpath(*parts), folder.joinpath(*parts), folder / "labels" / Path(*parts)]
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        parts[last] = "labels"
        candidates = [root.joinpath(*parts), folder.joinpath(*parts), *candidates]
    return next((file for file in candidates if file.is_file()), None)


def _check_texts(folder: Path, used: set, skip_bad: bool, source: Source) -> None:
    """Labels whose image is gone must not be lost in silence."""
    lost = [
        file
        for file in sorted(folder.rglob("*.txt"))
        if file not in used
        and file.name not in _NAMES
        and "labels" in file.relative_to(folder).parts[:-1]
    ]
    if lost and not skip_bad:
        raise SourceError(
            f"{lost[0]}: no image belongs to it ({len(lost)} such files); --images names the "
            "images' folder, --skip-bad-images leaves such files out."
        )
    if lost:
        source.notes.append(f"{len(lost)} text files without an image, left out")


def _boxes(file: Path, size: tuple[int, int], source: Source) -> list[SourceBox]:
    boxes = []
    for line, text in enumerate(read_text(file).splitlines(), 1):
        values = text.split()
        if not values:
            continue
        if not values[0].isdecimal():
            raise bad(file, f"expected the number of a class first, found {text!r}", line)
        numbers = [number(value, "each value", file, line) for value in values[1:]]
        if len(numbers) < 4 or len(numbers) == 7 or (len(numbers) > 6 and len(numbers) % 2):
            message = (
                f"expected class, centre x, y, width, height, found {len(values)} values: {text!r}"
            )
            raise bad(file, message, line)
        if len(numbers) > 6:
            relative = _around(numbers)
        else:
            x, y, width, height = numbers[:4]
            relative = (x - width / 2, y - height / 2, width, height)
            if len(numbers) > 4:
                _count(source, "lines with a score or track behind the box, which is not read")
        if max(relative) > 2:
            message = f"expected shares of the image, 0 to 1, found {text!r}: are these pixels?"
            raise bad(file, message, line)
        source.classes.setdefault(values[0], values[0])
        x, y, w, h = relative
        bbox = (x * size[0], y * size[1], w * size[0], h * size[1])
        boxes.append(SourceBox(bbox, values[0]))
    return boxes


def _around(polygon: list[float]) -> tuple[float, float, float, float]:
    xs, ys = polygon[0::2], polygon[1::2]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _count(source: Source, what: str) -> None:
    if what not in source.notes:
        source.notes.append(what)
