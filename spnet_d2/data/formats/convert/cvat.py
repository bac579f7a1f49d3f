"""CVAT's own XML 1.1, "for images" and "for video". https://docs.cvat.ai/docs/other/xml_format

In a video each track is one object: its boxes name the frame, and ``outside`` where it is gone.
Exports list every frame of a track; where a file has key frames only, boxes between two of them
are interpolated, as CVAT shows them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2

from spnet_d2.data.formats.convert.image_files import VIDEO_SUFFIXES, ImageFiles
from spnet_d2.data.formats.convert.source import (
    Source,
    SourceBox,
    SourceError,
    SourceImage,
    bad,
    rotated_bounds,
)
from spnet_d2.data.formats.convert.xml_lines import Element, read_xml
from spnet_d2.data.image_reader import is_image_name


def read(path: Path, images: Path | None = None, skip_bad: bool = False) -> Source:
    """
    Read one ``annotations.xml``, or all below a folder, each of them one task.

    Args:
        path: the file or folder, unpacked.
        images: folder of the images, or the video of a task; default: ``images`` beside the file.
        skip_bad: see :class:`ImageFiles`.

    Raises:
        SourceError: naming the file and line.
    """
    xmls = [path] if path.is_file() else sorted(path.rglob("*.xml"))
    roots = [(file, read_xml(file)) for file in xmls]
    roots = [(file, root) for file, root in roots if root.tag == "annotations"]
    if not roots:
        raise SourceError(
            f"{path}: no annotations.xml of CVAT; unpack the export and name its folder or file."
        )
    if images is not None and images.is_file():
        return _video_task(roots, images)
    base = images or _image_folder(path, roots)
    files = ImageFiles(base, skip_bad)
    source = Source(files.root, [], {})
    for file, root in roots:
        name = _task_name(file, root, path)
        if root.find("track") is not None or _is_video(root):
            _read_video(root, source, name, _frame_files(file, root, files))
        else:
            _read_images(file, root, source, files, name if len(roots) > 1 else "")
    source.notes += [
        f"{count} images {reason}, left out" for reason, count in files.skipped.items()
    ]
    return source


def _image_folder(path: Path, roots: list) -> Path:
    if len(roots) > 1:
        return path
    folder = roots[0][0].parent
    return folder / "images" if (folder / "images").is_dir() else folder


def _task(root: Element) -> Element | None:
    """The description of the task or job."""
    found = next(
        (
            root.find(f"meta/{kind}")
            for kind in ("task", "job")
            if root.find(f"meta/{kind}") is not None
        ),
        None,
    )
    if found is None and root.find("meta/project") is not None and root.find("track") is not None:
        raise bad(
            root.path,
            "is the export of a whole project of videos, where frames of different videos share "
            "their numbers; export each task by itself",
            root.line,
        )
    return found


def _is_video(root: Element) -> bool:
    task = _task(root)
    return task is not None and task.words("mode") == "interpolation" and root.find("image") is None


def _task_name(file: Path, root: Element, path: Path) -> str:
    task = _task(root)
    name = task.words("name") if task is not None else ""
    folder = file.parent.relative_to(path).as_posix() if path.is_dir() else "."
    # Tasks may share a name, folders can't.
    return folder if folder != "." else name or file.stem


def _attributes(element: Element) -> dict[str, str]:
    return {a.get("name", ""): (a.text or "").strip() for a in element.each("attribute")}


def _xywh(box: Element, source: Source) -> tuple[float, float, float, float]:
    left, top, right, bottom = (box.number(name) for name in ("xtl", "ytl", "xbr", "ybr"))
    bbox = (left, top, right - left, bottom - top)
    turn = box.number("rotation") if box.get("rotation") else 0
    if not turn:
        return bbox
    note = "rotated rectangles became the upright boxes around them"
    if note not in source.notes:
        source.notes.append(note)
    return rotated_bounds(bbox, turn, ((left + right) / 2, (top + bottom) / 2))


def _read_images(
    file: Path, root: Element, source: Source, files: ImageFiles, sequence: str
) -> None:
    for image in root.each("image"):
        name, size = image.need("name"), (int(image.number("width")), int(image.number("height")))
        subset = image.get("subset", "")
        names = (f"{sequence}/images/{name}", f"{subset}/{name}", name)
        opened = files.open(names[0 if sequence else 1 if subset else 2 :], file, image.line, size)
        boxes = []
        for shape in image:
            if shape.tag != "box":
                source.dropped[f"{shape.tag}, no rectangle"] += shape.tag != "tag"
                continue
            label = shape.need("label")
            source.classes[label] = label
            said = _attributes(shape)
            # Tracks that are split into images keep their number here.
            boxes.append(
                SourceBox(_xywh(shape, source), label, said.get("track_id"), attributes=said)
            )
        if opened is None:
            source.dropped["in an image left out"] += len(boxes)
        else:
            source.images.append(SourceImage(*opened, boxes=boxes, sequence=sequence))
    source.dropped = +source.dropped


@dataclass(frozen=True)
class _Frames:
    """Frames of a task: image and size by number, as the XML counts."""

    images: dict[int, tuple[str, int, int]]
    step: int


def _numbers(root: Element) -> tuple[range, int]:
    """All frame numbers of a task, and their distance: the video's own numbers, from 0."""
    task = _task(root)
    if task is None:
        raise bad(root.path, "lacks <meta> with <task> or <job>, which gives the frames", root.line)
    stated = task.words("frame_filter").replace(" ", "").removeprefix("step=")
    step = int(stated) if stated.isdecimal() and int(stated) else 1
    start = int(task.child_number("start_frame"))
    return range(start, int(task.child_number("stop_frame")) + 1, step), step


