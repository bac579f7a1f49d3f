"""Inference runtimes beside PyTorch: ONNX Runtime and OpenVINO, where they are installed."""

import os
from importlib import import_module
from pathlib import Path


def import_runtime(package: str, extra: str, file: Path):
    """
    The module of a runtime.

    Args:
        package: its name.
        extra: of spnet_d2, that brings it.
        file: what needs it.

    Raises:
        ImportError: it is not installed; says how to get it.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{file.name} needs {package}: pip install {package}, or spnet_d2[{extra}]."
        ) from error


def thread_count() -> int:
    """As many as OMP_NUM_THREADS says, which PyTorch obeys, too; 0: the runtime's own choice."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    return int(value) if value.isdecimal() else 0
