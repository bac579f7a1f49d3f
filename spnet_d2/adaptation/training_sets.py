"""What a detector found in a user's footage, as data sets for pre-training, training and checking.

``N`` boxes, ``T`` people: tracklets, and boxes that none holds. Nobody knows which tracklets show
one person, so they are no identities to tell apart: training learns appearance, and the target of
all boxes of a tracklet is its mean embedding (``MODEL.SPNET.REID.LOSS distillation``).
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spnet_d2.data.formats.splits import Partition
from spnet_d2.data.own_sets import OwnSet, write_sets
from spnet_d2.data.person_search_json import write_person_search_json
from spnet_d2.data.tracklets import unit
from spnet_d2.errors import UserError
from spnet_d2.utils.atomic_io import atomic_path

logger = logging.getLogger(__name__)

WEAK, TRAIN, HELD_OUT = "own_weak", "own_train", "own_held_out"
FILES, TARGETS = "datasets.yaml", "targets.npz"
# Of each camera's images, the last ones; fewer say nothing about it.
HELD_OUT_SHARE = 0.1
_LEAST_IMAGES = 10


class TooLittleFootageError(UserError, ValueError):
    """Footage with too few images or people to learn from."""


def write_training_sets(
    partition: Partition, images: Path, targets: np.ndarray, folder: Path
) -> None:
    """
    Write three data sets and the embeddings to be learnt.

    Args:
        partition: of :func:`spnet_d2.search.autolabel.write_labels`, with tracklets.
        images: folder of its images.
        targets: (N, D) an embedding of each annotation.
        folder: gets one JSON per set, ``targets.npz``, and ``datasets.yaml`` last.

    Raises:
        TooLittleFootageError: fewer than 10 images, or nobody in those that are not held out.
    """
    if len(partition["images"]) < _LEAST_IMAGES:
        raise TooLittleFootageError(
            f"{len(partition['images'])} images are too few to adapt to: give at least "
            f"{_LEAST_IMAGES}, better some hundreds (--every takes fewer of a video's frames)."
        )
    held = held_out_images(partition["images"])
    annotations = partition["annotations"]
    kept = np.array([a["image_id"] not in held for a in annotations], bool)
    if not kept.any():
        raise TooLittleFootageError("Nobody was found in the images to train on.")
    people = np.array([a["person_id"] for a in annotations])
    training = [a for a, keep in zip(annotations, kept) if keep]
    scenes = [image for image in partition["images"] if image["id"] not in held]
    numbers, means = tracklet_means(people[kept], targets[kept])
    sets = {
        # As in COCOPersons, every box is a person of its own.
        WEAK: (scenes, _with_people(training, range(len(training)))),
        TRAIN: (scenes, _with_people(training, numbers.tolist())),
        HELD_OUT: _rest(partition, held),
    }
    for name, (entries, boxes) in sets.items():
        write_person_search_json(folder / f"{name}.json", entries, boxes)
    with atomic_path(folder / TARGETS) as part, open(part, "wb") as file:
        np.savez(file, embeddings=means.astype(np.float32))
    write_sets(folder / FILES, [OwnSet(name, folder / f"{name}.json", images) for name in sets])


def held_out_images(images: Sequence[Mapping[str, Any]]) -> set[int]:
    """Ids of the last tenth of each sequence's images, one image at least."""
    by_sequence: dict[str, list[int]] = {}
    for image in images:
        by_sequence.setdefault(image["sequence"], []).append(image["id"])
    held: set[int] = set()
    for ids in by_sequence.values():
        held.update(ids[-max(1, round(HELD_OUT_SHARE * len(ids))) :])
    return held


def tracklet_means(people: np.ndarray, embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Number people from 0 and average what they look like.

    Args:
        people: (N,) numbers.
        embeddings: (N, D), not zero.

    Returns:
        (N,) rows of (T, D) unit embeddings.
    """
    _, rows = np.unique(people, return_inverse=True)
    means = np.zeros((rows.max() + 1, embeddings.shape[1]))
    np.add.at(means, rows, unit(embeddings))
    return rows, unit(means)


def aligned(embeddings: np.ndarray, own: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """
    Turn another model's embeddings into the space of the model that will learn them.

    The turn (orthogonal Procrustes, Schönemann 1966) brings them as near to the model's own as can
    be, so that learning begins near its end. How alike two people are, relative to the mean of all,
    stays, if D <= E; else what lies in E dimensions of it.

    Args:
        embeddings: (N, D).
        own: (M, E) of the model that will learn, of some of the people.
        rows: (M,) which.

    Returns:
        (N, E), relative to their mean.
    """
    wanted = unit(embeddings)
    wanted = wanted - wanted.mean(axis=0)
    there = unit(own)
    there = there - there.mean(axis=0)
    u, _, v = np.linalg.svd(wanted[rows].T @ there, full_matrices=False)
    turned: np.ndarray = wanted @ (u @ v)
    return turned


def _with_people(annotations: Sequence[Mapping], people: Sequence[int]) -> list[dict]:
    return [
        {**annotation, "person_id": int(person), "is_known": True}
        for annotation, person in zip(annotations, people, strict=True)
    ]


def _rest(partition: Partition, held: set[int]) -> tuple[list[dict], list[dict]]:
    images = [image for image in partition["images"] if image["id"] in held]
    return images, [a for a in partition["annotations"] if a["image_id"] in held]