def _frame_files(file: Path, root: Element, files: ImageFiles) -> _Frames:
    """Images of a task, called frame_000012.png by CVAT; others follow each other by name."""
    numbers, step = _numbers(root)
    folder = file.parent / "images"
    below = folder if folder.is_dir() and files.root in (folder, *folder.parents) else files.root
    found = sorted(p for p in below.rglob("*") if is_image_name(p))
    by_number = {p.stem.removeprefix("frame_"): p for p in found}
    images = {}
    for place, frame in enumerate(numbers):
        image = by_number.get(f"{frame:06d}")
        if image is None and not any(p.stem.startswith("frame_") for p in found):
            image = found[place] if len(found) == len(numbers) else None
        name = f"frame_{frame:06d}" if image is None else image.relative_to(files.root).as_posix()
        opened = files.open((name,), file, root.line, _original_size(root))
        if opened:
            images[frame] = opened
    return _Frames(images, step)


def _original_size(root: Element) -> tuple[int, int] | None:
    # In <task>, in <meta>, or nowhere, depending on the version.
    for place in ("meta/task/original_size", "meta/job/original_size", "meta/original_size"):
        size = root.find(place)
        if size is not None:
            return int(size.child_number("width")), int(size.child_number("height"))
    return None


def _video_task(roots: list, video: Path) -> Source:
    """A task whose frames are still in the video."""
    if len(roots) > 1 or video.suffix.lower() not in VIDEO_SUFFIXES:
        raise SourceError(
            f"{video}: expected a video ({' '.join(VIDEO_SUFFIXES)}), for one task only; "
            f"there are {len(roots)}."
        )
    file, root = roots[0]
    capture = cv2.VideoCapture(str(video))
    try:
        size = tuple(
            int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        fps, count = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        capture.release()
    numbers, step = _numbers(root)
    if 0 in size or _original_size(root) not in (None, size) or not 0 < len(numbers) <= count:
        raise bad(
            file,
            f"belongs to another video: it has frames {numbers.start} to {numbers.stop - 1} of "
            f"{_original_size(root)} pixels, {video} has {count} frames of {size}",
            root.line,
        )
    frames = _Frames({n: (f"frame_{n:06d}.jpg", size[0], size[1]) for n in numbers}, step)
    source = Source(video, [], {})
    name = _task_name(file, root, file)
    if fps > 0:
        source.fps[name] = fps
    _read_video(root, source, name, frames)
    return source


def _read_video(root: Element, source: Source, name: str, frames: _Frames) -> None:
    images = {
        number: SourceImage(*image, sequence=name, frame=number)
        for number, image in frames.images.items()
    }
    for track in root.each("track"):
        label, identity = track.need("label"), track.need("id")
        for shape in track:
            if shape.tag != "box":
                source.dropped[f"{shape.tag}, no rectangle"] += 1
        source.classes[label] = label
        seen = list(_track(track, source, frames.step))
        # Rectangles drawn in one frame are exported as tracks of one box: nobody is followed.
        alone = len(seen) == 1
        for number, bbox, said in seen:
            if number not in images:
                source.dropped["in a frame without image"] += 1
                continue
            box = SourceBox(bbox, label, None if alone else identity, attributes=said)
            images[number].boxes.append(box)
    source.images += images.values()


def _track(track: Element, source: Source, step: int) -> Iterator[tuple[int, tuple, dict]]:
    """Frame, box and attributes, wherever the object is in the image."""
    shapes = sorted(track.each("box"), key=lambda shape: shape.number("frame"))
    for shape, following in zip(shapes, [*shapes[1:], None]):
        if shape.get("outside") == "1":
            continue
        frame, bbox, said = int(shape.number("frame")), _xywh(shape, source), _attributes(shape)
        yield frame, bbox, said
        if following is None:
            continue
        end, last = _xywh(following, source), int(following.number("frame"))
        # Where it is outside next, it stays as it was until then.
        end = bbox if following.get("outside") == "1" else end
        for between in range(frame + step, last, step):
            share = (between - frame) / (last - frame)
            yield between, tuple(a + share * (b - a) for a, b in zip(bbox, end)), said
