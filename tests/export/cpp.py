"""Compile the examples in C++, where there is a compiler."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


def package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(f"needs {name}")
    return Path(spec.origin).parent


def openvino() -> tuple[Path, Path]:
    """Headers and library; OpenVINO's package for Python brings both."""
    folder = package("openvino")
    return folder / "include", next((folder / "libs").glob("libopenvino.so*"))


def onnxruntime() -> tuple[Path, Path]:
    """The package for Python has the library alone; headers are in the releases."""
    library = next((package("onnxruntime") / "capi").glob("libonnxruntime.so*"), None)
    places = [os.environ.get("ONNXRUNTIME_INCLUDE", ""), "/usr/include/onnxruntime"]
    for place in filter(None, places):
        if library and (Path(place) / "onnxruntime_cxx_api.h").is_file():
            return Path(place), library
    pytest.skip("needs ONNX Runtime's C++ headers; ONNXRUNTIME_INCLUDE says where they are")


RUNTIMES = {"openvino": openvino, "onnxruntime": onnxruntime}


def compiled(runtime: str, folder: Path) -> Path:
    """The program of an example; skips the test where it can't be compiled."""
    if not (compiler := shutil.which("g++")):
        pytest.skip("needs g++")
    include, library = RUNTIMES[runtime]()
    program = folder / "search"
    command = [compiler, "-std=c++17", f"-I{include}", EXAMPLES / f"search_{runtime}.cpp"]
    command += [library, f"-Wl,-rpath,{library.parent}:{folder}", "-o", program]
    # Programs look for libonnxruntime.so.1, and the package has libonnxruntime.so.1.x.y.
    stem, _, version = library.name.partition(".so.")
    (folder / f"{stem}.so.{version.partition('.')[0]}").symlink_to(library)
    subprocess.run(command, check=True)
    return program
