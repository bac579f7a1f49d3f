"""Exported models run where neither PyTorch nor Detectron2 is installed."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement

from tests.fixtures.onnx_files import write_detector, write_reid
from tests.fixtures.without_pytorch import HIDE, ROOT


def run_without(code: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", HIDE + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_package_is_imported_and_says_what_is_missing():
    code = "import spnet_d2, spnet_d2.search, spnet_d2.evaluation, spnet_d2.gallery\n"
    done = run_without(code + "spnet_d2.add_spnet_config")
    assert done.returncode == 1 and done.stderr.count("Traceback") == 1
    assert "ImportError: spnet_d2 needs Detectron2" in done.stderr


@pytest.mark.parametrize("tool", ["train_net", "convert_checkpoint"])
def test_tools_that_train_say_what_is_missing(tool):
    done = run_without(f"import spnet_d2.cli.{tool}")
    assert done.returncode == 1 and done.stderr.count("Traceback") == 1
    assert "ImportError: spnet_d2 needs Detectron2" in done.stderr


@pytest.mark.parametrize(
    "tool", ["search", "gallery", "predict", "evaluate", "autolabel", "visualize_results"]
)
def test_tools_that_need_no_pytorch_start(tool):
    done = run_without(f"from spnet_d2.cli.{tool} import main; main(['--help'])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:")


def test_registered_data_sets_need_detectron2(tmp_path):
    code = "from spnet_d2.cli.predict import main; sys.exit(main(sys.argv[1:]))"
    done = run_without(code, "--dataset", "prw_test", "--output", str(tmp_path / "p.npz"))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("predict: spnet_d2 needs Detectron2")


@pytest.fixture
def two_stage(tmp_path):
    """Options of a detector that finds the same two people everywhere, and of a re-id model."""
    rows = [[0, 1, 0.9, 0.05, 0.1, 0.3, 0.5], [0, 1, 0.8, 0.4, 0.2, 0.8, 0.9]]
    write_detector(tmp_path / "det.onnx", (60, 80), {"found": np.array([[rows]], np.float32)})
    write_reid(tmp_path / "reid.onnx", (16, 8))
    common = {"licence": "none", "channels": "BGR"}
    detector = {"network": "det.onnx", "size": [60, 80], "layout": "ssd", "person": 1, "nms": 1}
    reid = {"network": "reid.onnx", "size": [16, 8], "scale": 255, "mean": [0.5, 0.5, 0.5]}
    (tmp_path / "det.yaml").write_text(yaml.safe_dump(common | detector))
    (tmp_path / "reid.yaml").write_text(yaml.safe_dump(common | reid))
    return ["--detector", str(tmp_path / "det.yaml"), "--reid", str(tmp_path / "reid.yaml")]


def use_everything(work: Path, *model: str) -> subprocess.CompletedProcess:
    code = "import runpy\nsys.argv[0] = 'uses'\n"
    code += f"runpy.run_path({str(ROOT / 'tests/export/uses.py')!r}, run_name='__main__')"
    return run_without(code, str(work), *model)


def test_a_two_stage_predictor_is_used_for_everything(two_stage, tmp_path):
    done = use_everything(tmp_path / "work", *two_stage)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("everything ran without PyTorch\n")


def test_an_exported_model_is_used_for_everything(detecting_everyone, tmp_path):
    _, folder = detecting_everyone
    done = use_everything(tmp_path / "work", "--exported", str(folder))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("everything ran without PyTorch\n")


def test_the_manual_lists_what_is_needed(monkeypatch):
    """The command without PyTorch installs what setup.py says of the package itself."""
    import setuptools

    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    needed = {
        Requirement(line).name.lower()
        for line in runpy.run_path(str(ROOT / "setup.py"))["WITHOUT_PYTORCH"]
    }
    manual = (ROOT / "docs/export.md").read_text().replace("\\\n", " ")
    (listed,) = re.findall(r"^pip install (numpy .*)$", manual, re.M)
    assert {name.lower() for name in listed.split()} == needed | {
        "onnxruntime",
        "opencv-python-headless",
    }
