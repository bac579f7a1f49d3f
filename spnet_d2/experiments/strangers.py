"""Data of the study on strangers: scenes with boxes to pre-train on, and people to fine-tune on."""

from collections.abc import Mapping
from pathlib import Path

import cv2

from spnet_d2.data.formats.pets09_weak import without_identities
from spnet_d2.data.formats.splits import Partition
from spnet_d2.data.own_sets import OwnSet, write_sets
from spnet_d2.data.person_search_json import write_person_search_json
from spnet_d2.data.person_search_schema import make_annotation
from spnet_d2.errors import UserError
from spnet_d2.experiments.pretraining_grid import LABELS
from spnet_d2.starter.training_set import annotated_scenes
from spnet_d2.utils.atomic_io import write_image

FILES = "datasets.yaml"
_LONGEST = 640


class StrangersError(UserError, ValueError):
    """A folder that holds no such data set."""


def write_strangers(folder: Path, scenes: Mapping[str, Path], people: Path) -> None:
    """
    Write images, one JSON per share of labels, and ``datasets.yaml`` last.

    Args:
        folder: for all of it.
        scenes: folders with ``annotations.json`` and ``images``, to pre-train on, by name.
        people: one with identities, and ``retrieval/later.json``, to fine-tune and evaluate on.

    Raises:
        StrangersError: a folder lacks one of these.
    """
    for place in (*scenes.values(), people):
        for needed in ("annotations.json", "images"):
            if not (place / needed).exists():
                raise StrangersError(f"No {needed} in {place}; datasets/README.md describes both.")
    if not (people / "retrieval" / "later.json").is_file():
        raise StrangersError(
            f"No retrieval/later.json in {people}: datasets/convert.py --protocol later makes one."
        )
    part: Partition = {"images": [], "annotations": []}
    for name, place in scenes.items():
        _add(part, name, place, folder / "images")
    sets = []
    for key, partition in without_identities(part).items():
        label = key.removeprefix("weak_train")
        if label in ("", *(f"_p{percent}" for percent in LABELS if percent != 100)):
            file = folder / f"strangers_weak{label}.json"
            write_person_search_json(file, partition["images"], partition["annotations"])
            sets.append(OwnSet(f"strangers_weak{label}", file, folder / "images"))
    protocols = {"later": people / "retrieval" / "later.json"}
    sets.append(OwnSet("mot15_people", people / "annotations.json", people / "images", protocols))
    write_sets(folder / FILES, sets)


def _add(part: Partition, name: str, place: Path, images: Path) -> None:
    for scene in annotated_scenes(place / "annotations.json", place / "images", longest=_LONGEST):
        number = len(part["images"])
        file = f"{name}_{number:05d}.jpg"
        write_image(images / file, scene.image, [cv2.IMWRITE_JPEG_QUALITY, 93])
        height, width = scene.image.shape[:2]
        part["images"].append(
            {
                "id": number,
                "file_name": file,
                "width": width,
                "height": height,
                "cam_id": -1,
                "ignore_regions": scene.ignore.tolist(),
            }
        )
        for box in scene.boxes.tolist():
            count = len(part["annotations"])
            entry = make_annotation(count, number, box, count, True)
            part["annotations"].append({**entry, "visibility": 1.0})
