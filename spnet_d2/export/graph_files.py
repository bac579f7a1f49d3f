"""Run an exported graph: ONNX Runtime, or OpenVINO."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from spnet_d2.search.runtimes import import_runtime, thread_count

from .description import ExportedModelError

# OpenVINO in bfloat16 is for CPUs that multiply matrices in it (amx_bf16).
BFLOAT16 = "openvino-bfloat16"
RUNTIMES = ("onnxruntime", "openvino", BFLOAT16)


class Graph(Protocol):
    """A graph in a runtime: ``graph(name=array, ...)`` gives its outputs by name."""

    def __call__(self, **inputs: np.ndarray) -> Mapping[str, np.ndarray]:
        """Run it."""


class OnnxGraph:
    """In ONNX Runtime."""

    def __init__(self, file: Path, providers: tuple[str, ...] = ("CPUExecutionProvider",)):
        """
        Args:
            file: ``.onnx``.
            providers: ONNX Runtime's execution providers, the first one that serves.
        """
        runtime = import_runtime("onnxruntime", "onnx", file)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = thread_count()
        # Warnings are about what could be folded, and the like.
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(str(file), options, providers=list(providers))
        self._outputs = [o.name for o in self._session.get_outputs()]

    def __call__(self, **inputs: np.ndarray) -> Mapping[str, np.ndarray]:
        return dict(zip(self._outputs, self._session.run(None, inputs), strict=True))


class OpenVinoGraph:
    """In OpenVINO."""

    def __init__(self, file: Path, precision: str = "f32"):
        """
        Args:
            file: ``.onnx``.
            precision: what it computes in; left to itself, it takes bfloat16 where the CPU has it.
        """
        runtime = import_runtime("openvino", "openvino", file)
        settings: dict[str, str | int] = {"INFERENCE_PRECISION_HINT": precision}
        if threads := thread_count():
            settings["INFERENCE_NUM_THREADS"] = threads
        self._model = runtime.Core().compile_model(str(file), "CPU", settings)
        self._outputs = [o.any_name for o in self._model.outputs]

    def __call__(self, **inputs: np.ndarray) -> Mapping[str, np.ndarray]:
        found = self._model(inputs)
        # Copies: the runtime uses its arrays again.
        return {name: np.array(found[name]) for name in self._outputs}


def open_graph(file: Path, runtime: str = "onnxruntime") -> Graph:
    """
    Open a graph of an exported model.

    Args:
        file: ``.onnx``.
        runtime: one of ``RUNTIMES``.

    Raises:
        ExportedModelError: no such file, or one that the runtime can't read.
        ImportError: the runtime is not installed.
        ValueError: unknown ``runtime``.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime must be one of {', '.join(RUNTIMES)}, found {runtime!r}.")
    if not file.is_file():
        raise ExportedModelError(f"No graph at {file}; export the model again.")
    try:
        if runtime == "onnxruntime":
            return OnnxGraph(file)
        return OpenVinoGraph(file, "bf16" if runtime == BFLOAT16 else "f32")
    except ImportError:
        raise
    except Exception as error:
        # Runtimes have errors of many types.
        reason = " ".join(str(error).split())[:300]
        raise ExportedModelError(f"{runtime} can't read {file}: {reason}") from error
