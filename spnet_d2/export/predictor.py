"""An exported SPNet with the interface of ``PersonSearchPredictor``, without PyTorch."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from spnet_d2.data.geometry import View
from spnet_d2.data.model_input import model_pixels
from spnet_d2.data.transforms import NativeSize, WindowResize
from spnet_d2.errors import SearchInputError
from spnet_d2.search.people import PersonDetections, PersonQuery, check_image, check_image_format

from .boxes import nms, nms_per_query, sigmoid
from .description import Description, ExportedModelError
from .graph_files import BFLOAT16, Graph, open_graph

# Boxes that are embedded at a time: bounds the memory of images with many.
_CHUNK = 512
Outputs = Mapping[str, np.ndarray]


class OnnxPredictor:
    """
    Detect people and embed them, one image at a time, from a folder of ``tools/export.py``.

    It takes the place of a :class:`~spnet_d2.search.PersonSearchPredictor` in ``Gallery.build``,
    search and evaluation. Neither PyTorch nor Detectron2 is needed::

        predictor = OnnxPredictor("outputs/exported")
        people = predictor.detect([image])[0]

    Attributes:
        image_format: channel order of the images given, "BGR" (OpenCV) or "RGB".
        description: what ``model.json`` says.
        min_score: people less sure are left out.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        runtime: str = "onnxruntime",
        min_score: float | None = None,
        image_format: str = "BGR",
    ):
        """
        Args:
            folder: of the exported model.
            runtime: "onnxruntime", "openvino", or "openvino-bfloat16", whose detector's graph is in
                bfloat16.
            min_score: instead of the model's own.
            image_format: see above.

        Raises:
            ExportedModelError: the folder can't be used.
            ImportError: the runtime is not installed.
            ValueError: another runtime or channel order.
        """
        check_image_format(image_format)
        self.image_format, self.folder, self._runtime = image_format, Path(folder), runtime
        self.description = Description.load(folder)
        if runtime == BFLOAT16 and self.description.winograd:
            raise ExportedModelError(
                f"{folder}: the detector computes convolutions in a way that bfloat16 is too "
                "coarse for. Export the model again with --device other, or choose another "
                "--runtime."
            )
        self.min_score = self.description.min_score if min_score is None else min_score
        resize = self.description.resize
        self._augmentation = (
            WindowResize(resize.min_size, resize.max_size) if resize.kind == "wrs" else NativeSize()
        )
        self._graphs: dict[str, Graph] = {}
        self._last: tuple[bytes, Outputs] = (b"", {})
        # What is missing is said now, not at the first image.
        self._graph(self.description.detector), self._graph(self.description.embedder)

    @property
    def query_centric(self) -> bool:
        """Whether people are found for queries only."""
        return self.description.query_centric

    @property
    def embedding_dim(self) -> int:
        """D_r."""
        return self.description.embedding_dim

    @property
    def fingerprint(self) -> str:
        """Text that is equal where boxes and embeddings can be compared."""
        if self._runtime != BFLOAT16:
            return self.description.fingerprint
        return hashlib.sha256(f"{self.description.fingerprint} bfloat16".encode()).hexdigest()[:16]

    @property
    def settings(self) -> dict[str, object]:
        """Plain values that boxes and embeddings depend on, besides the weights."""
        if self._runtime != BFLOAT16:
            return self.description.settings
        return {**self.description.settings, "exported_precision": "bfloat16"}

    def detect(
        self, images: Iterable[np.ndarray], query: PersonQuery | None = None
    ) -> list[PersonDetections]:
        """
        Find the people of each image.

        Args:
            images: (H, W, 3) uint8 arrays; an iterator is consumed one image at a time.
            query: of :meth:`query`; find this person. Of query-centric models alone.

        Returns:
            One result per image, empty where nobody is found.

        Raises:
            SearchInputError: a query to a model that detects everyone, or none to one that needs
                it.
        """
        if query is not None and not self.query_centric:
            raise SearchInputError(
                "This exported model detects everyone, not one query. Export the model again with "
                "MODEL.SPNET.TEST_PATHWAY QC, or leave the query out."
            )
        if query is None and self.query_centric:
            raise SearchInputError(
                "This exported model searches query by query, so it has no detections, nor a "
                "gallery index, that serve every query. In code, give detect(images, "
                "query=predictor.query(image, box)); or export the model again with "
                "MODEL.SPNET.TEST_PATHWAY OC, if its weights have a bridge."
            )
        return [self._detect(image, query) for image in images]

    def query(self, image: np.ndarray, box) -> PersonQuery:
        """
        Embed one person to search for.

        Args:
            image: (H, W, 3) uint8, the scene that shows the person.
            box: xyxy, pixels of ``image``; clip it first.

        Returns:
            A query, whose localisation embedding is empty unless the model is query-centric.
        """
        found, boxes = self._given(image, box)
        loc = np.zeros((1, 0), np.float32)
        if self.description.localiser:
            loc = self._embed(self.description.localiser, found, boxes)
        return PersonQuery(self._embed(self.description.embedder, found, boxes)[0], loc[0])

    def embed(self, image: np.ndarray, boxes) -> np.ndarray:
        """
        Embed given people, each in its scene, in one pass.

        Args:
            image: (H, W, 3) uint8.
            boxes: (N, 4) xyxy, pixels of ``image``; clip them first.

        Returns:
            (N, D_r) float32, in the order of ``boxes``.
        """
        return self._embed(self.description.embedder, *self._given(image, boxes))

    def _given(self, image: np.ndarray, boxes) -> tuple[Outputs, np.ndarray]:
        """An image's p3, and boxes of it as the network takes them."""
        view = self._view(image)
        boxes = view.apply_boxes(np.asarray(boxes, np.float64).reshape(-1, 4))
        return self._encode(image, view), boxes.astype(np.float32)

    def _detect(self, image: np.ndarray, query: PersonQuery | None) -> PersonDetections:
        view = self._view(image)
        found = self._encode(image, view)
        size = np.array(view.output, np.int64)
        boxes, scores = (
            self._first_round(found) if query is None else self._first_round_for(query, found, size)
        )
        for stage in self.description.stages:
            if not len(boxes):
                break
            inputs = {"embeddings": self._embed(stage.embedder, found, boxes)}
            inputs |= {"boxes": boxes, "image_size": size}
            if stage.takes_queries and query is not None:
                inputs["queries"] = np.repeat(query.loc[None], len(boxes), axis=0)
            refined = self._graph(stage.head)(**inputs)
            boxes, logits = refined["refined"], refined["logits"]
            one = np.zeros(len(boxes), np.int64)
            keep = nms_per_query(boxes, logits, one, self.description.stage_nms_threshold)
            boxes, scores = boxes[keep], sigmoid(logits[keep])
        order = np.argsort(-scores, kind="stable")
        boxes, scores = boxes[order], scores[order]
        embeddings = self._embed(self.description.embedder, found, boxes)
        height, width = view.source
        scale = np.array([width / view.output[1], height / view.output[0]] * 2, np.float32)
        return PersonDetections(boxes * scale, scores, embeddings)

    def _first_round(self, found: Outputs) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (n, 4) and scores (n,) of everyone, in the network's frame."""
        boxes, scores = found["boxes"][0], found["scores"][0]
        sure = scores > self.min_score
        boxes, scores = boxes[sure], scores[sure]
        keep = nms(boxes, scores, self.description.nms_threshold)[: self.description.max_people]
        return boxes[keep], scores[keep]

    def _first_round_for(
        self, query: PersonQuery, found: Outputs, size: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same of one query."""
        matched = self._graph(self.description.matcher)(
            anchors=found["anchors"],
            anchor_embeddings=found["anchor_embeddings"][0],
            queries=query.loc[None],
            image_size=size,
        )
        boxes, scores = matched["boxes"][0], matched["scores"][0]
        sure = scores > self.min_score
        boxes, scores = boxes[sure], scores[sure]
        one = np.zeros(len(boxes), np.int64)
        keep = np.sort(nms_per_query(boxes, scores, one, self.description.nms_threshold))
        return boxes[keep], scores[keep]

    def _embed(self, graph: str, found: Outputs, boxes: np.ndarray) -> np.ndarray:
        """(n, D) of boxes (n, 4) in the network's frame."""
        dim = self.description.embedding_dim
        parts = [np.zeros((0, dim), np.float32)] if not len(boxes) else []
        for first in range(0, len(boxes), _CHUNK):
            part = np.ascontiguousarray(boxes[first : first + _CHUNK])
            given = {"boxes": part, "image_index": np.zeros(len(part), np.int64)}
            parts.append(self._graph(graph)(p3=found["p3"], **given)["embeddings"])
        return np.concatenate(parts)

    def _view(self, image: np.ndarray) -> View:
        check_image(image)
        height, width = image.shape[:2]
        return self._augmentation((height, width), np.zeros((0, 4)), np.zeros(0, bool))

    def _encode(self, image: np.ndarray, view: View) -> Outputs:
        """What the detector's graph gives; of the last image it is still there."""
        digest = (
            hashlib.blake2b(np.ascontiguousarray(image).data).digest() + repr(image.shape).encode()
        )
        if digest != self._last[0]:
            pixels = self._pixels(image, view)
            self._last = digest, self._graph(self.description.detector)(image=pixels[None])
        return self._last[1]

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """An image as the detector's graph takes it, (3, h, w)."""
        return self._pixels(image, self._view(image))

    def _pixels(self, image: np.ndarray, view: View) -> np.ndarray:
        resize = self.description.resize
        rgb = image[:, :, ::-1] if self.image_format == "BGR" else image
        return model_pixels(rgb, view, resize.exact_8bit, resize.pixel_mean, resize.pixel_std)

    def _graph(self, name: str) -> Graph:
        if name not in self._graphs:
            # Embeddings and refined boxes stay float32.
            exact = self._runtime == BFLOAT16 and name != self.description.detector
            runtime = "openvino" if exact else self._runtime
            self._graphs[name] = open_graph(self.folder / name, runtime)
        return self._graphs[name]
