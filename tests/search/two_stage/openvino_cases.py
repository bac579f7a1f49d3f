"""OpenVINO's networks in the two-stage predictor; run by ``test_openvino.py``."""

import cv2
import numpy as np
import pytest
import yaml

from spnet_d2.search import TwoStagePredictor
from spnet_d2.search.two_stage.settings import ModelFileError

from .conftest import write_yaml
from .test_predictor import SHARED, ZOO, scene


def test_openvino_gives_the_same(predictor, detector_yaml, reid_yaml, tmp_path):
    openvino = pytest.importorskip("openvino")
    for file in (detector_yaml, reid_yaml):
        network = openvino.convert_model(file.with_suffix(".onnx"))
        openvino.save_model(network, tmp_path / f"{file.stem}.xml", compress_to_fp16=False)
        values = yaml.safe_load(file.read_text()) | {"network": f"{file.stem}.xml"}
        write_yaml(file, **values)
    other = TwoStagePredictor.from_yaml(detector_yaml, reid_yaml)
    found, expected = other.detect([scene(3)])[0], predictor.detect([scene(3)])[0]
    np.testing.assert_allclose(found.boxes, expected.boxes, rtol=1e-5)
    np.testing.assert_allclose(found.embeddings, expected.embeddings, rtol=1e-4, atol=1e-5)
    assert other.fingerprint != predictor.fingerprint
    (tmp_path / "reid.bin").unlink()
    with pytest.raises(ModelFileError, match="its weights reid.bin are missing"):
        TwoStagePredictor.from_yaml(detector_yaml, reid_yaml)


@pytest.mark.skipif(not (SHARED / "models").is_dir(), reason="no real models in ../shared/data")
@pytest.mark.parametrize("detector", ["yolox_nano", "person_detection_retail_0013"])
@pytest.mark.parametrize("reid", ["osnet_x0_25_msmt17", "person_reidentification_retail_0288"])
def test_real_models_find_real_people(detector, reid, monkeypatch):
    for package in ("onnxruntime", "openvino"):
        pytest.importorskip(package)
    monkeypatch.setenv("TWO_STAGE_MODELS", str(SHARED / "models"))
    predictor = TwoStagePredictor.from_yaml(ZOO / f"{detector}.yaml", ZOO / f"{reid}.yaml")
    images = [SHARED / "mot15/images" / f"TUD-Stadtmitte_{n:06}.jpg" for n in (50, 52)]
    first, second = predictor.detect([cv2.imread(str(file)) for file in images])
    first, second = first.above(0.7), second.above(0.7)
    # Five people walk in full view.
    assert len(first) >= 4 and len(second) >= 4
    a = first.embeddings / np.linalg.norm(first.embeddings, axis=1, keepdims=True)
    b = second.embeddings / np.linalg.norm(second.embeddings, axis=1, keepdims=True)
    best = second.boxes[(a @ b.T).argmax(axis=1)]
    # Two frames later, the most similar person stands where the person stood.
    near = np.abs(best[:, 0] - first.boxes[:, 0]) < 25
    assert near.mean() >= 0.8
