"""Exported models run where neither PyTorch nor Detectron2 is installed."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What the package needs for training and PyTorch's models.
MISSING = (
    *("torch", "torchvision", "timm", "detectron2", "fvcore", "iopath", "yacs", "omegaconf"),
    *("hydra", "pycocotools", "safetensors", "onnx", "onnxscript"),
)
HIDE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {MISSING!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
"""


def run_without(code: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", HIDE + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_package_is_imported_and_says_what_is_missing():
    code = "import spnet_d2, spnet_d2.search, spnet_d2.evaluation, spnet_d2.gallery\n"
    done = run_without(code + "spnet_d2.add_spnet_config")
    assert done.returncode == 1 and done.stderr.count("Traceback") == 1
    assert "ImportError: spnet_d2 needs Detectron2" in done.stderr


@pytest.mark.parametrize("tool", ["train_net", "convert_llnl_checkpoint"])
def test_tools_that_train_say_what_is_missing(tool):
    done = run_without(f"import spnet_d2.cli.{tool}")
    assert done.returncode == 1 and done.stderr.count("Traceback") == 1
    assert "ImportError: spnet_d2 needs Detectron2" in done.stderr


@pytest.mark.parametrize("tool", ["search", "evaluate", "visualize_results"])
def test_tools_that_need_no_pytorch_start(tool):
    done = run_without(f"from spnet_d2.cli.{tool} import main; main(['--help'])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:")
