"""From what a reader found to a partition: who is who, what is ignored, what is left out."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from spnet_d2.data.formats.convert.classes import choose_classes
from spnet_d2.data.formats.convert.source import Source, SourceBox, SourceError, SourceImage
from spnet_d2.data.formats.splits import Partition
from spnet_d2.data.person_search_schema import make_annotation

TRACK, LABEL, NOBODY = "track", "label", "none"


@dataclass(frozen=True)
class Choices:
    """
    What a user decides about a data set.

    Attributes:
        persons: classes that are people, by name or id; empty: the obvious one.
        ignored: classes whose boxes become ignore regions.
        identity: what tells people apart: "track" (where the file has tracks), "label" (each class
            is one person), "none", or the name of an attribute.
        shared_ids: the same track number in two sequences is the same person.
        min_visibility, min_height: boxes below (a share; pixels) become ignore regions.
        step: keep every n-th frame of each sequence.
        drop_empty: leave out images without a person.
    """

    persons: Sequence[str] = ()
    ignored: Sequence[str] = ()
    identity: str = TRACK
    shared_ids: bool = False
    min_visibility: float = 0.0
    min_height: float = 0.0
    step: int = 1
    drop_empty: bool = False


@dataclass
class Tally:
    """What became of everything, by reason."""

    images: Counter = field(default_factory=Counter)
    regions: Counter = field(default_factory=Counter)
    dropped: Counter = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)


def build_partition(source: Source, choices: Choices) -> tuple[Partition, Tally]:
    """
    Build the person-search JSON's entries.

    Known people are numbered from 1 in the order of their first box, unknown ones after them.
    Beside the usual fields an image has ``sequence``, ``frame`` and ``time`` (seconds) where they
    are known, an annotation ``track_id`` and ``visibility``.

    Raises:
        SourceError: no clear class, an attribute that nothing has, or nobody is left.
    """
    people, ignored = choose_classes(source, choices.persons, choices.ignored)
    tally = Tally(dropped=source.dropped.copy(), notes=list(source.notes))
    tally.classes = [source.classes.get(key, key) for key in sorted(people)]
    _check_attribute(source, choices.identity)
    images: list[dict] = []
    boxes: list = []
    cameras = {name: number for number, name in enumerate(_cameras(source.images))}
    for image in _every_nth_frame(source.images, choices.step, tally):
        kept, regions = [], []
        reasons: Counter[str] = Counter()
        for box in image.boxes:
            reason = _unusable(box, image)
            if reason:
                tally.dropped[reason] += 1
            elif box.class_id not in people | ignored:
                tally.dropped[f"class {source.classes.get(box.class_id, box.class_id)}"] += 1
            elif reason := _ignored(box, source, people, choices):
                regions.append([float(value) for value in box.bbox])
                reasons[reason] += 1
            else:
                kept.append(box)
        if choices.drop_empty and not kept:
            tally.images["without a person (--drop-empty)"] += 1
            continue
        tally.regions += reasons
        images.append(_image_entry(len(images), image, regions, cameras, source))
        boxes += [(box, image, len(images) - 1) for box in kept]
    if not boxes:
        left = [f"{count} {name}" for name, count in (tally.dropped + tally.regions).items()]
        raise SourceError(
            f"No box of a person is left (people: {', '.join(tally.classes)}): "
            f"{'; '.join(left) or 'the files have none'}."
        )
    annotations = _annotations(boxes, source, choices)
    return {"images": images, "annotations": annotations}, tally


def _cameras(images: list[SourceImage]) -> list[str]:
    names = {_camera(image) for image in images} - {""}
    # Numbers in their own order.
    return sorted(names, key=lambda name: (0, int(name), "") if name.isdecimal() else (1, 0, name))


def _camera(image: SourceImage) -> str:
    return image.sequence if image.camera is None else image.camera


def _check_attribute(source: Source, identity: str) -> None:
    if identity in (TRACK, LABEL, NOBODY):
        return
    names = Counter(
        name for image in source.images for box in image.boxes for name in box.attributes
    )
    if identity not in names:
        raise SourceError(
            f"--identity {identity}: no box has such an attribute; there are: "
            f"{', '.join(sorted(names)) or 'none'} (or {TRACK}, {LABEL}, {NOBODY})."
        )


def _every_nth_frame(images: list[SourceImage], step: int, tally: Tally) -> list[SourceImage]:
    if step == 1:
        return images
    seen: Counter = Counter()
    kept = []
    for image in images:
        if seen[image.sequence] % step == 0:
            kept.append(image)
        seen[image.sequence] += 1
    tally.images[f"between every {step}th frame (--step)"] = len(images) - len(kept)
    return kept


def _unusable(box: SourceBox, image: SourceImage) -> str:
    x, y, width, height = box.bbox
    if not all(map(math.isfinite, box.bbox)) or width <= 0 or height <= 0:
        return "empty box"
    inside = x < image.width and y < image.height and x + width > 0 and y + height > 0
    return "" if inside else "outside the image"


def _ignored(box: SourceBox, source: Source, people: set[str], choices: Choices) -> str:
    """Why a box becomes an ignore region, "" if it doesn't."""
    if box.class_id not in people:
        return f"class {source.classes.get(box.class_id, box.class_id)}"
    if box.ignore:
        return box.ignore
    if box.visibility is not None and box.visibility < choices.min_visibility:
        return f"less than {choices.min_visibility:g} visible (--min-visibility)"
    if box.bbox[3] < choices.min_height:
        return f"less than {choices.min_height:g} pixels high (--min-height)"
    return ""


def _image_entry(
    image_id: int, image: SourceImage, regions: list, cameras: dict[str, int], source: Source
) -> dict:
    entry = {
        "id": image_id,
        "file_name": image.file_name,
        "width": image.width,
        "height": image.height,
        "cam_id": cameras.get(_camera(image), -1),
    }
    if image.sequence:
        entry["sequence"] = image.sequence
    if image.frame is not None:
        entry["frame"] = image.frame
        if fps := source.fps.get(image.sequence):
            entry["time"] = round(image.frame / fps, 6)
    if regions:
        entry["ignore_regions"] = regions
    return entry


def _identity(
    box: SourceBox, image: SourceImage, source: Source, choices: Choices
) -> Hashable | None:
    if choices.identity == TRACK:
        scope = "" if choices.shared_ids else image.sequence
        return None if box.track is None else (scope, box.track)
    if choices.identity == LABEL:
        return source.classes[box.class_id]
    if choices.identity == NOBODY:
        return None
    return box.attributes.get(choices.identity) or None


def _annotations(
    boxes: list[tuple[SourceBox, SourceImage, int]], source: Source, choices: Choices
) -> list[dict]:
    identities = [_identity(box, image, source, choices) for box, image, _ in boxes]
    known = dict.fromkeys(identity for identity in identities if identity is not None)
    number_of = {identity: number for number, identity in enumerate(known, 1)}
    unknown = len(number_of)
    entries: list[dict] = []
    for (box, _, image_id), identity in zip(boxes, identities):
        person_id = number_of.get(identity)
        if person_id is None:
            unknown += 1
            person_id = unknown
        entry = make_annotation(len(entries), image_id, box.bbox, person_id, identity is not None)
        if box.track is not None:
            entry["track_id"] = int(box.track) if box.track.isdecimal() else box.track
        if box.visibility is not None:
            entry["visibility"] = box.visibility
        entries.append(entry)
    return entries
