"""Other precisions of an exported model's detector: float16, and 8-bit integers.

Trunk, FPN and anchor convolution change; what comes after them, and the embedders, stay float32.
"""

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from spnet_d2.utils.atomic_io import atomic_path

from .description import Description
from .predictor import OnnxPredictor

PRECISIONS = ("float32", "float16", "int8")
# What the exporter calls the modules that a node is of.
_SCOPES = "pkg.torch.onnx.name_scopes"
_CHANGED = ("pyramid.backbone", "anchors")

logger = logging.getLogger(__name__)


def to_float16(folder: str | os.PathLike) -> Description:
    """
    Let the detector of ``folder`` compute in float16: for GPUs, and half as large.

    Returns:
        What ``model.json`` says then.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    description = Description.load(folder)
    file = Path(folder) / description.detector
    model = onnx.load(file)
    kept = [node.name for node in model.graph.node if not _changes(node)]
    model = convert_float_to_float16(
        model, keep_io_types=True, node_block_list=kept, disable_shape_infer=False
    )
    with atomic_path(file) as part:
        onnx.save(model, part)
    return _renamed(folder, description, "float16")


def to_int8(folder: str | os.PathLike, frames: Iterable[np.ndarray]) -> Description:
    """
    Let the detector's convolutions and matrix products compute in 8 bits.

    Static, per channel. Normalisation layers, boxes and embedders stay float32.

    Args:
        folder: of the exported model in float32.
        frames: (H, W, 3) uint8 RGB images that are like those to be searched.

    Returns:
        What ``model.json`` says then.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    description = Description.load(folder)
    file = Path(folder) / description.detector
    inputs = _inputs(OnnxPredictor(folder, image_format="RGB"), frames)
    with tempfile.TemporaryDirectory(dir=folder) as scratch, atomic_path(file) as part:
        prepared = Path(scratch) / "prepared.onnx"
        # Batch norms go into convolutions.
        quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
        chosen = [
            node.name
            for node in onnx.load(prepared).graph.node
            if node.op_type in ("Conv", "MatMul", "Gemm") and _changes(node)
        ]
        quantize_static(
            str(prepared),
            str(part),
            _Reader(inputs),
            nodes_to_quantize=chosen,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
    return _renamed(folder, description, "int8")


class _Reader:
    """Inputs one after another, as ONNX Runtime asks for them."""

    def __init__(self, inputs: Iterator[dict[str, np.ndarray]]):
        self._inputs = inputs

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._inputs, None)


def _inputs(
    predictor: OnnxPredictor, frames: Iterable[np.ndarray]
) -> Iterator[dict[str, np.ndarray]]:
    for frame in frames:
        yield {"image": predictor.pixels(frame)[None]}


def _changes(node) -> bool:
    """Whether a node is of the trunk, the FPN or the anchor convolution."""
    scopes = next((p.value for p in node.metadata_props if p.key == _SCOPES), "")
    return any(f"'{scope}" in scopes for scope in _CHANGED)


def _renamed(folder: str | os.PathLike, description: Description, precision: str) -> Description:
    """Boxes and embeddings are others: a fingerprint of its own."""
    mixed = hashlib.sha256(f"{description.fingerprint} {precision}".encode()).hexdigest()[:16]
    settings = {**description.settings, "exported_precision": precision}
    description = replace(description, precision=precision, fingerprint=mixed, settings=settings)
    description.save(folder)
    return description
