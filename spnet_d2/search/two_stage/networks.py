"""Run a network file: ONNX Runtime for ``.onnx``, OpenVINO for its own ``.xml``."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from spnet_d2.search.runtimes import import_runtime, thread_count

from .settings import ModelFileError

_PIECE = 2**20


class Network(Protocol):
    """
    A network with one input (B, 3, H, W) float32.

    Attributes:
        input_shape: (B, 3, H, W); -1 where the network takes any number.
        output_shapes: shape by name, -1 as above.
    """

    input_shape: tuple[int, ...]
    output_shapes: dict[str, tuple[int, ...]]

    def run(self, batch: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        """The named outputs for a batch."""


class OnnxNetwork:
    """An ``.onnx`` file in ONNX Runtime, on the CPU."""

    def __init__(self, file: Path):
        runtime = import_runtime("onnxruntime", "onnx", file)
        with _reading(file, "ONNX Runtime"):
            self._session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        inputs = self._session.get_inputs()
        self._input = inputs[0].name
        self.input_shape = _check_inputs([_known(i.shape) for i in inputs], file)
        self.output_shapes = {o.name: _known(o.shape) for o in self._session.get_outputs()}

    def run(self, batch: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        return self._session.run(list(outputs), {self._input: batch})


class OpenVinoNetwork:
    """An ``.xml`` file with its ``.bin`` beside it in OpenVINO, on the CPU."""

    def __init__(self, file: Path):
        runtime = import_runtime("openvino", "openvino", file)
        if not file.with_suffix(".bin").is_file():
            raise ModelFileError(f"{file}: its weights {file.with_suffix('.bin').name} are missing")
        with _reading(file, "OpenVINO"):
            settings = {"INFERENCE_NUM_THREADS": threads} if (threads := thread_count()) else {}
            self._model = runtime.Core().compile_model(str(file), "CPU", settings)
        self.input_shape = _check_inputs(
            [
                _known(i.partial_shape.to_string().strip("[]").split(","))
                for i in self._model.inputs
            ],
            file,
        )
        self.output_shapes = {
            o.any_name: _known(o.partial_shape.to_string().strip("[]").split(","))
            for o in self._model.outputs
        }

    def run(self, batch: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        found = self._model(batch)
        # A copy: the runtime uses its arrays again.
        return [np.array(found[name]) for name in outputs]


def open_network(file: Path, size: tuple[int, int]) -> Network:
    """
    Open a network that takes images of a size.

    Args:
        file: ``.onnx`` or ``.xml``.
        size: (height, width).

    Raises:
        ModelFileError: another suffix, an unreadable file, an input of another size.
        ImportError: the runtime is not installed.
    """
    kinds: dict[str, Callable[[Path], Network]] = {".onnx": OnnxNetwork, ".xml": OpenVinoNetwork}
    if file.suffix.lower() not in kinds:
        raise ModelFileError(f"{file}: expected a network as .onnx or OpenVINO's .xml.")
    network = kinds[file.suffix.lower()](file)
    for wanted, found in zip((3, *size), network.input_shape[1:]):
        if found not in (-1, wanted):
            raise ModelFileError(
                f"{file} takes images of shape {network.input_shape[1:]} (channels, height, "
                f"width), but its YAML file says size [{size[0]}, {size[1]}]."
            )
    return network


def content_hash(file: Path) -> str:
    """Of a network's file, and of the weights that lie beside it (``.bin``, ``.data``)."""
    digest = hashlib.sha256()
    beside = [file.with_suffix(".bin")] if file.suffix.lower() == ".xml" else []
    beside += [p for p in (Path(f"{file}.data"), Path(f"{file}_data")) if p.is_file()]
    for part in (file, *beside):
        with open(part, "rb") as opened:
            while piece := opened.read(_PIECE):
                digest.update(piece)
    return digest.hexdigest()[:16]


class _reading:
    """Turn whatever a runtime raises for a file into one error."""

    def __init__(self, file: Path, runtime: str):
        self.file, self.runtime = file, runtime

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, Exception):
            reason = " ".join(str(error).split())[:300]
            raise ModelFileError(f"{self.runtime} can't read {self.file}: {reason}") from error


def _known(shape: Sequence) -> tuple[int, ...]:
    """-1 for symbolic, missing and dynamic sizes."""
    return tuple(int(v) if str(v).strip().isdecimal() else -1 for v in shape)


def _check_inputs(shapes: list[tuple[int, ...]], file: Path) -> tuple[int, ...]:
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise ModelFileError(
            f"{file}: expected a network with one input (batch, channels, height, width), found "
            f"inputs {shapes}."
        )
    return shapes[0]
