"""An exported model gives what the model in PyTorch gives."""

import importlib.util
import json
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from spnet_d2.errors import SearchInputError
from spnet_d2.export.description import ExportedModelError
from spnet_d2.export.precision import to_float16
from spnet_d2.export.predictor import OnnxPredictor
from spnet_d2.export.single_file import add_single_file
from spnet_d2.search import PersonDetections

from .agreement import assert_same_direction, assert_same_people, people, scenes
from .cpp import compiled
from .test_without_pytorch import run_without

# Sizes of images; none is what the graphs were traced with.
SIZES = [(96, 160), (61, 40), (123, 251)]


def test_detections_agree(exported):
    predictor, folder = exported
    other = OnnxPredictor(folder)
    found = []
    for image in scenes(SIZES):
        found.append(people(predictor, image))
        assert_same_people(people(other, image), found[-1])
    assert min(map(len, found)) > 1
    assert other.embedding_dim == found[0].embeddings.shape[1]


def test_embeddings_of_boxes_agree(exported):
    predictor, folder = exported
    other = OnnxPredictor(folder)
    (image,) = scenes([(120, 90)])
    boxes = [[3, 4, 30, 80], [0, 0, 90, 120], [50, 60, 70, 65]]
    assert_same_direction(other.embed(image, boxes), predictor.embed(image, boxes))
    assert other.embed(image, np.zeros((0, 4))).shape == (0, other.embedding_dim)
    ours, theirs = other.query(image, boxes[0]), predictor.query(image, boxes[0])
    assert_same_direction(ours.reid[None], theirs.reid[None])
    if other.query_centric:
        assert_same_direction(ours.loc[None], theirs.loc[None])


def test_an_image_without_people_gives_none(exported):
    predictor, folder = exported
    image = np.zeros((80, 100, 3), np.uint8)
    nobody = OnnxPredictor(folder, min_score=1.0)
    found = people(nobody, image)
    assert found.boxes.shape == (0, 4) and found.scores.shape == (0,)
    assert found.embeddings.shape == (0, nobody.embedding_dim)


def test_batches_give_what_their_images_give(exported):
    _, folder = exported
    detector = OnnxPredictor(folder)._graph("detector.onnx")
    exact = OnnxPredictor(folder).description.resize.exact_8bit
    images = np.stack(scenes([(96, 130)] * 3)).transpose(0, 3, 1, 2)
    images = np.ascontiguousarray(images, np.float32 if exact else np.uint8)
    together = detector(image=images)
    for i in range(3):
        alone = detector(image=images[i : i + 1])
        for name in set(together) - {"anchors"}:
            np.testing.assert_allclose(together[name][i], alone[name][0], atol=1e-3)


def test_the_fingerprint_is_the_models(exported):
    predictor, folder = exported
    assert OnnxPredictor(folder).fingerprint == predictor.fingerprint


def test_queries_that_do_not_fit_are_refused(exported):
    predictor, folder = exported
    other = OnnxPredictor(folder)
    (image,) = scenes([(90, 90)])
    query = None if other.query_centric else other.query(image, [0, 0, 9, 9])
    with pytest.raises(SearchInputError, match="export the model again|Export the model again"):
        other.detect([image], query)
    with pytest.raises(ValueError, match="expected a non-empty|Expected an image"):
        other.embed(image.astype(np.float32), [[0, 0, 9, 9]])


def test_folders_that_can_not_be_used_say_why(exported, tmp_path):
    _, folder = exported
    with pytest.raises(ExportedModelError, match="No exported model in .*tools/export.py"):
        OnnxPredictor(tmp_path)
    (tmp_path / "model.json").write_text("[]")
    with pytest.raises(ExportedModelError, match="expected format 1"):
        OnnxPredictor(tmp_path)
    (tmp_path / "model.json").write_bytes((folder / "model.json").read_bytes())
    with pytest.raises(ExportedModelError, match="No graph at .*detector.onnx"):
        OnnxPredictor(tmp_path)
    (tmp_path / "detector.onnx").write_bytes(b"no graph")
    with pytest.raises(ExportedModelError, match="onnxruntime can't read"):
        OnnxPredictor(tmp_path)
    with pytest.raises(ValueError, match="runtime must be one of"):
        OnnxPredictor(folder, runtime="other")
    with pytest.raises(ValueError, match="image_format"):
        OnnxPredictor(folder, image_format="GBR")


def test_search_finds_the_same_people_without_pytorch(exported, tmp_path):
    predictor, folder = exported
    pixels = np.random.default_rng(0).integers(0, 256, (3, 90, 130, 3), np.uint8)
    (tmp_path / "gallery").mkdir()
    for i, image in enumerate(pixels):
        cv2.imwrite(str(tmp_path / "gallery" / f"{i}.png"), image)
    arguments = ["--query", str(tmp_path / "gallery/0.png"), "--box", "5,8,30,40"]
    arguments += ["--gallery", str(tmp_path / "gallery"), "--output", str(tmp_path / "out")]
    code = "from spnet_d2.cli.search import main; sys.exit(main(sys.argv[1:]))"
    done = run_without(code, *arguments, "--exported", str(folder))
    assert done.returncode == 0, done.stderr
    if predictor.query_centric:
        matches = json.loads((tmp_path / "out" / "matches.json").read_text())["matches"]
        assert matches[0]["similarity"] > 0.9
        return
    with np.load(tmp_path / "out" / "gallery.npz", allow_pickle=False) as gallery:
        found = {name: gallery[name] for name in ("boxes", "scores")}
    expected = predictor.detect(list(pixels))
    boxes = np.concatenate([people.boxes for people in expected])
    np.testing.assert_allclose(found["boxes"], boxes, atol=1e-3)


