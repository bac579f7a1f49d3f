"""A detector and a re-id model behind the interface of ``PersonSearchPredictor``."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from spnet_d2.search import Gallery, TwoStagePredictor, open_frames, search
from spnet_d2.search.two_stage.detector import non_maximum_suppression
from spnet_d2.search.two_stage.settings import ModelFileError

from .conftest import write_yaml

ROOT = Path(__file__).resolve().parents[3]
SHARED = ROOT.parent / "shared" / "data"
ZOO = ROOT / "projects_configs" / "two_stage"


def scene(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (100, 200, 3), dtype=np.uint8)


def test_people_of_an_image(predictor):
    people = predictor.detect([scene(0)])[0]
    np.testing.assert_allclose(people.scores, [0.9, 0.7])
    # Fractions of the image, clipped to it.
    np.testing.assert_allclose(people.boxes, [[20, 10, 60, 90], [100, 20, 150, 100]], rtol=1e-5)
    assert people.boxes.dtype == people.scores.dtype == people.embeddings.dtype == np.float32
    assert people.embeddings.shape == (2, predictor.embedding_dim) == (2, 12)
    np.testing.assert_allclose(
        people.embeddings, predictor.embed(scene(0), people.boxes), rtol=1e-5
    )
    query = predictor.query(scene(0), people.boxes[1])
    np.testing.assert_allclose(query.reid, people.embeddings[1], rtol=1e-5)


def test_embeddings_against_the_mean_of_quarters(predictor):
    image = np.zeros((40, 40, 3), np.uint8)
    image[:20, :20] = (30, 90, 240)  # BGR
    embedding = predictor.embed(image, [[0, 0, 40, 40]])[0].reshape(3, 2, 2)
    # RGB over 255, less the mean, over the deviation.
    expected = (np.array([240, 90, 30]) / 255 - 0.5) / [0.5, 0.25, 0.125]
    # The resize blends the quarters' border.
    np.testing.assert_allclose(embedding[:, 0, 0], expected, rtol=0.1)
    np.testing.assert_allclose(embedding[:, 1, 1], [-1, -2, -4], rtol=1e-5)


def test_channel_order_of_the_images(predictor, detector_yaml, reid_yaml):
    other = TwoStagePredictor.from_yaml(detector_yaml, reid_yaml, image_format="RGB")
    boxes = [[10, 10, 60, 90]]
    expected = predictor.embed(scene(1), boxes)
    found = other.embed(np.ascontiguousarray(scene(1)[:, :, ::-1]), boxes)
    np.testing.assert_allclose(found, expected)
    with pytest.raises(ValueError, match='must be "BGR" or "RGB"'):
        TwoStagePredictor(predictor.detector, predictor.reid, "GBR")


def test_many_people_and_none(predictor):
    boxes = np.random.default_rng(0).uniform(0, 90, (70, 2))
    boxes = np.concatenate([boxes, boxes + 10], axis=1)
    together = predictor.embed(scene(2), boxes)
    alone = np.concatenate([predictor.embed(scene(2), box) for box in boxes])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)
    assert predictor.embed(scene(2), np.zeros((0, 4))).shape == (0, 12)


def test_fingerprint(predictor, detector_yaml, reid_yaml, tmp_path):
    def changed(file, **change):
        before = file.read_text()
        write_yaml(file, **yaml.safe_load(before) | change)
        found = TwoStagePredictor.from_yaml(detector_yaml, reid_yaml).fingerprint
        file.write_text(before)
        return found

    same = predictor.fingerprint
    assert changed(detector_yaml, min_score=0.8, licence="mine") == same
    (tmp_path / "other.onnx").write_bytes((tmp_path / "reid.onnx").read_bytes())
    assert changed(reid_yaml, network="other.onnx") == same
    others = [
        changed(detector_yaml, nms=0.4),
        changed(reid_yaml, mean=[0.5, 0.5, 0.4]),
        changed(reid_yaml, channels="BGR"),
    ]
    # A field that says nothing, but other bytes.
    (tmp_path / "other.onnx").write_bytes((tmp_path / "reid.onnx").read_bytes() + b"\x10\x00")
    others.append(changed(reid_yaml, network="other.onnx"))
    assert len({same, *others}) == 5


def test_gallery_and_search(predictor, detector_yaml, reid_yaml, tmp_path):
    (tmp_path / "frames").mkdir()
    for i in range(3):
        cv2.imwrite(str(tmp_path / "frames" / f"{i}.png"), scene(i))
    gallery = Gallery.build(
        predictor, open_frames(tmp_path / "frames"), min_score=0.5, progress=False
    )
    assert len(gallery) == 6
    query = predictor.query(scene(1), [100, 20, 150, 100])
    best = search(gallery, query.reid, topk=2)
    assert Path(best[0].file).name == "1.png" and best[0].similarity == pytest.approx(1, abs=1e-5)
    gallery.save(tmp_path / "gallery.npz")
    loaded = Gallery.load(tmp_path / "gallery.npz")
    loaded.check_settings(predictor, "gallery.npz")
    write_yaml(reid_yaml, **yaml.safe_load(reid_yaml.read_text()) | {"scale": 1})
    other = TwoStagePredictor.from_yaml(detector_yaml, reid_yaml)
    with pytest.raises(ValueError, match=r"made with reid.scale 255 \(now 1\)"):
        loaded.check_settings(other, "gallery.npz")


def test_a_detector_alone(detector_yaml):
    pytest.importorskip("onnxruntime")
    predictor = TwoStagePredictor.from_yaml(detector_yaml, None)
    people = predictor.detect([scene(0)])[0]
    assert len(people) == 2 and people.embeddings.shape == (2, 0)
    with pytest.raises(ModelFileError, match="no re-id model"):
        predictor.query(scene(0), people.boxes[0])


@pytest.mark.parametrize("image", [None, "a.jpg", np.zeros((4, 4)), np.zeros((4, 4, 3))])
def test_what_is_no_image(predictor, image):
    with pytest.raises(ValueError, match=r"Expected an image as a non-empty \(H, W, 3\) uint8"):
        predictor.detect([image])


def test_queries_are_not_detected_for(predictor):
    query = predictor.query(scene(0), [10, 10, 60, 90])
    with pytest.raises(ValueError, match="detects everyone"):
        predictor.detect([scene(0)], query)


def test_nms_against_a_loop():
    rng = np.random.default_rng(0)
    boxes = rng.uniform(0, 60, (60, 2))
    boxes = np.concatenate([boxes, boxes + rng.uniform(5, 40, (60, 2))], axis=1)

    def iou(a, b):
        w = max(0, min(a[2], b[2]) - max(a[0], b[0]))
        h = max(0, min(a[3], b[3]) - max(a[1], b[1]))
        areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
        return w * h / (sum(areas) - w * h)

    kept = []
    for i in range(60):
        if all(iou(boxes[i], boxes[j]) <= 0.3 for j in kept):
            kept.append(i)
    assert non_maximum_suppression(boxes, 0.3).tolist() == kept and len(kept) < 50
    assert non_maximum_suppression(boxes, 1).tolist() == list(range(60))


def test_neither_pytorch_nor_detectron2_is_imported(predictor, tmp_path):
    # The package's own __init__ fills Detectron2's registries.
    code = (
        "import sys, importlib.util as u, numpy as np\n"
        "sys.modules['spnet_d2'] = u.module_from_spec(u.find_spec('spnet_d2'))\n"
        "from spnet_d2.search import TwoStagePredictor, Gallery, search\n"
        "p = TwoStagePredictor.from_yaml('det.yaml', 'reid.yaml')\n"
        "assert len(p.detect([np.zeros((50, 50, 3), np.uint8)])[0]) == 2\n"
        "assert not {'torch', 'detectron2'} & sys.modules.keys()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
