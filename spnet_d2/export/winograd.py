"""3 x 3 convolutions of an exported model with a quarter of the multiplications, for CPUs.

Runtimes multiply what the definition says; PyTorch has :mod:`spnet_d2.modeling.winograd` here. The
same filtering is said in operators that every runtime knows: a depthwise convolution makes the
tiles' 36 values, as many products of matrices follow, and ``DepthToSpace`` lays a tile's 4 x 4
outputs side by side. Results differ by rounding alone, so fingerprints stay.

Shapes: ``N`` images, ``C`` / ``K`` channels in / out, ``T`` tiles of a map of r rows and c columns.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spnet_d2.modeling.winograd import TILE, TO_FILTERS, TO_OUTPUTS, TO_TILES
from spnet_d2.utils.atomic_io import atomic_path

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto

# Thinner layers gain nothing.
_MIN_CHANNELS = 128
_VALUES, _OUTPUTS = len(TO_TILES), len(TO_OUTPUTS)
_PLAIN = {
    "strides": [1, 1],
    "dilations": [1, 1],
    "pads": [1, 1, 1, 1],
    "group": 1,
    "auto_pad": b"NOTSET",
}


def use_winograd(file: str | os.PathLike) -> int:
    """
    Rewrite a graph.

    Args:
        file: ``.onnx`` in float32; replaced.

    Returns:
        How many convolutions were changed.
    """
    import onnx

    model = onnx.load(file)
    count = _Rewritten(model.graph).count
    if count:
        with atomic_path(Path(file)) as part:
            onnx.save(model, part)
    return count


class _Rewritten:
    """A graph whose convolutions are replaced, and how many were."""

    def __init__(self, graph: "GraphProto"):
        self._weights = {weight.name: weight for weight in graph.initializer}
        self._constants: dict[str, TensorProto] = {}
        self._nodes: list[NodeProto] = []
        self._filters: dict[str, str] = {}
        self.count = 0
        for node in graph.node:
            if self._gains(node):
                self._replace(node)
                self.count += 1
            else:
                self._nodes.append(node)
        used = {name for node in self._nodes for name in node.input}
        kept = [w for w in (*graph.initializer, *self._constants.values()) if w.name in used]
        del graph.node[:], graph.initializer[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend(kept)

    def _gains(self, node: "NodeProto") -> bool:
        from onnx import helper

        weight = self._weights.get(node.input[1]) if node.op_type == "Conv" else None
        if weight is None or list(weight.dims[2:]) != [3, 3]:
            return False
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        # Without padding, whose default is none, it is another convolution.
        plain = "pads" in given and all(given.get(k, v) == v for k, v in _PLAIN.items())
        return plain and min(weight.dims[:2]) >= _MIN_CHANNELS

    def _replace(self, conv: "NodeProto") -> None:
        """The nodes of one convolution, whose output keeps its name."""
        from onnx import numpy_helper

        weight = numpy_helper.to_array(self._weights[conv.input[1]])
        outs, ins = weight.shape[:2]
        (x, _, *bias), (y,) = conv.input, conv.output
        end = f"{y}/cropped" if bias else y
        products = self._products(conv, weight, x, y)
        # (N, 36, K T) -> (N, 16, K T) -> (N, 16 K, r, c) -> (N, K, 4 r, 4 c), cut to the map.
        to_outputs = self._constant("winograd/outputs", TO_OUTPUTS.numpy())
        flat = self._constant("winograd/flat", np.array([0, _VALUES, -1]))
        rows = self._add("Reshape", [products, flat], f"{y}/rows")
        outputs = self._add("MatMul", [to_outputs, rows], f"{y}/outputs")
        grid = self._add("Shape", [f"{y}/tiles"], f"{y}/grid", start=2)
        channels = self._constant(f"winograd/channels_{outs}", np.array([0, _OUTPUTS * outs]))
        shape = self._add("Concat", [channels, grid], f"{y}/shape", axis=0)
        blocks = self._add("Reshape", [outputs, shape], f"{y}/blocks")
        whole = self._add("DepthToSpace", [blocks], f"{y}/whole", blocksize=TILE, mode="DCR")
        size = self._add("Shape", [x], f"{y}/size", start=2)
        start = self._constant("winograd/start", np.array([0, 0]))
        axes = self._constant("winograd/axes", np.array([2, 3]))
        self._add("Slice", [whole, start, size, axes], end)
        if bias:
            values = numpy_helper.to_array(self._weights[bias[0]]).reshape(-1, 1, 1)
            self._add("Add", [end, self._constant(f"{bias[0]}/3d", values)], y)

    def _products(self, conv: "NodeProto", weight: np.ndarray, x: str, y: str) -> str:
        """(N, C, H, W) -> (N, 36, K, T): each of the tiles' values times the filters'."""
        outs, ins = weight.shape[:2]
        cut = np.tile(TO_TILES.numpy().reshape(_VALUES, 1, 6, 6), (ins, 1, 1, 1))
        cut_name = self._constant(f"winograd/tiles_{ins}", cut)
        # Behind the map, what completes the last tile: at most three more.
        around = {"strides": [TILE, TILE], "pads": [1, 1, TILE, TILE]}
        self._add("Conv", [x, cut_name], f"{y}/tiles", group=ins, **around)
        by_channel = self._constant(f"winograd/by_channel_{ins}", np.array([0, ins, _VALUES, -1]))
        values = self._add("Reshape", [f"{y}/tiles", by_channel], f"{y}/by_channel")
        values = self._add("Transpose", [values], f"{y}/by_value", perm=[0, 2, 1, 3])
        filters = self._transformed(conv.input[1], weight)
        return self._add("MatMul", [filters, values], f"{y}/products")

    def _transformed(self, name: str, weight: np.ndarray) -> str:
        """
        Filters (36, K, C). Runtimes compute them once, when they read the graph: the file has the
        nine values of each, which take a quarter of the place.
        """
        if name not in self._filters:
            outs, ins = weight.shape[:2]
            squares = self._constant(f"{name}/squares", weight.reshape(outs * ins, 9).T)
            matrix = self._constant("winograd/filters", TO_FILTERS.numpy())
            shape = self._constant(f"winograd/shape_{outs}_{ins}", np.array([_VALUES, outs, ins]))
            flat = self._add("MatMul", [matrix, squares], f"{name}/flat")
            self._filters[name] = self._add("Reshape", [flat, shape], f"{name}/transformed")
        return self._filters[name]

    def _constant(self, name: str, value: np.ndarray) -> str:
        from onnx import numpy_helper

        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def _add(self, kind: str, inputs: list[str], output: str, **attributes) -> str:
        from onnx import helper

        self._nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output
