"""YAML files of networks, and what can be wrong with them."""

import pytest
import yaml

from spnet_d2.search.two_stage import NetworkDetector, ReidModel
from spnet_d2.search.two_stage.settings import DetectorSettings, ModelFileError, read_settings

from .conftest import write_yaml


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "BGR"}, "unknown keys: colour; known are network, licence"),
        ({"size": None}, r"size must be \[height, width\]"),
        ({"size": [48, 64, 3]}, r"size must be \[height, width\]"),
        ({"channels": "GBR"}, "channels must be BGR or RGB, found 'GBR'"),
        ({"std": [1, 0, 1]}, "std and scale must not be 0"),
        ({"layout": "yolo"}, "layout must be one of yolox, yolov5, .* found 'yolo'"),
        ({"fit": "top"}, "fit must be one of stretch, top_left, centre"),
        ({"min_score": "high"}, "of another type than expected"),
        ({"nms": 45}, "nms must lie between 0 and 1, found 45"),
        ({"person": "person"}, "person must be a whole number"),
        ({"network": "gone.onnx"}, "no network at .*gone.onnx"),
        ({"network": "${NO_SUCH_FOLDER_SET}/a.onnx"}, "environment variable that is not set"),
        ({"network": 5}, "network must be a path, found 5"),
    ],
)
def test_wrong_values(detector_yaml, change, message):
    values = yaml.safe_load(detector_yaml.read_text()) | change
    write_yaml(detector_yaml, **values)
    with pytest.raises(ModelFileError, match=message) as error:
        read_settings(detector_yaml, DetectorSettings)
    assert "det.yaml" in str(error.value)


def test_missing_keys_and_files(detector_yaml, tmp_path):
    values = yaml.safe_load(detector_yaml.read_text())
    del values["layout"], values["licence"]
    write_yaml(detector_yaml, **values)
    with pytest.raises(ModelFileError, match="lacks licence, layout"):
        read_settings(detector_yaml, DetectorSettings)
    with pytest.raises(ModelFileError, match="No YAML file of a network at"):
        read_settings(tmp_path / "none.yaml", DetectorSettings)
    detector_yaml.write_text("- a\n")
    with pytest.raises(ModelFileError, match="expected keys such as network"):
        read_settings(detector_yaml, DetectorSettings)
    detector_yaml.write_text("a: [")
    with pytest.raises(ModelFileError, match="is not YAML"):
        read_settings(detector_yaml, DetectorSettings)


def test_an_environment_variable_names_the_folder(detector_yaml, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_NETWORKS", str(tmp_path))
    values = yaml.safe_load(detector_yaml.read_text()) | {"network": "${MY_NETWORKS}/det.onnx"}
    write_yaml(detector_yaml, **values)
    assert read_settings(detector_yaml, DetectorSettings).network == tmp_path / "det.onnx"


def test_the_network_fits_its_file(detector_yaml, reid_yaml, tmp_path):
    pytest.importorskip("onnxruntime")
    values = yaml.safe_load(detector_yaml.read_text())
    write_yaml(detector_yaml, **values | {"size": [64, 48]})
    with pytest.raises(ModelFileError, match=r"takes images of shape \(3, 48, 64\).*\[64, 48"):
        NetworkDetector.from_yaml(detector_yaml)
    write_yaml(detector_yaml, **values | {"outputs": ["boxes"]})
    with pytest.raises(ModelFileError, match="has no output boxes; it has found"):
        NetworkDetector.from_yaml(detector_yaml)
    (tmp_path / "reid.onnx").write_bytes(b"no network")
    with pytest.raises(ModelFileError, match="ONNX Runtime can't read .*reid.onnx"):
        ReidModel.from_yaml(reid_yaml)


def test_other_files_than_networks(detector_yaml, tmp_path):
    (tmp_path / "det.pth").write_bytes(b"")
    values = yaml.safe_load(detector_yaml.read_text())
    write_yaml(detector_yaml, **values | {"network": "det.pth"})
    with pytest.raises(ModelFileError, match=r"expected a network as .onnx or OpenVINO's .xml"):
        NetworkDetector.from_yaml(detector_yaml)


def test_a_missing_runtime_is_one_message(detector_yaml, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr("spnet_d2.search.runtimes.import_module", missing)
    with pytest.raises(ImportError, match=r"det.onnx needs onnxruntime: pip install .*\[onnx\]"):
        NetworkDetector.from_yaml(detector_yaml)
