"""Predictions of a predictor on a data set, image by image, for ``tools/evaluate.py``."""

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from spnet_d2.data.image_reader import read_image, wrong_size_message
from spnet_d2.evaluation.predictions import Predictions
from spnet_d2.utils.atomic_io import atomic_path

logger = logging.getLogger(__name__)

# Seconds between two savings of what is done.
SAVE_PERIOD = 60.0


def predict_dataset(
    predictor,
    dataset_dicts: Sequence[dict],
    min_score: float = 0.0,
    unfinished: str | os.PathLike | None = None,
    progress: bool = True,
) -> Predictions:
    """
    Detect everyone in every image, and embed the ground-truth boxes.

    Args:
        predictor: a :class:`~spnet_d2.search.PersonSearchPredictor`, or anything with its
            interface.
        dataset_dicts: of a registered person-search data set.
        min_score: less sure detections are left out.
        unfinished: file that keeps what is done, every minute and when the program is stopped; a
            later call with the same predictor, images and ``min_score`` goes on from it. It is
            gone in the end.
        progress: show a progress bar.

    Raises:
        FileNotFoundError, ValueError: an image is missing, damaged, or of another size than its
            annotations say; what is done is kept.
    """
    done = _Done(predictor, dataset_dicts, min_score, unfinished)
    left = [image for image in dataset_dicts if image["image_id"] not in done.images]
    bar = tqdm(
        left,
        total=len(dataset_dicts),
        initial=len(dataset_dicts) - len(left),
        unit="image",
        disable=not progress,
    )
    with done:
        for image in bar:
            done.add(image)
    return done.predictions()


class _Done:
    """What is predicted so far."""

    def __init__(self, predictor, dicts: Sequence[dict], min_score: float, path):
        self._predictor, self._min_score = predictor, min_score
        self._path = Path(path) if path is not None else None
        files = [f"{d['image_id']} {d['file_name']} {len(d['annotations'])}" for d in dicts]
        self._key = "\n".join([predictor.fingerprint, repr(min_score), *files])
        self.images: dict[int, dict[str, np.ndarray]] = {}
        self._saved = time.monotonic()
        self._go_on()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if self._path is None:
            return
        if kind is None:
            self._path.unlink(missing_ok=True)
        elif self.images:
            self._save()
            logger.warning(
                "Stopped after %d images; they are kept in %s, and the same command goes on from "
                "there.",
                len(self.images),
                self._path,
            )

    def add(self, image: dict) -> None:
        pixels = _read(image)
        if self._predictor.image_format == "BGR":
            pixels = np.ascontiguousarray(pixels[:, :, ::-1])
        people = self._predictor.detect([pixels])[0].above(self._min_score)
        boxes = _clipped([a["bbox"] for a in image["annotations"]], pixels.shape[:2])
        given = people.embeddings[:0]
        if len(boxes):
            given = self._predictor.embed(pixels, boxes)
        self.images[image["image_id"]] = {
            "boxes": people.boxes,
            "scores": people.scores,
            "embeddings": people.embeddings,
            "gt_annotation_ids": np.array(
                [a["annotation_id"] for a in image["annotations"]], np.int64
            ),
            "gt_embeddings": given,
        }
        if self._path is not None and time.monotonic() - self._saved > SAVE_PERIOD:
            self._save()

    def predictions(self) -> Predictions:
        parts = self.images
        counts = [len(part["scores"]) for part in parts.values()]
        return Predictions(
            image_ids=np.repeat(np.array(list(parts), np.int64), counts),
            **{name: _rows([part[name] for part in parts.values()]) for name in _NAMES},
            made_by=self._predictor.fingerprint,
        )

    def _save(self) -> None:
        if self._path is None:
            return
        arrays: dict[str, Any] = {
            name: _rows([p[name] for p in self.images.values()]) for name in _NAMES
        }
        counts = [[len(p["scores"]), len(p["gt_embeddings"])] for p in self.images.values()]
        with atomic_path(self._path) as part:
            np.savez(
                part,
                key=np.array(self._key),
                done=np.array(list(self.images), np.int64),
                counts=np.array(counts, np.int64),
                **arrays,
            )
        self._saved = time.monotonic()

    def _go_on(self) -> None:
        if self._path is None or not self._path.is_file():
            return
        try:
            with np.load(self._path, allow_pickle=False) as archive:
                arrays = dict(archive)
            if arrays["key"].item() != self._key:
                logger.warning("%s was begun with something else; it begins anew.", self._path)
                return
        # Whatever numpy raises for a damaged archive.
        except Exception:
            logger.warning("%s can't be read; it begins anew.", self._path)
            return
        ends = np.cumsum(np.concatenate([[[0, 0]], arrays["counts"]]), axis=0)
        for i, image_id in enumerate(arrays["done"].tolist()):
            places = {name: slice(*ends[i : i + 2, name.startswith("gt_") * 1]) for name in _NAMES}
            self.images[image_id] = {name: arrays[name][places[name]] for name in _NAMES}
        logger.warning("Going on from %s: %d images are done.", self._path, len(self.images))


_NAMES = ("boxes", "scores", "embeddings", "gt_annotation_ids", "gt_embeddings")


def _read(image: dict) -> np.ndarray:
    """(H, W, 3) uint8 RGB."""
    pixels = read_image(image["file_name"])
    stated = (image["height"], image["width"])
    if pixels.shape[:2] != stated:
        raise ValueError(wrong_size_message(image["file_name"], stated, pixels.shape[:2]))
    return pixels


def _rows(arrays: list[np.ndarray]) -> np.ndarray:
    """Concatenated; arrays without rows may not know how long an embedding is."""
    return np.concatenate([array for array in arrays if len(array)] or arrays[:1])


def _clipped(bboxes: list, size: tuple[int, int]) -> np.ndarray:
    """(n, 4) xyxy of xywh boxes, inside an image of (height, width)."""
    boxes = np.array(bboxes, np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return np.clip(boxes, 0, [size[1], size[0], size[1], size[0]])
