"""Ground truth of a data set as flat arrays."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from spnet_d2.data.geometry import xywh_to_xyxy
from spnet_d2.data.person_search_json import EMPTY, PersonSearchTable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroundTruth:
    """Images, person boxes and ignore regions of one data set.

    Boxes are xyxy pixels of the original image, ordered by image, then as annotated. "Number of
    an image" is its index in ``image_ids``, "number of a box" its index in ``boxes``.

    Attributes:
        image_ids: (I,) int64, ascending.
        annotation_ids: (G,) int64, unique.
        image_index: (G,) number of each box's image, ascending.
        boxes: (G, 4) float64.
        person_index: (G,) 0 .. P-1; equal numbers are the same person.
        iou_thresh: (G,) float64, IoU from which a detection counts as this box in
            retrieval: min(0.5, wh / ((w + 10)(h + 10))) in CUHK-SYSU and PRW.
        ignore_boxes: (R, 4) float64, regions whose people are not annotated.
        ignore_image_index: (R,) number of each region's image.
        empty_annotation_ids: (E,) annotations that are no boxes here, since nothing of
            theirs is inside the image.
    """

    image_ids: np.ndarray
    annotation_ids: np.ndarray
    image_index: np.ndarray
    boxes: np.ndarray
    person_index: np.ndarray
    iou_thresh: np.ndarray
    ignore_boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    ignore_image_index: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    empty_annotation_ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def from_dicts(cls, dataset_dicts: list[dict]) -> "GroundTruth":
        """Read Detectron2 dataset dicts of a person-search data set.

        Args:
            dataset_dicts: with ``image_id``, ``annotations`` (``annotation_id``,
                ``bbox`` xywh, ``person_id``, ``iou_thresh``) and, if any, ``ignore_regions`` xywh.

        Raises:
            ValueError: an image id or annotation id occurs twice, or a key is missing.
        """
        _check_keys(dataset_dicts)
        dicts = sorted(dataset_dicts, key=lambda d: d["image_id"])
        annotations = [a for d in dicts for a in d["annotations"]]
        regions = [list(d.get("ignore_regions", ())) for d in dicts]
        truth = cls(
            image_ids=np.array([d["image_id"] for d in dicts], np.int64),
            annotation_ids=np.array([a["annotation_id"] for a in annotations], np.int64),
            image_index=_owners([len(d["annotations"]) for d in dicts]),
            boxes=xywh_to_xyxy([a["bbox"] for a in annotations]),
            person_index=np.unique(
                np.array([a["person_id"] for a in annotations], np.int64), return_inverse=True
            )[1],
            iou_thresh=np.array([a["iou_thresh"] for a in annotations], np.float64),
            ignore_boxes=xywh_to_xyxy([box for boxes in regions for box in boxes]),
            ignore_image_index=_owners([len(boxes) for boxes in regions]),
            empty_annotation_ids=_ids(d.get(EMPTY, ()) for d in dicts),
        )
        _check_unique(truth.image_ids, "image id")
        _check_unique(truth.annotation_ids, "annotation id")
        return truth

    @classmethod
    def from_table(cls, table: PersonSearchTable) -> "GroundTruth":
        """Read a person-search file's columns; equal to :meth:`from_dicts` of its dicts."""
        order = np.argsort(table.rows, kind="stable")
        annotations = [table.annotations[place] for place in order.tolist()]
        regions = [entry.get("ignore_regions", ()) for entry in table.images]
        return cls(
            image_ids=np.array([entry["id"] for entry in table.images], np.int64),
            annotation_ids=np.array([entry["id"] for entry in annotations], np.int64),
            image_index=table.rows[order],
            boxes=xywh_to_xyxy(table.boxes[order]),
            person_index=np.unique(table.person_ids[order], return_inverse=True)[1],
            iou_thresh=np.array([entry["iou_thresh"] for entry in annotations], np.float64),
            ignore_boxes=xywh_to_xyxy([box for boxes in regions for box in boxes]),
            ignore_image_index=_owners([len(boxes) for boxes in regions]),
            empty_annotation_ids=_ids(table.empty.values()),
        )

    @property
    def num_images(self) -> int:
        return len(self.image_ids)

    @property
    def num_persons(self) -> int:
        return int(self.person_index.max()) + 1 if len(self.person_index) else 0

    def find_images(self, image_ids: np.ndarray, whose: str) -> np.ndarray:
        """Numbers of images given by id; ``whose`` says in the error who named them."""
        return _find(self.image_ids, None, image_ids, f"{whose}: image ids")

    def find_annotations(self, annotation_ids: np.ndarray, whose: str) -> np.ndarray:
        """Numbers of boxes given by annotation id; ``whose`` as in :meth:`find_images`."""
        order = self._annotation_order
        return _find(self.annotation_ids, order, annotation_ids, f"{whose}: annotation ids")

    def not_empty(self, annotation_ids: np.ndarray, whose: str) -> np.ndarray:
        """
        (n,) bool: which annotations are no empty boxes; a warning counts those that are.

        Args:
            annotation_ids: (n,) ids.
            whose: who named them, for the warning.
        """
        kept = ~np.isin(annotation_ids, self.empty_annotation_ids)
        empty = np.unique(annotation_ids[~kept])
        if len(empty):
            logger.warning(
                "%s: %d annotations are left out, since nothing of their boxes is inside the "
                "image: %s%s.",
                whose,
                len(empty),
                ", ".join(map(str, empty[:5])),
                ", ..." if len(empty) > 5 else "",
            )
        return kept

    @cached_property
    def first_boxes(self) -> np.ndarray:
        """(F,) number of the first box of each (person, image), ordered by person, then image.

        Protocols look at one box only if a person is annotated twice in an image.
        """
        key = self.person_index * self.num_images + self.image_index
        return np.unique(key, return_index=True)[1]

    @cached_property
    def person_starts(self) -> np.ndarray:
        """(P + 1,) where the entries of each person start in ``first_boxes``."""
        persons = self.person_index[self.first_boxes]
        return np.searchsorted(persons, np.arange(self.num_persons + 1))

    @cached_property
    def _annotation_order(self) -> np.ndarray:
        return np.argsort(self.annotation_ids, kind="stable")


