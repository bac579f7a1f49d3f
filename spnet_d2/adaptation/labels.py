"""Label a user's footage: boxes of a detector, tracklets, and what everybody looks like."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from spnet_d2.data.formats.splits import Partition
from spnet_d2.data.geometry import xywh_to_xyxy
from spnet_d2.data.own_sets import read_sets
from spnet_d2.data.tracklets import LinkRules
from spnet_d2.search import PersonSearchPredictor, read_image_bgr
from spnet_d2.search.autolabel import DATA_SETS, Choices, find_people, write_labels
from spnet_d2.search.two_stage import NetworkDetector, ReidModel, TwoStagePredictor

from .training_sets import aligned

# Images whose people the starter weights embed, too, to bring both spaces together.
_ALIGNING = 150


class SpnetDetector:
    """An SPNet's boxes for :class:`TwoStagePredictor`, whose re-id model embeds them."""

    def __init__(self, predictor: PersonSearchPredictor, min_score: float):
        self.predictor, self.min_score = predictor, min_score
        self.settings = {"spnet": predictor.fingerprint}

    def detect(self, image: np.ndarray, image_format: str) -> tuple[np.ndarray, np.ndarray]:
        (people,) = self.predictor.detect([image])
        keep = people.scores >= self.min_score
        return people.boxes[keep], people.scores[keep]


class SpnetEmbedder:
    """An SPNet's embeddings for :class:`TwoStagePredictor`, whose detector finds people."""

    def __init__(self, predictor: PersonSearchPredictor):
        self.predictor = predictor
        self.embedding_dim = predictor.embedding_dim
        self.settings = {"spnet": predictor.fingerprint}

    def embed(self, image: np.ndarray, boxes: np.ndarray, image_format: str) -> np.ndarray:
        return self.predictor.embed(image, boxes)


@dataclass(frozen=True, eq=False)
class LabelledFootage:
    """
    Attributes:
        partition: images and boxes; ``person_id`` is that of the tracklet.
        images: their folder.
        targets: (N, D) what each box looks like, in the starter weights' own space.
        report: for people.
    """

    partition: Partition
    images: Path
    targets: np.ndarray
    report: str


def label_footage(
    sources: Sequence[str],
    folder: Path,
    starter: PersonSearchPredictor,
    detector: NetworkDetector | None,
    reid: ReidModel | None,
    every: int,
    min_score: float,
) -> LabelledFootage:
    """
    Find everyone, link them, and embed them.

    Args:
        sources: folders and videos, a camera each.
        folder: for frames, labels and a preview; what was found is kept there, so that a second
            call goes on where one was stopped.
        starter: finds and embeds people where no other model does.
        detector: another one that finds people.
        reid: another one that embeds them.
        every: take each N-th frame.
        min_score: of a detection.

    Raises:
        UserError: nobody was found, or a source can't be read.
    """
    predictor: Any = starter
    if detector or reid:
        found = detector or SpnetDetector(starter, min_score)
        predictor = TwoStagePredictor(found, reid or SpnetEmbedder(starter))  # type: ignore[arg-type]
    galleries, names = find_people(predictor, sources, folder, every, min_score)
    partition, report = write_labels(
        galleries, names, folder, "labelled", Choices(tracklets=LinkRules(reach=0.5))
    )
    (entry,) = read_sets(folder / DATA_SETS)
    # Boxes are written in the order in which they were found.
    targets = np.concatenate([gallery.embeddings for gallery in galleries])
    if reid is not None:
        rows, own = _own_embeddings(starter, partition, entry.images)
        targets = aligned(targets, own, rows)
    return LabelledFootage(partition, entry.images, targets, report)


def _own_embeddings(
    starter: PersonSearchPredictor, partition: Partition, images: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of annotations, and the starter weights' embeddings of these people."""
    boxes: dict[int, list[int]] = {}
    for row, annotation in enumerate(partition["annotations"]):
        boxes.setdefault(annotation["image_id"], []).append(row)
    chosen = [entry for entry in partition["images"] if entry["id"] in boxes]
    chosen = chosen[:: -(-len(chosen) // _ALIGNING)]
    rows: list[int] = []
    parts = []
    for entry in tqdm(chosen, desc="the starter weights' embeddings", unit="image"):
        here = boxes[entry["id"]]
        given = xywh_to_xyxy([partition["annotations"][row]["bbox"] for row in here])
        parts.append(starter.embed(read_image_bgr(images / entry["file_name"]), given))
        rows += here
    return np.array(rows), np.concatenate(parts)
