"""Missing and spurious person labels: the training partitions of the annotation-noise ablation.

Both families start from the images with at least two people (s images, t annotations), which is
also ``train_p100``. Missing labels keep ceil(f t) annotations for f = 80, 60, 40, 20 %; spurious
labels add floor(0.2 t) boxes per step up to 180 %. Every partition contains the one before it (or
is contained in it), so only the labels differ from step to step.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from spnet_d2.data.formats.splits import Partition, subset

KEPT_PERCENT = (80, 60, 40, 20)
ADDED_PERCENT = 20
ADDED_ROUNDS = 4


class FewPersonsError(ValueError):
    """Too few people per image to keep one in every image."""


def several_persons(partition: Partition) -> Partition:
    """The images with at least two annotations."""
    people = Counter(entry["image_id"] for entry in partition["annotations"])
    return subset(partition, [image for image, count in people.items() if count >= 2])


def missing_labels(partition: Partition, seed: int = 0) -> dict[str, Partition]:
    """Remove annotations at random in nested steps; every image keeps at least one.

    Args:
        partition: all training images.
        seed: of NumPy's generator.

    Returns:
        ``train_p100, train_p80, train_p60, train_p40, train_p20``.

    Raises:
        FewPersonsError: if keeping one annotation per image keeps more than the smallest step.
    """
    rng = np.random.RandomState(seed)
    base = several_persons(partition)
    total, singles = len(base["annotations"]), len(base["images"])
    if -(-total * KEPT_PERCENT[-1] // 100) < singles:
        raise FewPersonsError(
            f"{singles} images with several people share {total} annotations; the smallest noise "
            f"partition needs {100 // KEPT_PERCENT[-1]} per image on average"
        )
    people: dict[int, list[int]] = {image["id"]: [] for image in base["images"]}
    for entry in base["annotations"]:
        people[entry["image_id"]].append(entry["id"])
    fixed = [ids[rng.randint(len(ids))] for ids in people.values()]
    protected = set(fixed)
    removable = [entry["id"] for entry in base["annotations"] if entry["id"] not in protected]

    partitions = {"train_p100": base}
    for percent in KEPT_PERCENT:
        rng.shuffle(removable)
        removable = removable[: -(-total * percent // 100) - singles]
        kept = protected.union(removable)
        annotations = [entry for entry in base["annotations"] if entry["id"] in kept]
        partitions[f"train_p{percent}"] = {"images": base["images"], "annotations": annotations}
    return partitions


def spurious_labels(partition: Partition, seed: int = 0) -> dict[str, Partition]:
    """Add boxes where no one was annotated, in nested steps.

    A box has place, size and shape, relative to its image, of a random annotation of the whole
    partition. New ids follow the highest annotation id, so that no spurious box has the id of
    a real one.

    Args:
        partition: all training images.
        seed: of NumPy's generator.

    Returns:
        ``train_p120, train_p140, train_p160, train_p180``.
    """
    rng = np.random.RandomState(seed)
    base = several_persons(partition)
    shapes = relative_boxes(partition)
    added = len(base["annotations"]) * ADDED_PERCENT // 100
    next_id = max((entry["id"] for entry in partition["annotations"]), default=-1) + 1

    partitions, annotations = {}, base["annotations"]
    for step in range(1, ADDED_ROUNDS + 1):
        annotations = annotations + _random_boxes(rng, base["images"], shapes, added, next_id)
        next_id += added
        percent = 100 + step * ADDED_PERCENT
        partitions[f"train_p{percent}"] = {"images": base["images"], "annotations": annotations}
    return partitions


def relative_boxes(partition: Partition) -> np.ndarray:
    """All boxes (n, 4) x, y, w, h as shares of their image's width and height."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in partition["images"]}
    boxes = np.array([entry["bbox"] for entry in partition["annotations"]], dtype=np.float64)
    scale = np.array([sizes[e["image_id"]] for e in partition["annotations"]], dtype=np.float64)
    return boxes.reshape(-1, 4) / np.tile(scale.reshape(-1, 2), 2)


def _random_boxes(
    rng: np.random.RandomState,
    images: Sequence[dict[str, Any]],
    shapes: np.ndarray,
    count: int,
    first_id: int,
) -> list[dict[str, Any]]:
    if not count:
        return []
    chosen = rng.randint(len(images), size=count)
    boxes = shapes[rng.randint(len(shapes), size=count)]
    sizes = np.array([(image["width"], image["height"]) for image in images], dtype=np.float64)
    boxes = boxes * np.tile(sizes[chosen], 2)
    return [
        {
            "id": number,
            "image_id": images[row]["id"],
            "category_id": 1,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            "person_id": number,
            "is_known": True,
            "iou_thresh": 0.5,
        }
        for number, row, box in zip(
            range(first_id, first_id + count), chosen.tolist(), boxes.tolist()
        )
    ]
