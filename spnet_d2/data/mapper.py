"""Dataset dict -> model input: read the image, augment it, move the boxes along."""

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.structures import Boxes, BoxMode, Instances

from spnet_d2.data.geometry import clip_with_visibility, xywh_to_xyxy
from spnet_d2.data.image_reader import read_image, wrong_size_message
from spnet_d2.data.model_input import model_image
from spnet_d2.data.transforms import build_augmentation

_PERSON_KEYS = {
    "gt_classes": "category_id",
    "gt_person_ids": "person_id",
    "gt_identities": "identity",
    "gt_annotation_ids": "annotation_id",
}


class PersonSearchMapper:
    """Turn one person-search dataset dict into what SPNet takes, in training and at inference.

    Args:
        augmentation: maps ``(size, boxes, known, rng)`` to a :class:`~spnet_d2.data.geometry.View`.
        is_train: boxes too little visible after the augmentation are dropped. At inference every
            ground-truth box stays, so that each query gets its embedding.
        min_visibility: share of its area a box needs inside the image in training.
        exact_8bit: repeat the authors' 8-bit detour (:mod:`spnet_d2.data.eight_bit`).
        pixel_mean, pixel_std: the model's statistics (0..255, RGB), for the detour.
    """

    @configurable
    def __init__(
        self,
        *,
        augmentation,
        is_train: bool,
        min_visibility: float = 0.4,
        exact_8bit: bool = False,
        pixel_mean=(123.675, 116.28, 103.53),
        pixel_std=(58.395, 57.12, 57.375),
    ):
        self.augmentation = augmentation
        self.is_train = is_train
        self.min_visibility = min_visibility if is_train else 0.0
        self.exact_8bit = exact_8bit
        self.pixel_mean = pixel_mean
        self.pixel_std = pixel_std

    @classmethod
    def from_config(cls, cfg, is_train: bool = True):
        return {
            "augmentation": build_augmentation(cfg, is_train),
            "is_train": is_train,
            "min_visibility": cfg.INPUT.MIN_VISIBILITY,
            "exact_8bit": cfg.INPUT.EXACT_8BIT,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def __call__(
        self,
        dataset_dict: dict,
        rng: np.random.Generator | None = None,
        image: np.ndarray | None = None,
    ) -> dict:
        """Map one dict.

        Args:
            dataset_dict: as ``load_person_search_json`` gives it; it is not changed. Without
                ``annotations`` the result has no ``instances``.
            rng: source of all randomness; None takes fresh entropy.
            image: (H, W, 3) uint8 RGB, instead of reading the dict's file.

        Returns:
            A copy without ``annotations`` and with

            * ``image``: ``(3, h, w)`` RGB, 0..255; uint8, or float32 with ``exact_8bit``,
            * ``height``, ``width``: size of the image before augmentation,
            * ``instances``: ``gt_boxes`` in the frame of ``image``, ``gt_classes`` (0),
              ``gt_person_ids``, ``gt_identities`` (-1 unknown), ``gt_annotation_ids``, all int64,
            * ``ignore_boxes``: ``Boxes`` in the frame of ``image``, if the dict has
              ``ignore_regions``.

        Raises:
            FileNotFoundError: if there is no such image.
            CorruptImageError: if the file is no image.
            OSError: if it can't be opened.
            ValueError: if it is not of the size that the dict states.
        """
        result = {
            k: v for k, v in dataset_dict.items() if k not in ("annotations", "ignore_regions")
        }
        if image is None:
            image = read_image(dataset_dict["file_name"])
        size = image.shape[:2]
        self._check_size(dataset_dict, size)
        annotations = dataset_dict.get("annotations", [])
        boxes, keep = clip_with_visibility(_xyxy(annotations), size, self.min_visibility)
        if self.is_train:
            boxes, annotations = boxes[keep], _select(annotations, keep)
        known = np.array([annotation["identity"] >= 0 for annotation in annotations], dtype=bool)

        view = self.augmentation(size, boxes, known, rng or np.random.default_rng())
        result["image"] = model_image(image, view, self.exact_8bit, self.pixel_mean, self.pixel_std)
        result["height"], result["width"] = size
        if "annotations" in dataset_dict:
            boxes, keep = clip_with_visibility(
                view.apply_boxes(boxes), view.output, self.min_visibility
            )
            if self.is_train:
                boxes, annotations = boxes[keep], _select(annotations, keep)
            result["instances"] = _instances(view.output, boxes, annotations)
        if dataset_dict.get("ignore_regions"):
            regions = view.apply_boxes(xywh_to_xyxy(dataset_dict["ignore_regions"]))
            regions, visible = clip_with_visibility(regions, view.output)
            result["ignore_boxes"] = Boxes(torch.from_numpy(regions[visible]))
        return result

    @staticmethod
    def _check_size(dataset_dict: dict, found: tuple[int, int]) -> None:
        stated = dataset_dict.get("height", found[0]), dataset_dict.get("width", found[1])
        if stated != found:
            raise ValueError(wrong_size_message(dataset_dict["file_name"], stated, found))


def _xyxy(annotations: list[dict]) -> np.ndarray:
    """Boxes of the annotations, ``(N, 4)``.

    Raises:
        ValueError: if an annotation lacks what person search needs.
    """
    for annotation in annotations:
        missing = {"bbox", "bbox_mode", *_PERSON_KEYS.values()} - annotation.keys()
        if missing:
            raise ValueError(
                f"An annotation lacks {sorted(missing)}, found {sorted(annotation)}. Register the "
                "data set with spnet_d2.data.catalog.register_person_search."
            )
    modes = {annotation["bbox_mode"] for annotation in annotations}
    if modes <= {BoxMode.XYWH_ABS}:
        return xywh_to_xyxy([annotation["bbox"] for annotation in annotations])
    boxes = [
        BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations
    ]
    return np.array(boxes, np.float64).reshape(-1, 4)


def _select(annotations: list[dict], keep: np.ndarray) -> list[dict]:
    return [annotation for annotation, kept in zip(annotations, keep) if kept]


def _instances(size: tuple[int, int], boxes: np.ndarray, annotations: list[dict]) -> Instances:
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.from_numpy(boxes))
    for field, key in _PERSON_KEYS.items():
        values = [annotation[key] for annotation in annotations]
        instances.set(field, torch.tensor(values, dtype=torch.int64))
    return instances
