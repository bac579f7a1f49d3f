"""What a conversion writes: JSONs, protocol, preview, report, and the names of the data sets."""

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from spnet_d2.data.formats.convert.build import Tally
from spnet_d2.data.formats.convert.preview import draw_preview
from spnet_d2.data.formats.convert.source import Source, SourceError
from spnet_d2.data.formats.splits import Partition
from spnet_d2.data.own_images import write_own_image
from spnet_d2.data.own_sets import OwnSet, write_sets
from spnet_d2.data.person_search_json import (
    Protocol,
    load_person_search_table,
    load_protocol,
    write_person_search_json,
    write_protocol,
)
from spnet_d2.data.video_reader import VideoReader
from spnet_d2.utils.atomic_io import atomic_path, write_image, write_text

DATA_SETS = "datasets.yaml"
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class Conversion:
    """
    Everything to write.

    Attributes:
        source: what was read.
        partitions: by name: "annotations", and "train" and "test" if there is a split.
        tally: what became of the source.
        protocol_name, protocol: None: there is none. It belongs to "test", else "annotations".
        copy_images: put the images into the output folder, too.
        info: COCO's free-form ``info``.
    """

    source: Source
    partitions: Mapping[str, Partition]
    tally: Tally
    protocol_name: str = ""
    protocol: Protocol | None = None
    copy_images: bool = False
    info: Mapping[str, str] = field(default_factory=dict)


def write_conversion(conversion: Conversion, folder: Path, name: str) -> str:
    """
    Write all files below ``folder``, load the JSONs again, and return the report.

    Args:
        conversion: what to write.
        folder: made if needed; files of an earlier conversion are replaced.
        name: of the data set; parts get ``_train`` and ``_test``.

    Raises:
        SourceError: a video lacks frames.
        OSError: something can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole = conversion.partitions["annotations"]
    root = _images(conversion, folder, whole)
    protocol_file = folder / "retrieval" / f"{conversion.protocol_name}.json"
    if conversion.protocol is not None:
        write_protocol(protocol_file, conversion.protocol.images, conversion.protocol.queries)
        load_protocol(protocol_file)
    sets = []
    for part, partition in conversion.partitions.items():
        file = folder / f"{part}.json"
        write_person_search_json(
            file, partition["images"], partition["annotations"], info=conversion.info
        )
        load_person_search_table(file)
        searched = part == ("test" if "test" in conversion.partitions else "annotations")
        protocols = {}
        if searched and conversion.protocol is not None:
            protocols = {conversion.protocol_name: protocol_file}
        sets.append(
            OwnSet(name if part == "annotations" else f"{name}_{part}", file, root, protocols)
        )
    write_own_image(folder / "preview.jpg", draw_preview(whole, root))
    write_sets(folder / DATA_SETS, sets)
    text = report(conversion, root) + _how_to_use(sets, folder)
    write_text(folder / "report.txt", text)
    return text


def _images(conversion: Conversion, folder: Path, partition: Partition) -> Path:
    """The folder of the images; frames of a video are taken out of it."""
    root = conversion.source.root
    if root.is_file():
        _extract(
            root, {image["frame"]: image["file_name"] for image in partition["images"]}, folder
        )
        return folder / "images"
    if not conversion.copy_images:
        return root
    for image in partition["images"]:
        with atomic_path(folder / "images" / image["file_name"]) as part:
            shutil.copyfile(root / image["file_name"], part)
    return folder / "images"


def _extract(video: Path, names: Mapping[int, str], folder: Path) -> None:
    written = 0
    for frame in VideoReader(video).frames(names.__contains__):
        # 1 is IMWRITE_JPEG_QUALITY.
        write_image(folder / "images" / names[frame.number], frame.image, [1, _JPEG_QUALITY])
        written += 1
        if written == len(names):
            return
    raise SourceError(f"{video}: only {written} of the {len(names)} frames could be read.")


def report(conversion: Conversion, root: Path) -> str:
    """What was kept, what was left out and why."""
    tally, whole = conversion.tally, conversion.partitions["annotations"]
    lines = [
        *(f"{part}: {_counts(partition)}" for part, partition in conversion.partitions.items()),
        f"images: in {root}",
        f"people: class {', '.join(tally.classes)}",
    ]
    sequences = Counter(image["sequence"] for image in whole["images"] if "sequence" in image)
    cameras = {image.get("sequence"): image["cam_id"] for image in whole["images"]}
    lines += [
        f"  {name}: {count} images, camera {cameras[name]}" for name, count in sequences.items()
    ]
    lines += _section("ignore regions", tally.regions)
    lines += _section("left out, boxes", tally.dropped)
    lines += _section("left out, images", tally.images)
    lines += [f"note: {note}" for note in tally.notes]
    if conversion.protocol is not None:
        lines.append(
            f"protocol {conversion.protocol_name}: {len(conversion.protocol.queries)} queries, "
            f"{len(conversion.protocol.images)} images"
        )
    return "\n".join(lines) + "\n"


def _counts(partition: Partition) -> str:
    boxes = partition["annotations"]
    known = {entry["person_id"] for entry in boxes if entry["is_known"]}
    unknown = sum(not entry["is_known"] for entry in boxes)
    with_boxes = len({entry["image_id"] for entry in boxes})
    regions = sum(len(image.get("ignore_regions", [])) for image in partition["images"])
    return (
        f"{len(partition['images'])} images ({with_boxes} with people), {len(boxes)} boxes, "
        f"{len(known)} known people, {unknown} boxes of unknown people, {regions} ignore regions"
    )


def _section(title: str, counts: Counter) -> list[str]:
    counts = +counts
    if not counts:
        return [f"{title}: none"]
    rows = [f"  {count:>8}  {reason}" for reason, count in counts.most_common()]
    return [f"{title}: {counts.total()}", *rows]


def _how_to_use(sets: list[OwnSet], folder: Path) -> str:
    names = ", ".join(entry.name for entry in sets)
    return f"data sets: {names}\nuse them with: DATASETS.FILES {folder / DATA_SETS}\n"
