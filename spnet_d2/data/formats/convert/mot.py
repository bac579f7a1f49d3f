"""MOTChallenge: ``seqinfo.ini``, ``gt/gt.txt`` or ``det/det.txt``, and a folder of frames.

One line is ``frame, id, left, top, width, height, flag, class, visibility`` (MOT16, 17, 20,
DanceTrack, SportsMOT, CVAT's export), or ``frame, id, left, top, width, height, flag, x, y, z``
(MOT15, with places in the world and no class). In ``det.txt`` the seventh value is a score and the
id -1. https://motchallenge.net/instructions, Milan et al., "MOT16" (arXiv 1603.00831), table 3.

Coordinates stay as they are written: the benchmark counts pixels from 1, the tools that write this
format from 0, and no file says which.
"""

import configparser
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

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
from spnet_d2.data.image_reader import is_image_name

CLASSES = {
    "1": "pedestrian",
    "2": "person on vehicle",
    "3": "car",
    "4": "bicycle",
    "5": "motorbike",
    "6": "non motorized vehicle",
    "7": "static person",
    "8": "distractor",
    "9": "occluder",
    "10": "occluder on the ground",
    "11": "occluder full",
    "12": "reflection",
    "13": "crowd",
}
PERSONS = ("1",)
# The benchmark counts a tracker's box there neither as right nor as wrong.
IGNORED = ("2", "7", "8", "12", "13")
# MOT17 has each video three times, once for each detector.
_DETECTORS = re.compile(r"^(.*)-(DPM|FRCNN|SDP)$")


@dataclass(frozen=True)
class _Row:
    line: int
    frame: int
    identity: int
    bbox: tuple[float, float, float, float]
    flag: float
    class_id: str
    visibility: float | None


@dataclass(frozen=True)
class _Sequence:
    """One sequence's ``seqinfo.ini``, or what is assumed without it."""

    name: str
    folder: Path
    image_folder: str = "img1"
    fps: float | None = None
    size: tuple[int, int] | None = None
    length: int | None = None


def read(
    path: Path,
    images: Path | None = None,
    skip_bad: bool = False,
    sequences: Collection[str] = (),
    detections: bool = False,
    min_score: float | None = None,
) -> Source:
    """
    Read one sequence, or all sequences below a folder.

    Args:
        path: folder of a sequence, or of several.
        images: folder that holds the sequences' frames in the same layout, default ``path``.
        skip_bad: see :class:`ImageFiles`.
        sequences: only these, by name.
        detections: take ``det/det.txt`` (nobody's identity) instead of ``gt/gt.txt``.
        min_score: detections below are dropped.

    Raises:
        SourceError: naming the file and line.
    """
    folders = _sequences(path, sequences)
    files = ImageFiles(images or path, skip_bad)
    source = Source(files.root, [], {}, PERSONS, IGNORED)
    if not sequences:
        folders = _one_of_each_video(folders, source)
    source.classes, own_labels = _classes(folders)
    if own_labels:
        source.persons = source.ignored = ()
    for name, folder in folders.items():
        sequence = _read_info(name, folder)
        if sequence.fps:
            source.fps[name] = sequence.fps
        rows = list(_rows(_annotations(folder, detections), detections))
        if detections and min_score is not None:
            low = sum(row.flag < min_score for row in rows)
            source.dropped[f"score below {min_score:g}"] += low
            rows = [row for row in rows if row.flag >= min_score]
        kept = _frames(sequence, path, files)
        if sequence.length not in (None, len(kept)):
            source.notes.append(
                f"sequence {name}: {len(kept)} images, seqinfo.ini says {sequence.length}"
            )
        boxes = _by_frame(rows, kept, _annotations(folder, detections), skip_bad, source)
        for frame, (file_name, width, height) in kept.items():
            image = SourceImage(file_name, width, height, sequence=name, frame=frame)
            image.boxes = [_box(row, detections, own_labels) for row in boxes[frame]]
            source.images.append(image)
    source.notes += [
        f"{count} images {reason}, left out" for reason, count in files.skipped.items()
    ]
    return source


def _sequences(path: Path, wanted: Collection[str]) -> dict[str, Path]:
    """Folders of sequences by name."""
    if not path.is_dir():
        raise SourceError(f"No folder at {path.absolute()}; expected sequences of MOTChallenge.")
    found = {file.parent for file in path.rglob("seqinfo.ini")}
    for kind in ("gt", "det"):
        found |= {file.parent.parent for file in path.rglob(f"{kind}/{kind}.txt")}
    if not found:
        raise SourceError(
            f"{path}: no sequence found; expected folders with gt/gt.txt or det/det.txt, "
            "seqinfo.ini, and frames in img1/."
        )
    names = {
        folder.relative_to(path).as_posix() if folder != path else path.absolute().name: folder
        for folder in sorted(found)
    }
    if missing := set(wanted) - names.keys():
        raise SourceError(
            f"{path}: no sequence {', '.join(sorted(missing))}; there are: {', '.join(names)}."
        )
    return {name: folder for name, folder in names.items() if not wanted or name in wanted}


def _one_of_each_video(folders: dict[str, Path], source: Source) -> dict[str, Path]:
    kept: dict[str, Path] = {}
    videos: dict[str, str] = {}
    for name, folder in folders.items():
        match = _DETECTORS.match(name)
        video = match[1] if match else name
        if video in videos:
            source.notes.append(f"sequence {name} left out: the frames of {videos[video]} again")
        else:
            videos[video] = name
            kept[name] = folder
    return kept