def test_a_single_file_agrees(exported):
    onnxruntime = pytest.importorskip("onnxruntime")
    predictor, folder = exported
    if predictor.query_centric:
        with pytest.raises(ExportedModelError, match="its boxes depend on the query"):
            add_single_file(folder)
        return
    add_single_file(folder)
    session = onnxruntime.InferenceSession(str(folder / "search.onnx"))
    other = OnnxPredictor(folder)
    assert other.description.single == "search.onnx"
    # Sizes that the resize leaves alone, so that boxes are in the same frame.
    images = scenes([(96, 160)] * 3, seed=1)
    batch = np.stack([other.pixels(image) for image in images])
    index, boxes, scores, embeddings = session.run(None, {"image": batch})
    assert np.all(np.diff(index) >= 0)
    for i, image in enumerate(images):
        expected, mine = predictor.detect([image])[0], index == i
        assert mine.sum() == len(expected) > 1
        np.testing.assert_allclose(boxes[mine], expected.boxes, atol=1e-3)
        np.testing.assert_allclose(scores[mine], expected.scores, atol=1e-5)
        assert_same_direction(embeddings[mine], expected.embeddings)


def test_float16_is_close_and_has_a_fingerprint_of_its_own(exported, tmp_path):
    predictor, folder = exported
    half = tmp_path / "half"
    shutil.copytree(folder, half)
    assert to_float16(half).precision == "float16"
    other = OnnxPredictor(half)
    assert other.fingerprint != predictor.fingerprint
    assert other.settings != OnnxPredictor(folder).settings
    size = (half / "detector.onnx").stat().st_size
    assert size < 0.75 * (folder / "detector.onnx").stat().st_size
    (image,) = scenes([(96, 160)])
    boxes = [[3, 4, 30, 80], [20, 10, 60, 90]]
    found, expected = other.embed(image, boxes), predictor.embed(image, boxes)
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())
    assert np.abs(found - expected).max() > 0


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_the_examples_in_cpp_find_the_same_people(runtime, exported, tmp_path):
    predictor, folder = exported
    if predictor.query_centric:
        return
    program = compiled(runtime, tmp_path)
    add_single_file(folder)
    (image,) = scenes([(96, 160)], seed=1)
    pixels = np.ascontiguousarray(OnnxPredictor(folder).pixels(image).transpose(1, 2, 0))
    (tmp_path / "scene.ppm").write_bytes(b"P6 160 96 255\n" + pixels.tobytes())
    arguments = [program, folder / "search.onnx", tmp_path / "scene.ppm"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    found = np.array([line.split() for line in done.stdout.splitlines()], np.float64)
    expected = predictor.detect([image])[0]
    assert len(found) == len(expected) > 1
    # Printed with six digits.
    np.testing.assert_allclose(found[:, 0], expected.scores, atol=1e-4)
    np.testing.assert_allclose(found[:, 1:], expected.boxes, atol=0.01)


IN_OPENVINO = """
import numpy as np
from spnet_d2.export.predictor import OnnxPredictor
predictor = OnnxPredictor(sys.argv[1], runtime="openvino")
half = OnnxPredictor(sys.argv[1], runtime="openvino-bfloat16")
assert half.fingerprint != predictor.fingerprint and half.settings != predictor.settings
with np.load(sys.argv[2]) as given:
    image, box = given["image"], given["box"]
query = predictor.query(image, box)
close = half.query(image, box).reid
# The same where the CPU has no bfloat16.
assert np.abs(close - query.reid).max() <= 0.1 * np.abs(query.reid).max()
people = predictor.detect([image], query if predictor.query_centric else None)[0]
np.savez(sys.argv[3], reid=query.reid, **vars(people))
"""


def test_openvino_finds_the_same_people_without_pytorch(exported, tmp_path):
    """In a process of its own: OpenVINO spoils those in which PyTorch's loaders forked."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("needs openvino (extra [openvino])")
    predictor, folder = exported
    for i, image in enumerate(scenes(SIZES)):
        given, result = tmp_path / f"given_{i}.npz", tmp_path / f"found_{i}.npz"
        np.savez(given, image=image, box=[5, 8, 30, 38])
        done = run_without(IN_OPENVINO, str(folder), str(given), str(result))
        assert done.returncode == 0, done.stderr
        with np.load(result) as found:
            people_found = PersonDetections(found["boxes"], found["scores"], found["embeddings"])
            reid = found["reid"]
        expected = people(predictor, image)
        assert len(expected) > 1
        assert_same_people(people_found, expected)
        assert_same_direction(reid[None], predictor.query(image, [5, 8, 30, 38]).reid[None])