def _find(known: np.ndarray, order: np.ndarray | None, wanted: np.ndarray, what: str) -> np.ndarray:
    """Index in ``known`` of each wanted id; ``order`` sorts ``known`` (None: sorted already)."""
    wanted = np.asarray(wanted, np.int64)
    place = np.searchsorted(known, wanted, sorter=order)
    found = place < len(known)
    index = place[found] if order is None else order[place[found]]
    found[found] = known[index] == wanted[found]
    if not found.all():
        unknown = np.unique(wanted[~found])
        raise ValueError(
            f"{what} must be in the data set's annotations ({len(known)} there), but "
            f"{len(unknown)} are not: {', '.join(map(str, unknown[:5]))}"
            f"{', ...' if len(unknown) > 5 else ''}. "
            "Check that data set, protocol and predictions belong to each other."
        )
    return index


def _owners(counts: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), np.array(counts, np.int64))


def _ids(parts: Iterable[Iterable[int]]) -> np.ndarray:
    return np.array([number for part in parts for number in part], np.int64)


def _check_unique(ids: np.ndarray, what: str) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if len(values) != len(ids):
        raise ValueError(f"Every {what} must be unique, but {values[counts > 1][0]} occurs twice.")


def _check_keys(dataset_dicts: list[dict]) -> None:
    """Data sets of Detectron2's own have no people, for instance."""
    needed = {"annotation_id", "bbox", "person_id", "iou_thresh"}
    for image in dataset_dicts:
        missing = {"image_id", "annotations"} - image.keys()
        for entry in image.get("annotations", ()):
            missing |= needed - entry.keys()
        if missing:
            raise ValueError(
                f"Person search can't be evaluated on this data set: image {image.get('image_id')} "
                f"lacks {', '.join(sorted(missing))}. Register one with "
                "spnet_d2.data.catalog.register_person_search."
            )
