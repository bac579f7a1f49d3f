"""A trained SPNet -> a folder of ONNX graphs with ``model.json``."""

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

from spnet_d2.modeling import SPNet
from spnet_d2.modeling.box_detector import BoxDetector
from spnet_d2.modeling.swap_path import SwapPath
from spnet_d2.search.predictor import PersonSearchPredictor
from spnet_d2.utils.atomic_io import atomic_path

from .description import Description, Resize, StageFiles
from .free_size import for_any_size
from .graphs import Detector, Embedder, Encoder, Matcher, Pyramid, QueryStage, Stage
from .winograd import use_winograd

logger = logging.getLogger(__name__)

DETECTOR, EMBEDDER, MATCHER = "detector.onnx", "embedder.onnx", "matcher.onnx"
# ONNX operators as of this version; RoIAlign agrees with torchvision's from 16 on.
_OPSET = 20
# What graphs are traced with; any other sizes will do afterwards.
_SIZE, _IMAGES, _BOXES = (470, 730), 2, 5


def export_model(
    predictor: PersonSearchPredictor,
    cfg,
    folder: str | os.PathLike,
    licence: str = "",
    for_cpus: bool = True,
) -> Description:
    """
    Write the graphs of a predictor's model in float32, and ``model.json``.

    Args:
        predictor: with the trained model, on the CPU.
        cfg: its config.
        folder: to write to; files of these names are replaced.
        licence: of the weights, for people to read.
        for_cpus: large 3 x 3 convolutions of the detector are done as CPUs do them fastest
            (:mod:`.winograd`); other devices have better ways of their own.

    Returns:
        What ``model.json`` says.

    Raises:
        ImportError: ``onnx`` or ``onnxscript`` is missing.
    """
    check_packages()
    model, folder = spnet_of(predictor), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    writer = Writer(model, partial(_write_into, folder))
    writer.detector(torch.float32 if cfg.INPUT.EXACT_8BIT else torch.uint8)
    in_tiles = for_cpus and use_winograd(folder / DETECTOR) > 0
    localisers = writer.embedders()
    stages = writer.stages(localisers)
    description = describe(predictor, cfg, localisers, stages, licence, in_tiles)
    description.save(folder)
    return description


def check_packages() -> None:
    """
    See that what PyTorch's exporter needs is there.

    Raises:
        ImportError: says how to get it.
    """
    for package in ("onnx", "onnxscript"):
        try:
            import_module(package)
        except ImportError as error:
            raise ImportError(
                f"Exporting needs {package}: pip install {package}, or spnet_d2[export]."
            ) from error


class Writer:
    """Graph by graph of one model, with what each is traced with."""

    def __init__(self, model: SPNet, write: Callable):
        """
        Args:
            model: in eval mode, on the CPU.
            write: takes name, module, inputs, their free dimensions, and names of the outputs.
        """
        self.model, self._write = model, write
        self.heads, self.proposals = model.roi_heads, model.proposal_generator
        self.query_centric = model.test_pathway == "QC"

    def detector(self, dtype: torch.dtype) -> None:
        """Images of ``dtype`` -> p3 and what is found in it."""
        pyramid = Pyramid(self.model, for_any_size(self.model.backbone))
        image = torch.zeros(_IMAGES, 3, *_SIZE, dtype=dtype)
        free = {"image": {0: "batch", 2: "height", 3: "width"}}
        if not self.query_centric:
            graph, names = Detector(pyramid, self.proposals), ("p3", "boxes", "scores")
            self._write(DETECTOR, graph, {"image": image}, free, names)
            return
        names = ("p3", "anchors", "anchor_embeddings")
        self._write(DETECTOR, Encoder(pyramid, self.proposals), {"image": image}, free, names)
        self._matcher()

    def _matcher(self) -> None:
        dim = self.proposals.anchor_embedder.dim
        inputs = {
            "anchors": torch.rand(2000, 4),
            "anchor_embeddings": torch.rand(2000, dim),
            "queries": torch.rand(3, dim),
            "image_size": torch.tensor(_SIZE),
        }
        free = {"anchors": {0: "anchors"}, "anchor_embeddings": {0: "anchors"}}
        free["queries"] = {0: "queries"}
        free["image_size"] = {}
        self._write(MATCHER, Matcher(self.proposals), inputs, free, ("boxes", "scores"))

    def embedders(self) -> list[str]:
        """Returns the names of the graphs that give localisation embeddings, stage by stage."""
        self._embedder(EMBEDDER, self.heads.reid_embedder)
        if not self.heads.loc_embedders:
            return [EMBEDDER] * max(1, self.heads.num_cascades)
        used = self.heads.num_cascades or int(self.query_centric)
        names = [f"localiser_{t + 1}.onnx" for t in range(used)]
        for name, embedder in zip(names, self.heads.loc_embedders, strict=False):
            self._embedder(name, embedder)
        return names

    def _embedder(self, name: str, embedder: nn.Module) -> None:
        boxes = torch.tensor([[8.0, 8.0, 60.0, 100.0]]).repeat(_BOXES, 1)
        inputs = {
            "p3": torch.rand(_IMAGES, self.model.backbone.channels, 28, 36),
            "boxes": boxes,
            "image_index": torch.tensor([0, 0, 0, 1, 1]),
        }
        free = {"p3": {0: "batch", 2: "rows", 3: "columns"}, "boxes": {0: "boxes"}}
        free["image_index"] = {0: "boxes"}
        self._write(name, Embedder(for_any_size(embedder)), inputs, free, ("embeddings",))

    def stages(self, localisers: list[str]) -> list[StageFiles]:
        found = []
        for t in range(1, self.heads.num_cascades + 1):
            name = f"stage_{t}.onnx"
            # Without queries, a query-centric model's stages use their bridges.
            takes_queries = self.query_centric and self.heads.query_centric
            self._stage(name, t, takes_queries)
            found.append(
                StageFiles(embedder=localisers[t - 1], head=name, takes_queries=takes_queries)
            )
        return found

    def _stage(self, name: str, t: int, takes_queries: bool) -> None:
        detector, path = self.heads.box_detectors[t - 1], self.heads.swap_paths[t - 1]
        assert isinstance(detector, BoxDetector) and isinstance(path, SwapPath)
        dim = self.proposals.anchor_embedder.dim
        inputs = {
            "embeddings": torch.rand(_BOXES, dim),
            "boxes": torch.rand(_BOXES, 4) * 100,
            "image_size": torch.tensor(_SIZE),
        }
        graph: nn.Module = QueryStage(detector)
        if takes_queries:
            inputs["queries"] = torch.rand(_BOXES, dim)
        else:
            graph = Stage(path, detector)
        free = {key: {} if key == "image_size" else {0: "boxes"} for key in inputs}
        self._write(name, graph, inputs, free, ("refined", "logits"))