def _classes(folders: dict[str, Path]) -> tuple[dict[str, str], bool]:
    """Names of the classes, and whether a ``gt/labels.txt`` (CVAT writes one) gives them."""
    found = {}
    for folder in folders.values():
        file = folder / "gt" / "labels.txt"
        lines = read_text(file).splitlines() if file.is_file() else []
        found[file] = {str(row): name.strip() for row, name in enumerate(lines, 1) if name.strip()}
    first = next(iter(found.values()))
    for file, names in found.items():
        if names != first:
            raise bad(
                file, f"has other classes than the first sequence: {names} instead of {first}"
            )
    return (first, True) if first else (dict(CLASSES), False)


def _read_info(name: str, folder: Path) -> _Sequence:
    file = folder / "seqinfo.ini"
    if not file.is_file():
        return _Sequence(name, folder)
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(read_text(file))
        section = parser["Sequence"]
        width, height = section.getint("imWidth"), section.getint("imHeight")
        return _Sequence(
            name,
            folder,
            section.get("imDir", "img1"),
            section.getfloat("frameRate"),
            None if width is None or height is None else (width, height),
            section.getint("seqLength"),
        )
    except (configparser.Error, KeyError, ValueError) as error:
        message = f"expected [Sequence] with imDir, frameRate, imWidth, imHeight ({error})"
        raise bad(file, message) from error


def _annotations(folder: Path, detections: bool) -> Path:
    kind, other = ("det", "gt") if detections else ("gt", "det")
    file = folder / kind / f"{kind}.txt"
    if not file.is_file():
        hint = ""
        if (folder / other / f"{other}.txt").is_file():
            option = "without --detections" if detections else "with --detections"
            hint = f" There is {other}/{other}.txt, which is read {option}."
        raise SourceError(f"{folder}: no {kind}/{kind}.txt.{hint}")
    return file


def _rows(file: Path, detections: bool) -> Iterator[_Row]:
    lines = read_text(file).splitlines()
    for line, text in enumerate(lines, 1):
        if not text.strip():
            continue
        values = re.split(r"\s*,\s*|\s+", text.strip().rstrip(","))
        if not 6 <= len(values) <= 10:
            expected = "6 to 10 values: frame, id, left, top, width, height, ..."
            raise bad(file, f"expected {expected}; found {text!r}", line)
        numbers = [number(value, "each value", file, line) for value in values]
        frame, identity = numbers[:2]
        if frame != int(frame) or frame < 1 or identity != int(identity):
            message = (
                f"expected a frame from 1 on and a whole id, found {values[0]} and {values[1]}"
            )
            raise bad(file, message, line)
        # Ten values: the last three are a place in the world.
        has_class = len(numbers) in (8, 9) and not detections
        if has_class and numbers[7] != int(numbers[7]):
            raise bad(file, f"expected the number of a class, found {values[7]}", line)
        yield _Row(
            line,
            int(frame),
            int(identity),
            (numbers[2], numbers[3], numbers[4], numbers[5]),
            numbers[6] if len(numbers) > 6 else 1.0,
            str(int(numbers[7])) if has_class else PERSONS[0],
            numbers[8] if len(numbers) == 9 and not detections else None,
        )


def _frames(sequence: _Sequence, path: Path, files: ImageFiles) -> dict[int, tuple[str, int, int]]:
    """File (relative to the image root), width and height of each frame that has an image."""
    relative = sequence.folder.relative_to(path)
    folder = files.root / relative / sequence.image_folder
    found = [p for p in folder.iterdir() if is_image_name(p)] if folder.is_dir() else []
    if not found:
        raise SourceError(
            f"{sequence.folder}: no images in {folder}; --images names the folder that holds "
            f"{relative / sequence.image_folder}."
        )
    found.sort()
    # Files called by numbers are called by their frame; others follow each other.
    named = all(p.stem.isdecimal() for p in found)
    where = sequence.folder / "seqinfo.ini"
    kept: dict[int, tuple[str, int, int]] = {}
    for place, file in enumerate(found, 1):
        name = file.relative_to(files.root).as_posix()
        opened = files.open((name,), where, size=sequence.size)
        if opened:
            kept[int(file.stem) if named else place] = opened
    return dict(sorted(kept.items()))


def _by_frame(
    rows: list[_Row], frames: dict[int, tuple], file: Path, skip_bad: bool, source: Source
) -> defaultdict[int, list[_Row]]:
    boxes = defaultdict(list)
    for row in rows:
        if row.frame in frames:
            boxes[row.frame].append(row)
        elif skip_bad:
            source.dropped["in a frame without image"] += 1
        else:
            message = (
                f"frame {row.frame} has no image; there are {len(frames)}, {min(frames)} to "
                f"{max(frames)} (--skip-bad-images drops such boxes)"
            )
            raise bad(file, message, row.line)
    return boxes


def _box(row: _Row, detections: bool, own_labels: bool) -> SourceBox:
    # Only of people: the benchmark sets the flag of all other classes to 0, and the class says it.
    flagged = not detections and row.flag == 0 and (own_labels or row.class_id in PERSONS)
    return SourceBox(
        row.bbox,
        row.class_id,
        track=str(row.identity) if row.identity >= 0 and not detections else None,
        ignore="flag 0 (not to be considered)" if flagged else "",
        visibility=row.visibility,
    )
