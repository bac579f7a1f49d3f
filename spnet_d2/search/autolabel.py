"""Weak boxes for footage without labels: galleries of a detector become a person-search JSON.

The paper pre-trains on boxes that a detector made (sections 1 and 4.5); here anything with the
predictor's interface makes them. Without tracklets every box is a person of its own, as in
COCOPersons; with them a tracklet is one.
"""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from spnet_d2.data.formats.convert.preview import draw_preview
from spnet_d2.data.formats.splits import Partition
from spnet_d2.data.image_reader import is_image_name, upright_size
from spnet_d2.data.own_sets import OwnSet, write_sets
from spnet_d2.data.paired_boxes import paired_ious
from spnet_d2.data.person_search_json import PersonSearchTable, write_person_search_json
from spnet_d2.data.person_search_schema import make_annotation
from spnet_d2.data.tracklets import LinkRules, TrackletQuality, link_boxes, tracklet_quality
from spnet_d2.errors import UserError
from spnet_d2.utils.atomic_io import atomic_path, write_image, write_text

from .frames import iterate_frames, open_frames
from .gallery import Gallery

DATA_SETS = "datasets.yaml"
_JPEG_QUALITY = 95


class AutolabelError(UserError, ValueError):
    """Footage that gives no labels, or a truth that does not belong to it."""


@dataclass(frozen=True)
class Choices:
    """
    Attributes:
        min_height: lower boxes are left out, pixels.
        drop_empty: leave out frames in which nobody is found.
        tracklets: how to link; None: every box is a person of its own.
        min_length: shorter tracklets are unknown people.
    """

    min_height: float = 0.0
    drop_empty: bool = False
    tracklets: LinkRules | None = None
    min_length: int = 3


@dataclass
class _Shot:
    """One frame with its boxes; ``track`` (N,) has -1 where nobody knows who it is."""

    sequence: str
    name: str
    file: str
    number: int
    time: float
    boxes: np.ndarray
    scores: np.ndarray
    embeddings: np.ndarray
    track: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


def source_names(sources: Sequence[str | os.PathLike]) -> list[str]:
    """A name for each folder or video that is a good folder name, no two alike."""
    names: list[str] = []
    for source in sources:
        stem = re.sub(r"\W+", "_", Path(os.path.abspath(source)).stem) or "source"
        name, count = stem, 2
        while name in names:
            name, count = f"{stem}_{count}", count + 1
        names.append(name)
    return names


def find_people(
    predictor: Any, sources: Sequence[str], folder: Path, every: int, min_score: float
) -> tuple[list[Gallery], list[str]]:
    """
    Everyone in some sources. What was found is kept, so that other choices take no second
    detection, and a second call goes on where one was stopped.

    Args:
        predictor: finds people; with the interface of a ``PersonSearchPredictor``.
        sources: folders and videos.
        folder: gets ``.people``, with a file for each source.
        every: take each N-th frame.
        min_score: of a detection.

    Returns:
        A gallery and a name for each source.
    """
    kept = folder / ".people"
    names = source_names(sources)
    # All are opened first, so that a wrong path shows at once, not after hours.
    frames = [open_frames(source, every) for source in sources]
    kept.mkdir(parents=True, exist_ok=True)
    galleries = []
    for source, name in zip(frames, names):
        file = kept / f"{name}.npz"
        galleries.append(Gallery.build(predictor, source, min_score, unfinished=file))
        galleries[-1].save(file)
    return galleries, names


def write_labels(
    galleries: Sequence[Gallery], names: Sequence[str], folder: Path, name: str, choices: Choices
) -> tuple[Partition, str]:
    """
    Write images or frames, annotations.json, preview.jpg, datasets.yaml and report.txt.

    The images of a single folder stay where they are; of several, and of videos, they are put into
    ``folder/images``.

    Args:
        galleries: of everyone found, one per source.
        names: of the sources, see :func:`source_names`.
        folder: made if needed.
        name: of the data set.
        choices: what becomes of the boxes.

    Returns:
        What annotations.json holds, and the report.

    Raises:
        AutolabelError: nobody is found, or a frame can't be read again.
        OSError: something can't be written.
    """
    single = len(galleries) == 1 and Path(galleries[0].source).is_dir()
    shots = [
        shot
        for gallery, source in zip(galleries, names, strict=True)
        for shot in _shots(gallery, source, single, choices.min_height)
    ]
    people = sum(len(shot.boxes) for shot in shots)
    if not people:
        raise AutolabelError(
            f"Nobody was found in {len(shots)} frames: lower --min-score or --min-height."
        )
    _link(shots, choices)
    empty = sum(not len(shot.boxes) for shot in shots)
    if choices.drop_empty:
        shots = [shot for shot in shots if len(shot.boxes)]
    root = Path(galleries[0].source) if single else folder / "images"
    sizes = _sizes(shots) if single else _write_images(shots, root)
    partition = _partition(shots, sizes, choices.tracklets is not None)
    file = folder / "annotations.json"
    info = {"description": "boxes of a detector, not looked at by anybody"}
    write_person_search_json(file, partition["images"], partition["annotations"], info=info)
    write_image(folder / "preview.jpg", draw_preview(partition, root))
    write_sets(folder / DATA_SETS, [OwnSet(name, file, root)])
    text = _report(partition, empty, choices, root, folder, name)
    write_text(folder / "report.txt", text)
    return partition, text


