"""A tiny two-stage predictor: its detector always finds the same two people."""

import numpy as np
import pytest
import yaml

from spnet_d2.search.two_stage import TwoStagePredictor
from tests.fixtures.onnx_files import write_detector, write_reid

SIZE = (48, 64)
# image, class, score, x1, y1, x2, y2; the third is no person, the fourth hardly one.
ROWS = [
    [0, 1, 0.9, 0.1, 0.1, 0.3, 0.9],
    [0, 1, 0.7, 0.5, 0.2, 0.75, 1.1],
    [0, 2, 0.8, 0.5, 0.5, 0.9, 0.9],
    [0, 1, 0.2, 0.8, 0.1, 0.95, 0.5],
    [-1, 0, 0, 0, 0, 0, 0],
    [0, 1, 0.99, 0.0, 0.0, 0.2, 0.2],
]


def write_yaml(path, **values):
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def detector_yaml(tmp_path):
    write_detector(tmp_path / "det.onnx", SIZE, {"found": np.array([[ROWS]], np.float32)})
    return write_yaml(
        tmp_path / "det.yaml",
        network="det.onnx",
        licence="none",
        size=list(SIZE),
        channels="BGR",
        layout="ssd",
        person=1,
        nms=1,
    )


@pytest.fixture
def reid_yaml(tmp_path):
    write_reid(tmp_path / "reid.onnx", (16, 8))
    return write_yaml(
        tmp_path / "reid.yaml",
        network="reid.onnx",
        licence="none",
        size=[16, 8],
        channels="RGB",
        scale=255,
        mean=[0.5, 0.5, 0.5],
        std=[0.5, 0.25, 0.125],
    )


@pytest.fixture
def predictor(detector_yaml, reid_yaml):
    pytest.importorskip("onnxruntime")
    return TwoStagePredictor.from_yaml(detector_yaml, reid_yaml)