def spnet_of(predictor: PersonSearchPredictor) -> SPNet:
    """
    The model to export.

    Raises:
        TypeError: the predictor runs another one.
    """
    if not isinstance(predictor.model, SPNet):
        raise TypeError(f"Only SPNet can be exported, found {type(predictor.model).__name__}.")
    return predictor.model


def _write_into(folder: Path, name: str, *graph) -> None:
    logger.info("Exporting %s.", name)
    write_graph(folder / name, *graph)


def write_graph(
    file: Path,
    graph: nn.Module,
    inputs: dict[str, Tensor],
    free: dict[str, dict],
    outputs: Sequence[str],
) -> None:
    """
    Write a module as ONNX.

    Args:
        file: ``.onnx``.
        graph: in eval mode.
        inputs: to trace it with, in its order.
        free: names of each one's dimensions that may have any size.
        outputs: names of what it gives.
    """
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            graph.eval(),
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes=tuple(free[key] for key in inputs),
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=_OPSET,
            verbose=False,
        )
    assert program is not None
    with atomic_path(file) as part:
        program.save(part, external_data=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes, which are for those who write exporters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def describe(
    predictor: PersonSearchPredictor,
    cfg,
    localisers: list[str],
    stages: list[StageFiles],
    licence: str,
    in_tiles: bool = False,
) -> Description:
    """What ``model.json`` says, of what :class:`Writer` made; and whether the detector's
    convolutions are in tiles."""
    model = spnet_of(predictor)
    selection, heads = model.proposal_generator.selection, model.roi_heads
    query_centric = model.test_pathway == "QC"
    return Description(
        detector=DETECTOR,
        embedder=EMBEDDER,
        matcher=MATCHER if query_centric else "",
        localiser=localisers[0] if query_centric else "",
        stages=stages,
        single="",
        query_centric=query_centric,
        resize=Resize(
            kind=cfg.INPUT.AUG_TEST,
            min_size=cfg.INPUT.MIN_SIZE_TEST,
            max_size=cfg.INPUT.MAX_SIZE_TEST,
            exact_8bit=bool(cfg.INPUT.EXACT_8BIT),
            pixel_mean=list(cfg.MODEL.PIXEL_MEAN),
            pixel_std=list(cfg.MODEL.PIXEL_STD),
        ),
        min_score=selection.score_thresh,
        nms_threshold=selection.nms_thresh,
        # Of queries all are kept.
        max_people=0 if query_centric else selection.detections_per_image,
        stage_nms_threshold=heads.cascade.nms_thresh,
        embedding_dim=heads.reid.dim,
        localisation_dim=model.proposal_generator.anchor_embedder.dim,
        classes=["person"],
        precision="float32",
        winograd=in_tiles,
        fingerprint=predictor.fingerprint,
        settings=dict(predictor.settings),
        licence=licence,
    )
