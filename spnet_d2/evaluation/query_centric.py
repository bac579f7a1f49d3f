"""Evaluation of a query-centric model: every query searches its gallery images itself.

Two passes over the data set. The first embeds ground-truth boxes in their own scenes. The second
gives each gallery image the embeddings of the queries that search it; what the model finds belongs
to its (query, image) pair. A pair that no protocol needs is not searched, and a pair that several
protocols need, or that a gallery lists twice, is searched once.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from torch import nn

from spnet_d2.data.corrupt_images import SKIPPED
from spnet_d2.evaluation.evaluator import (
    DetectionRecord,
    PersonSearchEvaluator,
    join_rows,
    to_numpy,
)
from spnet_d2.evaluation.gallery import SCORE_FLOOR
from spnet_d2.evaluation.ground_truth import GroundTruth
from spnet_d2.evaluation.predictions import Predictions
from spnet_d2.evaluation.protocols import ALL_PROTOCOL, RetrievalProtocol

logger = logging.getLogger(__name__)


class Batches(Protocol):
    """Batches of model inputs with a length, such as a ``DataLoader``."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list[dict]]: ...


class SearchPlan:
    """Which queries search which image: the union over protocols.

    Memory: one number per pair of protocols that list galleries; protocols whose galleries are
    all images take none.
    """

    def __init__(self, truth: GroundTruth, protocols: list[RetrievalProtocol]):
        """
        Args:
            truth: the data set.
            protocols: of the data set.
        """
        listed = [np.zeros(0, np.int64)]
        # Per protocol without lists: which images it has, its queries and their images.
        self._full: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for protocol in protocols:
            if protocol.galleries is None:
                images = np.zeros(truth.num_images, bool)
                images[protocol.images] = True
                self._full.append((images, protocol.queries, protocol.query_images))
            else:
                query = np.repeat(protocol.queries, [len(g) for g in protocol.galleries])
                image = np.concatenate(protocol.galleries)
                listed.append(image * len(truth.boxes) + query)
        pairs = np.unique(np.concatenate(listed))
        image, self._listed = np.divmod(pairs, max(1, len(truth.boxes)))
        self._starts = np.searchsorted(image, np.arange(truth.num_images + 1))

    def queries(self, image: int) -> np.ndarray:
        """(Q_i,) numbers of the boxes that search an image (by its number), ascending."""
        listed = self._listed[self._starts[image] : self._starts[image + 1]]
        full = [
            queries[query_images != image]
            for images, queries, query_images in self._full
            if images[image]
        ]
        return np.unique(np.concatenate([listed, *full]))

    def searched_images(self) -> np.ndarray:
        """Numbers of the images that any query searches, ascending."""
        searched = np.diff(self._starts) > 0
        for images, _, query_images in self._full:
            elsewhere = images.copy()
            if len(np.unique(query_images)) == 1:
                elsewhere[query_images[0]] = False
            searched |= elsewhere
        return np.flatnonzero(searched)


@dataclass(frozen=True)
class BoxEmbeddings:
    """Embeddings of ground-truth boxes in their own scenes.

    Attributes:
        annotation_ids: (M,) int64.
        reid: (M, D_r) re-id embeddings.
        loc: (M, D) localisation embeddings, of queries only.
    """

    annotation_ids: np.ndarray
    reid: np.ndarray
    loc: np.ndarray | None = None