def _shots(gallery: Gallery, source: str, single: bool, min_height: float) -> Iterator[_Shot]:
    video = not Path(gallery.source).is_dir()
    ends = np.searchsorted(gallery.frame_index, np.arange(gallery.num_frames + 1))
    for i, (start, end) in enumerate(zip(ends[:-1], ends[1:])):
        number, file = int(gallery.frame_numbers[i]), str(gallery.frame_files[i])
        boxes = gallery.boxes[start:end].astype(np.float64)
        keep = boxes[:, 3] - boxes[:, 1] >= min_height
        stem = Path(file).stem
        # Frames of several cameras may lie in one folder: cor_0001.jpg, front_0001.jpg.
        sequence = source if video else "_".join([source, stem.rstrip("0123456789").rstrip("_-")])
        name = f"{source}/{number:06d}.jpg" if video else f"{source}/{Path(file).name}"
        yield _Shot(
            sequence=sequence.rstrip("_"),
            name=Path(file).name if single else name,
            file=file,
            number=number,
            time=float(gallery.frame_times[i]),
            boxes=boxes[keep],
            scores=gallery.scores[start:end][keep],
            embeddings=gallery.embeddings[start:end][keep],
        )


def _link(shots: list[_Shot], choices: Choices) -> None:
    """Fill ``track``: numbers from 0 that no two sequences share."""
    for shot in shots:
        shot.track = np.full(len(shot.boxes), -1)
    if choices.tracklets is None:
        return
    first = 0
    for sequence in dict.fromkeys(shot.sequence for shot in shots):
        these = [shot for shot in shots if shot.sequence == sequence]
        numbers = link_boxes(
            [shot.boxes for shot in these], [shot.embeddings for shot in these], choices.tracklets
        )
        lengths = np.bincount(np.concatenate(numbers))
        long = np.flatnonzero(lengths >= choices.min_length)
        place = np.full(len(lengths), -1)
        place[long] = first + np.arange(len(long))
        first += len(long)
        for shot, found in zip(these, numbers):
            shot.track = place[found]


def _sizes(shots: list[_Shot]) -> list[tuple[int, int]]:
    """(width, height) of each image."""
    return [upright_size(shot.file) for shot in shots]


def _write_images(shots: list[_Shot], root: Path) -> list[tuple[int, int]]:
    """Copy images and write frames; (width, height) of each."""
    frames = {(shot.file, shot.number): shot for shot in shots if not is_image_name(shot.file)}
    sizes = {}
    for shot in shots:
        if is_image_name(shot.file):
            with atomic_path(root / shot.name) as part:
                shutil.copyfile(shot.file, part)
            sizes[shot.name] = upright_size(shot.file)
    for place, image in iterate_frames(frames):
        if isinstance(image, Exception):
            raise AutolabelError(f"A frame can't be read again: {image}") from image
        shot = frames[place]
        # 1 is IMWRITE_JPEG_QUALITY.
        write_image(root / shot.name, image, [1, _JPEG_QUALITY])
        sizes[shot.name] = (image.shape[1], image.shape[0])
    return [sizes[shot.name] for shot in shots]


def _partition(shots: list[_Shot], sizes: list[tuple[int, int]], linked: bool) -> Partition:
    cameras = {s: n for n, s in enumerate(dict.fromkeys(shot.sequence for shot in shots))}
    images: list[dict] = []
    annotations: list[dict] = []
    # Those that nothing links get numbers after the tracklets'.
    alone = 1 + max((int(shot.track.max(initial=-1)) for shot in shots), default=-1) + 1
    for image_id, (shot, (width, height)) in enumerate(zip(shots, sizes, strict=True)):
        image = {
            "id": image_id,
            "file_name": shot.name,
            "width": width,
            "height": height,
            "cam_id": cameras[shot.sequence],
            "sequence": shot.sequence,
            "frame": shot.number,
        }
        if not np.isnan(shot.time):
            image["time"] = round(shot.time, 6)
        images.append(image)
        for box, score, track in zip(
            shot.boxes.tolist(), shot.scores.tolist(), shot.track.tolist()
        ):
            x1, y1, x2, y2 = box
            bbox = [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)]
            person = track + 1 if track >= 0 else alone + len(annotations)
            # As in COCOPersons, a box without identity is a person of its own.
            known = track >= 0 or not linked
            entry = make_annotation(len(annotations), image_id, bbox, person, known)
            entry["score"] = round(score, 4)
            if track >= 0:
                entry["track_id"] = track + 1
            annotations.append(entry)
    return {"images": images, "annotations": annotations}


