"""Evaluation of a model while it runs: Detectron2's ``DatasetEvaluator`` for person search."""

import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from spnet_d2.data.catalog import get_dicts
from spnet_d2.data.corrupt_images import SKIPPED
from spnet_d2.evaluation.ground_truth import GroundTruth
from spnet_d2.evaluation.predictions import Predictions
from spnet_d2.evaluation.protocols import ALL_PROTOCOL, RetrievalProtocol
from spnet_d2.evaluation.report import format_table, results_dict, write_metrics, write_per_query
from spnet_d2.evaluation.scoring import ExtraMetrics, evaluate_predictions

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class DetectionRecord:
    """What is kept of one image's n detections, on the CPU."""

    boxes: np.ndarray  # (n, 4) float32
    scores: np.ndarray  # (n,) float32
    embeddings: np.ndarray  # (n, D)
    unreadable: tuple[str, ...] = ()


@dataclass(kw_only=True)
class _ImageRecord(DetectionRecord):
    """What is kept of one image with m ground-truth boxes."""

    gt_annotation_ids: np.ndarray  # (m,) int64
    gt_embeddings: np.ndarray  # (m, D)
    scene: np.ndarray | None = None  # (D,)


class PersonSearchEvaluator(DatasetEvaluator):
    """Detection and retrieval metrics of a registered person-search data set.

    Per image the model must give ``instances`` with ``pred_boxes`` (pixels of the original
    image), ``scores`` and ``reid_embeddings``, and ``gt_embeddings["reid"]`` for the input's
    ``instances``, whose ``gt_annotation_ids`` name them. A query's embedding is its ground-truth
    box's, so it is computed in its own scene. A model with a gallery filter also gives
    ``scene_embedding`` and ``scene_fuser``, see :mod:`.scene_scores`: its rankings are then
    reported as well.
    """

    def __init__(
        self,
        dataset_name: str,
        protocols: tuple[str, ...] = (),
        output_dir: str | None = None,
        distributed: bool = True,
        embedding_dtype: str = "float32",
    ):
        """
        Args:
            dataset_name: registered with ``register_person_search``.
            protocols: names of the data set's protocols (or one name), "all", or "" for its
                first one. Empty: the first one, or detection only if it has none.
            output_dir: where ``predictions.npz``, ``metrics.json`` and
                ``per_query.csv`` go, if anywhere.
            distributed: gather from all processes; the main one evaluates.
            embedding_dtype: "float32", or "float16" to halve the memory.

        Raises:
            ValueError: an unknown protocol or embedding type, or a data set without images.
        """
        if embedding_dtype not in ("float32", "float16"):
            raise ValueError(
                f'embedding_dtype must be "float32" or "float16", found "{embedding_dtype}".'
            )
        self._dataset_name = dataset_name
        self._output_dir = output_dir
        self._distributed = distributed
        self._embedding_dtype = getattr(torch, embedding_dtype)
        self.truth = GroundTruth.from_dicts(get_dicts(dataset_name))
        if self.truth.num_images == 0:
            raise ValueError(f'"{dataset_name}" has no images to evaluate on.')
        names = (protocols,) if isinstance(protocols, str) else protocols
        self.protocols = _load_protocols(dataset_name, names, self.truth)
        queries = {int(row) for p in self.protocols for row in p.queries}
        index = self.truth.image_index[sorted(queries)]
        self._images_of_queries = set(self.truth.image_ids[index].tolist())
        self._records: dict[int, Any] = {}
        # For ``predictions.npz``, by those who know the model: see ``Predictions.made_by``.
        self.made_by = ""
        self._scene_fuser: np.ndarray | None = None

    def reset(self) -> None:
        self._records = {}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Keep boxes, scores and embeddings of a batch of images."""
        for image, output in zip(inputs, outputs):
            # Samplers may fill up the last batch with images seen before: the first counts.
            if image["image_id"] not in self._records:
                self._records[image["image_id"]] = self._record(image, output)

    def evaluate(self) -> OrderedDict:
        """Score everything processed since :meth:`reset`.

        Returns:
            Percent: ``{"detection": {"AP50", "recall50", "rAP50"}, "<protocol>":
            {"mAP", "top1", "top5", "top10", and with "gt_" before them}, ...}``; empty on all but
            the main process. ``metrics.json`` has fractions.

        Raises:
            RuntimeError: images of the protocols were not processed.
            ValueError: predictions do not fit the data set.
        """
        records = self._gather()
        if not comm.is_main_process() and self._distributed:
            return OrderedDict()
        self._check_complete(records)
        predictions = self._predictions(records)
        extra = ExtraMetrics(gfn=predictions.scene_embeddings is not None)
        evaluation = evaluate_predictions(self.truth, self.protocols, predictions, extra=extra)
        logger.info(
            "%s, %d images (percent):\n%s",
            self._dataset_name,
            len(records),
            format_table(evaluation),
        )
        more = {**self._cost(records), **self._unreadable(records)}
        if self._output_dir:
            predictions.save(os.path.join(self._output_dir, "predictions.npz"))
            write_metrics(evaluation, os.path.join(self._output_dir, "metrics.json"), more)
            lines = os.path.join(self._output_dir, "per_query.csv")
            write_per_query(self.truth, evaluation, lines)
        return results_dict(evaluation)

    def _record(self, image: dict, output: dict) -> Any:
        if "instances" not in output:
            raise ValueError(
                f"Image {image['image_id']}: the model gave {', '.join(output)} instead of "
                "instances: it searches query by query (MODEL.SPNET.TEST_PATHWAY is QC). Evaluate "
                "it with spnet_d2.evaluation.evaluate_query_centric, as Trainer.test does."
            )
        instances = output["instances"]
        if SKIPPED in image:
            # Nobody is found where there is nothing to see.
            instances = instances[:0]
        if "instances" not in image and image["image_id"] in self._images_of_queries:
            self._mention_missing_queries(image["image_id"])
        detected = instances.reid_embeddings
        gt_ids = torch.zeros(0, dtype=torch.int64)
        gt_embeddings = detected[:0]
        if "instances" in image:
            gt_ids = image["instances"].gt_annotation_ids
            gt_embeddings = output["gt_embeddings"]["reid"]
            if len(gt_ids) != len(gt_embeddings):
                raise ValueError(
                    f"Image {image['image_id']}: the model must embed every box of the input's "
                    f"instances, but gave {len(gt_embeddings)} embeddings for {len(gt_ids)} boxes."
                )
        scene = output.get("scene_embedding")
        if output.get("scene_fuser") is not None:
            self._scene_fuser = to_numpy(output["scene_fuser"], torch.float32)
        return _ImageRecord(
            boxes=to_numpy(instances.pred_boxes.tensor, torch.float32),
            scores=to_numpy(instances.scores, torch.float32),
            embeddings=to_numpy(detected, self._embedding_dtype),
            gt_annotation_ids=to_numpy(gt_ids, torch.int64),
            gt_embeddings=to_numpy(gt_embeddings, self._embedding_dtype),
            scene=None if scene is None else to_numpy(scene, self._embedding_dtype),
            unreadable=tuple(image.get(SKIPPED, ())),
        )

    def _mention_missing_queries(self, image_id: int) -> None:
        """At the first such image: the evaluation fails, but only after all of them."""
        self._images_of_queries = set()
        logger.warning(
            "Image %s has queries of the protocols, but the loader gave no 'instances', whose "
            "boxes the model has to embed: Detectron2's DatasetMapper leaves them out. Take "
            "spnet_d2.engine.Trainer.build_test_loader(cfg, name), or "
            "mapper=PersonSearchMapper(cfg, is_train=False) of spnet_d2.data.mapper.",
            image_id,
        )

    def _gather(self) -> dict[int, Any]:
        """Records of all processes by ascending image id, each image once."""
        parts = [self._records]
        if self._distributed:
            comm.synchronize()
            parts = comm.gather(self._records, dst=0)
        merged: dict[int, Any] = {}
        for part in parts:
            for image_id, record in part.items():
                merged.setdefault(image_id, record)
        return dict(sorted(merged.items()))

    def _needed_images(self) -> np.ndarray:
        """Numbers of the images that must have been processed."""
        if not self.protocols:
            return np.arange(self.truth.num_images)
        return np.unique(np.concatenate([p.covered_images() for p in self.protocols]))

    def _predictions(self, records: dict[int, Any]) -> Predictions:
        """Flat arrays of all images, in the order of ``records``."""
        parts = list(records.values())
        scenes = {image: part.scene for image, part in records.items() if part.scene is not None}
        return Predictions(
            image_ids=np.repeat(np.array(list(records), np.int64), [len(p.scores) for p in parts]),
            boxes=join_rows([p.boxes for p in parts]),
            scores=join_rows([p.scores for p in parts]),
            embeddings=join_rows([p.embeddings for p in parts]),
            gt_annotation_ids=join_rows([p.gt_annotation_ids for p in parts]),
            gt_embeddings=join_rows([p.gt_embeddings for p in parts]),
            made_by=self.made_by,
            scene_image_ids=np.array(list(scenes), np.int64) if scenes else None,
            scene_embeddings=np.stack(list(scenes.values())) if scenes else None,
            scene_fuser=self._scene_fuser if scenes else None,
        )

    def _unreadable(self, records: dict[int, Any]) -> dict[str, int]:
        """Tell of images that could not be read, and count them for ``metrics.json``."""
        files = sorted({file for record in records.values() for file in record.unreadable})
        if not files:
            return {}
        logger.warning(
            "%d of the %d images of %s could not be read. They count as black, with nobody found, "
            "so the metrics are lower than they would be: %s%s. Fetch these files again.",
            len(files),
            len(records),
            self._dataset_name,
            ", ".join(files[:10]),
            ", ..." if len(files) > 10 else "",
        )
        return {"num_unreadable_images": len(files)}

    def _cost(self, records: dict[int, Any]) -> dict[str, float]:
        """Further keys of ``metrics.json``."""
        return {}

    def _check_complete(self, records: dict[int, Any]) -> None:
        processed = np.array(list(records), np.int64)
        self.truth.find_images(processed, f'predictions for "{self._dataset_name}"')
        needed = self._needed_images()
        missing = np.setdiff1d(self.truth.image_ids[needed], processed)
        if len(missing):
            raise RuntimeError(
                f'Evaluating "{self._dataset_name}" needs predictions for {len(needed)} images, '
                f"but {len(missing)} were not processed, first: "
                f"{', '.join(map(str, missing[:5]))}. Run the model over the whole data set "
                "(all processes together) before evaluate()."
            )


def choose_protocols(
    dataset_name: str, names: Sequence[str], test_sets: Sequence[str]
) -> tuple[str, ...]:
    """
    Which of ``TEST.PROTOCOLS`` are for one of several test sets.

    Args:
        dataset_name: one of ``test_sets``.
        names: protocols. A name is for every set that has it, ``"set:protocol"`` for that set
            alone; "all", and "" for a set's first one, are for all.
        test_sets: ``DATASETS.TEST``.

    Returns:
        For :class:`PersonSearchEvaluator`; empty, so that the set's first one is taken, where all
        names are of other sets.

    Raises:
        ValueError: a protocol that no set has.
    """
    there = {name: _protocol_paths(name) for name in test_sets}
    chosen = []
    for name in names:
        pairs = [
            (data_set, protocol)
            for data_set in test_sets
            for protocol in (name, name.removeprefix(f"{data_set}:"))
            if protocol in there[data_set] or (protocol in ("", ALL_PROTOCOL))
        ]
        if not pairs:
            known = "; ".join(f"{s}: {', '.join(p) or 'none'}" for s, p in there.items())
            raise ValueError(
                f'TEST.PROTOCOLS: the sets of DATASETS.TEST have no protocol "{name}". There are, '
                f'by set: {known}; and "{ALL_PROTOCOL}" for each. "set:protocol" is for one set.'
            )
        chosen += [protocol for data_set, protocol in pairs if data_set == dataset_name]
    if names and not chosen:
        logger.info("%s has none of TEST.PROTOCOLS: its first one is taken.", dataset_name)
    return tuple(dict.fromkeys(chosen))


def _protocol_paths(dataset_name: str) -> dict[str, str]:
    return MetadataCatalog.get(dataset_name).get("protocols", None) or {}


def _load_protocols(
    dataset_name: str, names: tuple[str, ...], truth: GroundTruth
) -> list[RetrievalProtocol]:
    paths = _protocol_paths(dataset_name)
    if not names:
        names = ("",) if paths else ()
        if not names:
            logger.info(
                '"%s" has no retrieval protocol: only detection is evaluated. Ask for protocol '
                '"%s" to let every box search all other images.',
                dataset_name,
                ALL_PROTOCOL,
            )
    protocols = []
    for name in names:
        name = name or next(iter(paths), ALL_PROTOCOL)
        if name not in paths and name != ALL_PROTOCOL:
            raise ValueError(
                f'"{dataset_name}" has no protocol "{name}". Choose from: '
                f"{', '.join([*paths, ALL_PROTOCOL])}."
            )
        protocols.append(RetrievalProtocol.read(paths.get(name, ALL_PROTOCOL), truth, name))
    return protocols


def join_rows(arrays: list[np.ndarray]) -> np.ndarray:
    """Concatenate arrays, at least one; those without rows may not know D."""
    return np.concatenate([array for array in arrays if len(array)] or arrays[:1])


def to_numpy(tensor: torch.Tensor, dtype: torch.dtype) -> np.ndarray:
    """A copy of a tensor on the CPU."""
    # A copy, so that a slice does not keep its whole batch alive.
    return tensor.detach().to("cpu", dtype, copy=True).numpy()
