"""Float16 for an exported model's detector: for GPUs, and half as large.

Trunk, FPN and anchor convolution change; what comes after them, and the embedders, stay float32.
"""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

from spnet_d2.utils.atomic_io import atomic_path

from .description import Description

# 8-bit integers are not among them: docs/export.md says what they lose.
PRECISIONS = ("float32", "float16")
# What the exporter calls the modules that a node is of.
_SCOPES = "pkg.torch.onnx.name_scopes"
_CHANGED = ("pyramid.backbone", "anchors")


def to_float16(folder: str | os.PathLike) -> Description:
    """
    Let the detector of ``folder`` compute in float16; what goes in and comes out stays as it is.

    Args:
        folder: of an exported model in float32.

    Returns:
        What ``model.json`` says then. Boxes and embeddings are others: so is the fingerprint.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    description = Description.load(folder)
    file = Path(folder) / description.detector
    model = onnx.load(file)
    kept = [node.name for node in model.graph.node if not _changes(node)]
    model = convert_float_to_float16(model, keep_io_types=True, node_block_list=kept)
    with atomic_path(file) as part:
        onnx.save(model, part)
    mixed = f"{description.fingerprint} float16"
    description = replace(
        description,
        precision="float16",
        fingerprint=hashlib.sha256(mixed.encode()).hexdigest()[:16],
        settings={**description.settings, "exported_precision": "float16"},
    )
    description.save(folder)
    return description


def _changes(node) -> bool:
    """Whether a node is of the trunk, the FPN or the anchor convolution."""
    scopes = next((p.value for p in node.metadata_props if p.key == _SCOPES), "")
    return any(f"'{scope}" in scopes for scope in _CHANGED)