def _report(
    partition: Partition, empty: int, choices: Choices, root: Path, folder: Path, name: str
) -> str:
    images, boxes = partition["images"], partition["annotations"]
    lines = [f"{len(images)} images in {root}, {len(boxes)} boxes"]
    left_out = " (left out)" if choices.drop_empty else ""
    lines.append(f"frames in which nobody was found: {empty}{left_out}")
    if choices.tracklets is not None:
        linked = [entry["person_id"] for entry in boxes if entry["is_known"]]
        lines.append(
            f"{len(set(linked))} tracklets of {choices.min_length} boxes or more hold "
            f"{len(linked)} boxes; the other {len(boxes) - len(linked)} are unknown people"
        )
    lines.append("nobody has looked at these labels: see preview.jpg")
    lines.append(f"data set {name}: use it with DATASETS.FILES {folder / DATA_SETS}")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class LabelQuality:
    """
    How right automatic labels are, on images that people labelled, too.

    Attributes:
        precision, recall: of boxes, at an IoU of 0.5.
        tracklets: of the linked boxes that show a labelled, known person.
        wrong: linked boxes that show nobody labelled.
    """

    precision: float
    recall: float
    tracklets: TrackletQuality
    wrong: int


def compare_labels(partition: Partition, truth: PersonSearchTable) -> LabelQuality:
    """
    Compare automatic labels with a person-search JSON of the same images.

    Images belong together by the name of their file, without folders; images that the truth lacks
    are left out.

    Raises:
        AutolabelError: no image is in both.
    """
    true_images = {Path(entry["file_name"]).name: i for i, entry in enumerate(truth.images)}
    image_of = {
        entry["id"]: true_images[Path(entry["file_name"]).name]
        for entry in partition["images"]
        if Path(entry["file_name"]).name in true_images
    }
    if not image_of:
        raise AutolabelError("--truth names none of these images: it must be of the same footage.")
    found: dict[int, list] = {i: [] for i in image_of.values()}
    for entry in partition["annotations"]:
        if entry["image_id"] in image_of:
            found[image_of[entry["image_id"]]].append(entry)
    matched, tracks, people, wrong = 0, [], [], 0
    for image, entries in found.items():
        rows = np.flatnonzero(truth.rows == image)
        pairs = _matches([entry["bbox"] for entry in entries], truth.boxes[rows])
        matched += len(pairs)
        for i, entry in enumerate(entries):
            if "track_id" not in entry:
                continue
            if i not in pairs:
                wrong += 1
            elif truth.annotations[rows[pairs[i]]]["is_known"]:
                tracks.append(entry["track_id"])
                people.append(truth.person_ids[rows[pairs[i]]])
    boxes = sum(len(entries) for entries in found.values())
    true_boxes = int(np.isin(truth.rows, list(found)).sum())
    return LabelQuality(
        precision=matched / max(boxes, 1),
        recall=matched / max(true_boxes, 1),
        tracklets=tracklet_quality(np.array(tracks, np.int64), np.array(people, np.int64)),
        wrong=wrong,
    )


def _matches(boxes: list, true: np.ndarray, min_iou: float = 0.5) -> dict[int, int]:
    """Box to true box, xywh both: the assignment with the largest sum of IoU."""
    if not len(boxes) or not len(true):
        return {}
    a, b = (np.array(v, np.float64) for v in (boxes, true))
    a[:, 2:] += a[:, :2]
    b[:, 2:] += b[:, :2]
    ious = paired_ious(np.repeat(a, len(b), axis=0), np.tile(b, (len(a), 1)))
    ious = ious.reshape(len(a), len(b))
    rows, columns = linear_sum_assignment(np.where(ious >= min_iou, ious, 0), maximize=True)
    return {r: c for r, c in zip(rows.tolist(), columns.tolist()) if ious[r, c] >= min_iou}


def describe_quality(quality: LabelQuality) -> str:
    """Lines for the report."""
    lines = [
        f"boxes against the truth: precision {quality.precision:.3f}, recall "
        f"{quality.recall:.3f} (IoU 0.5)"
    ]
    found = quality.tracklets
    if found.boxes:
        lines.append(
            f"tracklets: {found.tracklets} over {found.people} people, {found.boxes} boxes "
            f"({quality.wrong} more show nobody labelled); purity {found.purity:.3f}, pairs within "
            f"a tracklet that are right {found.pair_precision:.3f}, pairs of one person that are "
            f"linked {found.pair_recall:.3f}"
        )
    return "\n".join(lines) + "\n"
