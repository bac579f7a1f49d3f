"""Synthetic person-search corpora of given sizes with their predictions, as files to evaluate."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spnet_d2.data.geometry import xywh_to_xyxy
from spnet_d2.data.person_search_json import write_person_search_json, write_protocol
from spnet_d2.data.person_search_schema import make_annotation

IMAGE_SIZE = (1920, 1080)
CHUNK_ROWS = 8192


@dataclass(frozen=True)
class Case:
    """Size of a corpus; ``gallery`` images are listed per query, 0: all others are searched."""

    images: int
    people: int
    gt_boxes: int
    detections: int
    queries: int
    gallery: int = 0
    size: int = 2048


def scaled(case: Case, factor: float) -> Case:
    """The case with a share of its images, boxes and queries."""

    def share(count: int) -> int:
        return max(1, round(factor * count))

    images, people = share(case.images), share(case.people)
    gt_boxes, detections = share(case.gt_boxes), share(case.detections)
    gallery = min(case.gallery, images - 1)
    return Case(images, people, gt_boxes, detections, share(case.queries), gallery, case.size)


def disk_bytes(case: Case) -> int:
    """What the files of a case take, about: float32 embeddings and half a KiB of JSON per box."""
    boxes = case.detections + case.gt_boxes
    return boxes * (4 * case.size + 512) + 8 * case.queries * case.gallery


def write_case(case: Case, folder: Path) -> list[str]:
    """Write a corpus; returns the arguments of tools/evaluate.py that score it."""
    rng = np.random.default_rng(0)
    image = np.sort(rng.integers(0, case.images, case.gt_boxes))
    # Half of the boxes show known people, each in several images; the others are unknown.
    known = rng.random(case.gt_boxes) < 0.5
    person = np.where(
        known, rng.integers(0, case.people, case.gt_boxes), case.people + np.arange(case.gt_boxes)
    )
    corner = rng.uniform(0, 1, (case.gt_boxes, 2)) * (np.array(IMAGE_SIZE) - (150, 400))
    boxes = np.hstack([corner, rng.uniform((40, 100), (150, 400), (case.gt_boxes, 2))]).round(1)
    _write_annotations(folder / "annotations.json", case, image, person, known, boxes)
    queries = _queries(case, rng, image, person, known)
    write_protocol(folder / "protocol.json", range(case.images), queries)

    # Detections: every ground-truth box in turn until there are enough. One in ten, and all from
    # the second turn on, are far away.
    of_box = np.arange(case.detections) % case.gt_boxes
    near = (np.arange(case.detections) < case.gt_boxes) & (rng.random(case.detections) < 0.9)
    shift = np.where(near, 5, 300)[:, None]
    detected = boxes[of_box]
    detected[:, :2] += rng.normal(0, 1, (case.detections, 2)) * shift
    detected = xywh_to_xyxy(detected)
    centres = rng.standard_normal((case.people, case.size), np.float32)
    detected_person = np.where(near, person[of_box], case.people)
    with zipfile.ZipFile(folder / "predictions.npz", "w") as archive:
        arrays: dict[str, np.ndarray] = {
            "image_ids": image[of_box],
            "boxes": detected.astype(np.float32),
            "scores": rng.uniform(0.5, 1, case.detections).astype(np.float32),
            "gt_annotation_ids": np.arange(case.gt_boxes),
        }
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array)
        for name, people in ("embeddings", detected_person), ("gt_embeddings", person):
            _write_embeddings(archive, name, people, centres, rng)
    names = ("annotations", "protocol", "predictions")
    files = (folder / "annotations.json", folder / "protocol.json", folder / "predictions.npz")
    return [word for name, file in zip(names, files) for word in (f"--{name}", str(file))]


def _write_annotations(path: Path, case: Case, image, person, known, boxes) -> None:
    width, height = IMAGE_SIZE
    columns = (image.tolist(), boxes.tolist(), person.tolist(), known.tolist())
    write_person_search_json(
        path,
        [
            {"id": i, "file_name": f"{i}.jpg", "width": width, "height": height}
            for i in range(case.images)
        ],
        [make_annotation(number, *columns) for number, columns in enumerate(zip(*columns))],
    )


def _queries(case: Case, rng, image, person, known) -> dict[int, list[int]] | list[int]:
    """Queries of a protocol, with a gallery for each if the case lists them."""
    queries = rng.permutation(np.flatnonzero(known))[: case.queries]
    if not case.gallery:
        return queries.tolist()
    order = np.argsort(person, kind="stable")
    starts = np.searchsorted(person[order], np.arange(case.people + 1))
    galleries = {}
    for query in queries.tolist():
        of_person = image[order[starts[person[query]] : starts[person[query] + 1]]]
        of_person = np.setdiff1d(of_person, image[query])[: case.gallery]
        others = rng.permutation(case.images)
        others = others[~np.isin(others, of_person) & (others != image[query])]
        galleries[query] = [*of_person.tolist(), *others[: case.gallery - len(of_person)].tolist()]
    return galleries


def _write_embeddings(archive, name: str, people: np.ndarray, centres: np.ndarray, rng) -> None:
    """Noise around the centre of each known person, chunk by chunk."""
    shape = (len(people), centres.shape[1])
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(people), CHUNK_ROWS):
            chunk = people[start : start + CHUNK_ROWS]
            vectors = 4 * rng.standard_normal((len(chunk), shape[1]), np.float32)
            has_centre = chunk < len(centres)
            vectors[has_centre] += centres[chunk[has_centre]]
            file.write(vectors)
