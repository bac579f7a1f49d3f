"""All graphs of an exported model in one, NMS inside: for programs in C++ and other languages.

NMS inside of a graph is float32, where the model's cascade takes float64: of boxes whose IoU is
within rounding of the threshold, another one may stay.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from spnet_d2.utils.atomic_io import atomic_path

from .description import Description, ExportedModelError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

SINGLE = "search.onnx"
# Everyone of all images: boxes (N, k, 4) and scores (N, k) -> whose image, boxes, scores.
_FIRST_ROUND = """
first_round (float[N,k,4] boxes, float[N,k] scores)
    => (int64[m] image_index, float[m,4] kept, float[m] kept_scores)
{{
    one = Constant <value_ints: ints = [1]> ()
    most = Constant <value_ints: ints = [{most}]> ()
    iou = Constant <value_floats: floats = [{iou}]> ()
    least = Constant <value_floats: floats = [{least}]> ()
    by_class = Unsqueeze (scores, one)
    found = NonMaxSuppression (boxes, by_class, most, iou, least)
    image_column = Constant <value_int: int = 0> ()
    columns = Constant <value_ints: ints = [0, 2]> ()
    image_index = Gather <axis: int = 1> (found, image_column)
    places = Gather <axis: int = 1> (found, columns)
    kept = GatherND (boxes, places)
    kept_scores = GatherND (scores, places)
}}
"""
# Boxes (n, 4) and logits (n,) of a cascade stage -> those that stay. Images are classes to NMS:
# boxes of other images are below its least score.
_STAGE = """
stage (uint8[N,3,h,w] image, int64[n] image_index, float[n,4] boxes, float[n] logits)
    => (int64[m] kept_index, float[m,4] kept, float[m] kept_scores)
{{
    zero = Constant <value_ints: ints = [0]> ()
    first = Constant <value_int: int = 0> ()
    step = Constant <value_int: int = 1> ()
    most = Constant <value_ints: ints = [{most}]> ()
    iou = Constant <value_floats: floats = [{iou}]> ()
    never = Constant <value_floats: floats = [-3.0e38]> ()
    least = Constant <value_floats: floats = [-1.0e38]> ()
    one = Constant <value_ints: ints = [1]> ()
    image_shape = Shape (image)
    count = Gather (image_shape, first)
    images = Range (first, count, step)
    rows = Unsqueeze (images, one)
    own = Equal (rows, image_index)
    masked = Where (own, logits, never)
    by_class = Unsqueeze (masked, zero)
    together = Unsqueeze (boxes, zero)
    found = NonMaxSuppression (together, by_class, most, iou, least)
    box_column = Constant <value_int: int = 2> ()
    places = Gather <axis: int = 1> (found, box_column)
    kept_index = Gather (image_index, places)
    kept = Gather (boxes, places)
    kept_logits = Gather (logits, places)
    kept_scores = Sigmoid (kept_logits)
}}
"""
_SIZE = """
size (uint8[N,3,h,w] image) => (int64[2] image_size)
{
    sides = Constant <value_ints: ints = [2, 3]> ()
    image_shape = Shape (image)
    image_size = Gather (image_shape, sides)
}
"""
# No limit after a stage.
_MANY = 1 << 30
OUTPUTS = ("image_index", "boxes", "scores", "embeddings")


def add_single_file(folder: str | os.PathLike) -> Description:
    """
    Write ``search.onnx`` into the folder of an exported model.

    It takes ``image`` (N, 3, H, W) and gives ``image_index`` (n,), ``boxes`` (n, 4) in pixels of
    ``image``, ``scores`` (n,) and ``embeddings`` (n, D_r), image by image and by falling score.

    Returns:
        What ``model.json`` says then.

    Raises:
        ExportedModelError: a query-centric model.
    """
    import onnx

    description = Description.load(folder)
    if description.query_centric:
        raise ExportedModelError(
            "A query-centric model has no single file: its boxes depend on the query. Export "
            "without --single-file, or with MODEL.SPNET.TEST_PATHWAY OC."
        )
    model = _Joined(Path(folder)).model(description)
    onnx.checker.check_model(model)
    with atomic_path(Path(folder) / SINGLE) as part:
        onnx.save(model, part)
    description = replace(description, single=SINGLE)
    description.save(folder)
    return description


class _Joined:
    """Graphs one behind the other; a graph that is used twice has its weights once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._loaded: dict[str, ModelProto] = {}
        self._nodes: list = []
        self._uses = 0

    def model(self, d: Description) -> "ModelProto":
        import onnx
        from onnx import helper

        found = self._use(self._load(d.detector), {"image": "image"})
        limits = {"most": d.max_people, "iou": d.nms_threshold, "least": d.min_score}
        first = onnx.parser.parse_graph(_FIRST_ROUND.format(**limits))
        kept = self._use(first, {"boxes": found["boxes"], "scores": found["scores"]})
        index, boxes, scores = kept.values()
        size = self._use(onnx.parser.parse_graph(_SIZE), {"image": "image"})["image_size"]
        nms = _STAGE.format(most=_MANY, iou=d.stage_nms_threshold)
        for stage in d.stages:
            embeddings = self._embed(stage.embedder, found["p3"], boxes, index)
            given = {"embeddings": embeddings, "boxes": boxes, "image_size": size}
            refined, logits = self._use(self._load(stage.head), given).values()
            given = {"image": "image", "image_index": index, "boxes": refined, "logits": logits}
            index, boxes, scores = self._use(onnx.parser.parse_graph(nms), given).values()
        results = (index, boxes, scores, self._embed(d.embedder, found["p3"], boxes, index))
        ends = [
            helper.make_node("Identity", [name], [output])
            for name, output in zip(results, OUTPUTS, strict=True)
        ]
        detector = self._loaded[d.detector]
        graph = helper.make_graph(
            [*self._nodes, *ends],
            "search",
            [detector.graph.input[0]],
            _outputs(d.embedding_dim),
            [weight for model in self._loaded.values() for weight in model.graph.initializer],
        )
        return helper.make_model(
            graph,
            opset_imports=detector.opset_import,
            ir_version=detector.ir_version,
            functions=[f for model in self._loaded.values() for f in model.functions],
        )

    def _embed(self, file: str, p3: str, boxes: str, index: str) -> str:
        given = {"p3": p3, "boxes": boxes, "image_index": index}
        return self._use(self._load(file), given)["embeddings"]

    def _load(self, file: str) -> "GraphProto":
        """A file's graph, its weights under names of their own."""
        import onnx

        if file not in self._loaded:
            model = onnx.load(self.folder / file)
            prefix = f"{Path(file).stem}/"
            names = {weight.name for weight in model.graph.initializer}
            for weight in model.graph.initializer:
                weight.name = prefix + weight.name
            for node in model.graph.node:
                node.input[:] = [prefix + n if n in names else n for n in node.input]
            self._loaded[file] = model
        return self._loaded[file].graph

    def _use(self, graph: "GraphProto", given: dict[str, str]) -> dict[str, str]:
        """Append a graph's nodes for named inputs; returns the names of its outputs."""
        import onnx

        self._uses += 1
        weights = {weight.name for weight in graph.initializer}
        prefix = f"{self._uses}/"

        def rename(name: str) -> str:
            return given.get(name, name if name in weights or not name else prefix + name)

        for node in graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = f"{prefix}{len(self._nodes)}"
            copy.input[:] = [rename(name) for name in node.input]
            copy.output[:] = [rename(name) for name in node.output]
            self._nodes.append(copy)
        return {output.name: rename(output.name) for output in graph.output}


def _outputs(dim: int) -> list:
    from onnx import TensorProto, helper

    shapes: list[list] = [["people"], ["people", 4], ["people"], ["people", dim]]
    types = [TensorProto.INT64, *[TensorProto.FLOAT] * 3]
    return [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in zip(OUTPUTS, types, shapes, strict=True)
    ]