class GroundTruthEmbedder(DatasetEvaluator):
    """First pass: keeps the embeddings that the model gives for ground-truth boxes."""

    def __init__(
        self,
        truth: GroundTruth,
        protocols: list[RetrievalProtocol],
        distributed: bool = True,
        embedding_dtype: torch.dtype = torch.float32,
    ):
        """
        Args:
            truth: the data set.
            protocols: their queries' localisation embeddings are kept.
            distributed: gather from all processes.
            embedding_dtype: of what is kept for scoring; queries stay float32.
        """
        numbers = np.unique(np.concatenate([protocol.queries for protocol in protocols]))
        self._query_ids = np.sort(truth.annotation_ids[numbers])
        self._distributed = distributed
        self._dtype = embedding_dtype
        self.reset()

    def reset(self) -> None:
        self._boxes: dict[int, BoxEmbeddings] = {}
        self._queries: dict[int, BoxEmbeddings] = {}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Keep the embeddings of a batch of images."""
        for image, output in zip(inputs, outputs, strict=True):
            if "instances" not in image or image["image_id"] in self._boxes:
                continue
            ids = to_numpy(image["instances"].gt_annotation_ids, torch.int64)
            given = output["gt_embeddings"]
            if not len(ids) == len(given["reid"]) == len(given["loc"]):
                raise ValueError(
                    f"Image {image['image_id']}: the model must embed every box of the input's "
                    f"instances, but gave {len(given['reid'])} re-id and {len(given['loc'])} "
                    f"localisation embeddings for {len(ids)} boxes."
                )
            reid = to_numpy(given["reid"], self._dtype)
            self._boxes[image["image_id"]] = BoxEmbeddings(ids, reid)
            queried = np.isin(ids, self._query_ids)
            if queried.any():
                self._queries[image["image_id"]] = BoxEmbeddings(
                    ids[queried],
                    to_numpy(given["reid"], torch.float32)[queried],
                    to_numpy(given["loc"], torch.float32)[queried],
                )

    def evaluate(self) -> tuple[BoxEmbeddings, BoxEmbeddings]:
        """Put the embeddings of all processes together.

        Returns:
            tuple: (re-id embeddings of all boxes: whole on the main process only, embeddings of
            all queries: on every process).

        Raises:
            RuntimeError: a query was not embedded.
        """
        boxes, queries = [self._boxes], [self._queries]
        if self._distributed:
            comm.synchronize()
            boxes, queries = comm.gather(self._boxes, dst=0), comm.all_gather(self._queries)
        everyone = _merge(queries)
        missing = np.setdiff1d(self._query_ids, everyone.annotation_ids)
        if len(missing):
            raise RuntimeError(
                f"{len(missing)} of {len(self._query_ids)} queries were not embedded, first: "
                f"{', '.join(map(str, missing[:5]))}. Run the model over the whole data set, with "
                "the ground-truth boxes of every image as instances."
            )
        return _merge(boxes), everyone


class QueryLoader:
    """A test loader's batches with the queries that search each image.

    Images that no query searches are left out, and so are ground-truth boxes.
    """

    def __init__(
        self,
        loader: Batches,
        truth: GroundTruth,
        plan: SearchPlan,
        queries: BoxEmbeddings,
    ):
        """
        Args:
            loader: of batches of model inputs, with a length.
            truth: the data set.
            plan: who searches what.
            queries: of all queries of the plan.
        """
        self._loader = loader
        self._truth = truth
        self._plan = plan
        self._reid, self._loc = torch.from_numpy(queries.reid), torch.from_numpy(queries.loc)
        self._row = np.full(len(truth.boxes), -1)
        numbers = truth.find_annotations(queries.annotation_ids, "embedded queries")
        self._row[numbers] = np.arange(len(numbers))

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in self._loader:
            ids = np.array([x["image_id"] for x in batch], np.int64)
            images = self._truth.find_images(ids, "the test loader")
            queried = [(x, self._plan.queries(image)) for x, image in zip(batch, images)]
            searched = [self._with_queries(x, boxes) for x, boxes in queried if len(boxes)]
            if searched:
                yield searched

    def _with_queries(self, x: dict, boxes: np.ndarray) -> dict:
        rows = torch.from_numpy(self._row[boxes])
        queries = {
            "annotation_ids": self._truth.annotation_ids[boxes],
            "reid": self._reid[rows],
            "loc": self._loc[rows],
        }
        return {k: v for k, v in x.items() if k != "instances"} | {"queries": queries}


@dataclass(kw_only=True)
class _SearchRecord(DetectionRecord):
    """What is kept of one image: n detections of all its queries."""

    query_annotation_ids: np.ndarray  # (n,) int64
    num_pairs: int
    seconds: float


class QueryCentricEvaluator(PersonSearchEvaluator):
    """
    Detection and retrieval metrics of a model that searches query by query.

    Give it to :func:`evaluate_query_centric`. Per image the model must give ``query_instances``:
    for each of the input's ``queries`` an ``Instances`` with ``pred_boxes`` (pixels of the original
    image), ``scores`` and ``reid_embeddings``. Where all of them are in one as
    ``query_detections``, with ``query_index``, that is read, and only the number of the others.
    ``predictions.npz`` says for every detection which query it belongs to, and lacks those below
    the score floor, which count nowhere.

    ``metrics.json`` has two more keys: ``num_query_image_pairs``, and
    ``seconds_per_query_image_pair``, the model's time of the second pass (a scene's features
    included, loading excluded) over the pairs. With several processes it is the time of one.
    """

    def __init__(self, *args, **kwargs):
        """
        Args: as :class:`PersonSearchEvaluator`.

        Raises:
            ValueError: as there, and a data set without protocol or without boxes.
        """
        super().__init__(*args, **kwargs)
        if not self.protocols:
            raise ValueError(
                f'"{self._dataset_name}" has no retrieval protocol, which says who searches what '
                "(MODEL.SPNET.TEST_PATHWAY is QC). Register one, set TEST.PROTOCOLS to "
                f'("{ALL_PROTOCOL}",) to let every box search all other images, or evaluate with '
                "MODEL.SPNET.TEST_PATHWAY OC."
            )
        if not any(len(protocol.queries) for protocol in self.protocols):
            raise ValueError(f'"{self._dataset_name}" has no boxes, so nobody to search for.')
        self.plan = SearchPlan(self.truth, self.protocols)
        self.gt: BoxEmbeddings | None = None
        self._started = self._seconds = 0.0

    def embedder(self) -> GroundTruthEmbedder:
        """The first pass's evaluator."""
        return GroundTruthEmbedder(
            self.truth, self.protocols, self._distributed, self._embedding_dtype
        )

    def stopwatch(self) -> dict:
        """Callbacks for ``inference_on_dataset`` that time the model."""

        def start():
            self._started = time.perf_counter()

        def stop():
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self._seconds = time.perf_counter() - self._started

        return {"before_inference": start, "after_inference": stop}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Keep the detections of a batch of images."""
        self._seconds /= len(inputs)
        super().process(inputs, outputs)

    def _record(self, image: dict, output: dict) -> _SearchRecord:
        found = output["query_instances"]
        ids = image["queries"]["annotation_ids"]
        if len(found) != len(ids):
            raise ValueError(
                f"Image {image['image_id']}: the model must give one Instances per query, but "
                f"gave {len(found)} for {len(ids)} queries."
            )
        flat = output.get("query_detections")
        if flat is None:
            flat = _joined(found)
        scores = to_numpy(flat.scores, torch.float32)
        # What isn't finite is kept: scoring warns of it.
        counts = np.flatnonzero(~(scores < SCORE_FLOOR))
        if SKIPPED in image:
            # Nobody is found where there is nothing to see.
            counts = counts[:0]
        rows = torch.from_numpy(counts)
        boxes = flat.pred_boxes.tensor
        embeddings = flat.reid_embeddings
        return _SearchRecord(
            boxes=to_numpy(boxes[rows.to(boxes.device)], torch.float32),
            scores=scores[counts],
            embeddings=to_numpy(embeddings[rows.to(boxes.device)], self._embedding_dtype),
            query_annotation_ids=ids[to_numpy(flat.query_index, torch.int64)[counts]],
            num_pairs=len(found),
            seconds=self._seconds,
            unreadable=tuple(image.get(SKIPPED, ())),
        )

    def _needed_images(self) -> np.ndarray:
        return self.plan.searched_images()

    def _predictions(self, records: dict[int, _SearchRecord]) -> Predictions:
        if self.gt is None:
            raise RuntimeError("The queries must be embedded first: see evaluate_query_centric.")
        parts = list(records.values())
        lengths = [len(part.scores) for part in parts]
        return Predictions(
            image_ids=np.repeat(np.array(list(records), np.int64), lengths),
            boxes=join_rows([np.zeros((0, 4), np.float32), *(p.boxes for p in parts)]),
            scores=join_rows([np.zeros(0, np.float32), *(p.scores for p in parts)]),
            embeddings=join_rows([self.gt.reid[:0], *(p.embeddings for p in parts)]),
            gt_annotation_ids=self.gt.annotation_ids,
            gt_embeddings=self.gt.reid,
            query_annotation_ids=join_rows(
                [np.zeros(0, np.int64), *(p.query_annotation_ids for p in parts)]
            ),
            made_by=self.made_by,
        )

    def _cost(self, records: dict[int, _SearchRecord]) -> dict[str, float]:
        pairs = sum(record.num_pairs for record in records.values())
        seconds = sum(record.seconds for record in records.values())
        cost = {
            "num_query_image_pairs": pairs,
            "seconds_per_query_image_pair": seconds / max(1, pairs),
        }
        logger.info(
            "Searched %d (query, image) pairs in %d images: %.3g seconds per pair, %.3g per image",
            pairs,
            len(records),
            cost["seconds_per_query_image_pair"],
            seconds / max(1, len(records)),
        )
        return cost


def evaluate_query_centric(
    model: nn.Module, loader: Batches, evaluator: QueryCentricEvaluator
) -> OrderedDict:
    """Run a model over a data set query by query and score it.

    Args:
        model: SPNet with test pathway "QC" (or a wrapper of it with the same input).
        loader: of ``spnet_d2.data.loaders.build_test_loader``: the whole data set with
            ground-truth boxes, the part of this process if there are several. It is run twice.
        evaluator: of the same data set.

    Returns:
        As of :meth:`PersonSearchEvaluator.evaluate`.

    Raises:
        RuntimeError: the loader lacks queries or images of the protocols.
    """
    logger.info("First pass: embedding ground-truth boxes")
    evaluator.gt, queries = inference_on_dataset(model, loader, evaluator.embedder())
    logger.info("Second pass: %d queries search their galleries", len(queries.annotation_ids))
    searched = QueryLoader(loader, evaluator.truth, evaluator.plan, queries)
    return inference_on_dataset(model, searched, evaluator, evaluator.stopwatch())


def _joined(found: list[Instances]) -> Instances:
    """Detections of all queries in one ``Instances``, with ``query_index``."""
    index = np.repeat(np.arange(len(found)), [len(f) for f in found])
    return Instances(
        found[0].image_size,
        pred_boxes=Boxes.cat([f.pred_boxes for f in found]),
        scores=torch.cat([f.scores for f in found]),
        reid_embeddings=torch.cat([f.reid_embeddings for f in found]),
        query_index=torch.from_numpy(index),
    )


def _merge(parts: list[dict[int, BoxEmbeddings]]) -> BoxEmbeddings:
    """Boxes of all parts by ascending image id, each image once."""
    images: dict[int, BoxEmbeddings] = {}
    for part in parts:
        for image_id, boxes in part.items():
            images.setdefault(image_id, boxes)
    ordered = [images[image_id] for image_id in sorted(images)]
    if not ordered:
        return BoxEmbeddings(np.zeros(0, np.int64), np.zeros((0, 0), np.float32))
    locs = [boxes.loc for boxes in ordered if boxes.loc is not None]
    return BoxEmbeddings(
        np.concatenate([boxes.annotation_ids for boxes in ordered]),
        join_rows([boxes.reid for boxes in ordered]),
        join_rows(locs) if locs else None,
    )
