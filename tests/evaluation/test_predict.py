"""Predictions of a predictor on a data set, and tools/predict.py."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
import yaml

from spnet_d2.data import own_sets
from spnet_d2.data.catalog import unregister
from spnet_d2.data.person_search_json import load_person_search_json, write_person_search_json
from spnet_d2.data.person_search_schema import make_annotation
from spnet_d2.evaluation import predict
from spnet_d2.evaluation.predict import predict_dataset
from spnet_d2.evaluation.predictions import Predictions
from spnet_d2.search import PersonSearchPredictor
from spnet_d2.search.people import PersonDetections
from tests.fixtures.onnx_files import write_detector, write_reid
from tests.fixtures.scripts import ROOT, load_script
from tests.search.tiny import tiny_config

SIZE = (60, 80)
# Left half and right half of every image: two people with colours of their own.
BOXES = [(4, 6, 20, 48), (44, 6, 20, 48)]


class Painted:
    """Finds both people, a third that is unsure, and embeds by the mean colour."""

    fingerprint = "painted"
    image_format = "BGR"

    def __init__(self):
        self.calls = 0

    def detect(self, images):
        self.calls += 1
        boxes = np.array([*BOXES, (0, 0, 9, 9)], np.float32)
        boxes[:, 2:] += boxes[:, :2]
        (image,) = images
        return [PersonDetections(boxes, np.float32([0.9, 0.8, 0.1]), self.embed(image, boxes))]

    def embed(self, image, boxes):
        rows = [image[int(y1) : int(y2), int(x1) : int(x2)] for x1, y1, x2, y2 in boxes]
        return np.array([row.mean(axis=(0, 1)) for row in rows], np.float32)


@pytest.fixture
def street(tmp_path):
    """Folder with four images of two people, annotations and datasets.yaml."""
    (tmp_path / "images").mkdir()
    images, annotations = [], []
    for i in range(4):
        image = np.full((*SIZE, 3), 60, np.uint8)
        for person, (x, y, w, h) in enumerate(BOXES):
            image[y : y + h, x : x + w] = [(20, 60 + 9 * i, 220), (200, 90 + 9 * i, 10)][person]
            annotations.append(make_annotation(2 * i + person, i, (x, y, w, h), person + 1, True))
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), image)
        images.append({"id": i, "file_name": f"{i}.png", "width": SIZE[1], "height": SIZE[0]})
    write_person_search_json(tmp_path / "people.json", images, annotations)
    sets = {"predict_street": {"json": "people.json", "images": "images"}}
    (tmp_path / "datasets.yaml").write_text(yaml.safe_dump(sets))
    yield tmp_path
    for name in list(own_sets._registered):
        unregister(name)
    own_sets._registered.clear()


@pytest.fixture
def dicts(street):
    return load_person_search_json(street / "people.json", street / "images")


def test_predictions(dicts):
    predictions = predict_dataset(Painted(), dicts, min_score=0.5, progress=False)
    assert predictions.image_ids.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert predictions.made_by == "painted"
    assert predictions.gt_annotation_ids.tolist() == list(range(8))
    np.testing.assert_allclose(predictions.embeddings[5], (200, 108, 10), atol=1e-3)
    np.testing.assert_allclose(predictions.gt_embeddings, predictions.embeddings, atol=1e-3)
    assert predict_dataset(Painted(), dicts, progress=False).scores.tolist().count(
        pytest.approx(0.1)
    ) == len(dicts)


def test_a_stopped_run_goes_on(dicts, tmp_path, monkeypatch):
    unfinished = tmp_path / "u.npz"
    expected = predict_dataset(Painted(), dicts, progress=False)
    stopping = Painted()

    def stop(images):
        if stopping.calls == 2:
            raise KeyboardInterrupt
        return Painted.detect(stopping, images)

    stopping.detect = stop
    with pytest.raises(KeyboardInterrupt):
        predict_dataset(stopping, dicts, unfinished=unfinished, progress=False)
    assert unfinished.is_file()
    going_on = Painted()
    found = predict_dataset(going_on, dicts, unfinished=unfinished, progress=False)
    assert going_on.calls == 2 and not unfinished.exists()
    for name in ("image_ids", "boxes", "scores", "embeddings", "gt_annotation_ids"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("change", ["fingerprint", "min_score", "images", "damage"])
def test_what_another_run_began_is_not_taken(dicts, tmp_path, change):
    unfinished = tmp_path / "u.npz"
    broken = dicts[:3] + [dicts[3] | {"file_name": str(tmp_path / "gone.png")}]
    with pytest.raises(FileNotFoundError, match=r"gone.png"):
        predict_dataset(Painted(), broken, unfinished=unfinished, progress=False)
    predictor, min_score, wanted = Painted(), 0.0, broken[:3] + dicts[3:]
    if change == "fingerprint":
        predictor.fingerprint = "other"
    elif change == "min_score":
        min_score = 0.5
    elif change == "images":
        wanted = dicts[1:]
    else:
        unfinished.write_bytes(unfinished.read_bytes()[:200])
    predict_dataset(predictor, wanted, min_score, unfinished=unfinished, progress=False)
    assert predictor.calls == len(wanted)


def test_it_is_saved_while_it_runs(dicts, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "SAVE_PERIOD", -1.0)
    seen = []

    class Looking(Painted):
        def detect(self, images):
            seen.append((tmp_path / "u.npz").is_file())
            return super().detect(images)

    predict_dataset(Looking(), dicts, unfinished=tmp_path / "u.npz", progress=False)
    assert seen == [False, True, True, True]


def test_images_of_another_size(dicts):
    wrong = [dicts[0] | {"height": 61}]
    with pytest.raises(ValueError, match="for an image of 80 x 61 pixels, found 80 x 60"):
        predict_dataset(Painted(), wrong, progress=False)


@pytest.fixture
def two_stage(tmp_path):
    """Options of a tiny detector and re-id model."""
    pytest.importorskip("onnxruntime")
    rows = [
        [0, 1, s, x / 80, y / 60, (x + w) / 80, (y + h) / 60]
        for s, (x, y, w, h) in zip((0.9, 0.8), BOXES)
    ]
    write_detector(tmp_path / "det.onnx", SIZE, {"found": np.array([[rows]], np.float32)})
    write_reid(tmp_path / "reid.onnx", (16, 8))
    common = {"licence": "none", "channels": "BGR"}
    detector = {"network": "det.onnx", "size": [*SIZE], "layout": "ssd", "person": 1, "nms": 1}
    (tmp_path / "det.yaml").write_text(yaml.safe_dump(common | detector))
    reid = {"network": "reid.onnx", "size": [16, 8], "scale": 255, "mean": [0.5, 0.5, 0.5]}
    (tmp_path / "reid.yaml").write_text(yaml.safe_dump(common | reid))
    return ["--detector", str(tmp_path / "det.yaml"), "--reid", str(tmp_path / "reid.yaml")]


def test_the_tool_and_its_score(street, two_stage, capsys):
    tool = load_script("tools/predict.py")
    output = street / "out" / "predictions.npz"
    sets = ["DATASETS.FILES", str(street / "datasets.yaml")]
    argv = ["--dataset", "predict_street", "--output", str(output), *two_stage]
    assert tool.main([*argv, *sets]) == 0
    out = capsys.readouterr().out
    assert "8 people in 4 images, 8 annotated boxes embedded" in out
    assert len(Predictions.load(str(output)).scores) == 8
    command = out.split("python ")[1].split()
    done = subprocess.run(
        [sys.executable, *command, "--output", str(street / "scored")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((street / "scored" / "metrics.json").read_text())
    assert [metrics[key] for key in ("mAP", "top1", "AP50", "gt_mAP")] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "No predictor: give --config-file"),
        (["--reid"], "No predictor"),
        (["--detector"], "--detector needs --reid"),
        (["--detector", "--reid", "--config-file"], "either --detector, or an SPNet"),
        (["--detector", "--reid", "--min-score"], "must lie between 0 and 1"),
    ],
)
def test_options_that_name_no_predictor(street, two_stage, capsys, options, message):
    tool = load_script("tools/predict.py")
    (street / "empty.yaml").write_text("VERSION: 2\n")
    values = dict(zip(two_stage[::2], two_stage[1::2]))
    values |= {"--config-file": str(street / "empty.yaml"), "--min-score": "7"}
    words = [word for option in options for word in (option, values[option])]
    argv = ["--dataset", "predict_street", "--output", str(street / "p.npz"), *words]
    assert tool.main([*argv, "DATASETS.FILES", str(street / "datasets.yaml")]) == 1
    assert message in capsys.readouterr().err


def test_unknown_data_sets(two_stage, capsys, tmp_path):
    tool = load_script("tools/predict.py")
    argv = ["--dataset", "nowhere", "--output", str(tmp_path / "p.npz"), *two_stage]
    assert tool.main(argv) == 1
    error = capsys.readouterr().err
    assert "No person-search data set 'nowhere'; there are" in error and "prw_test" in error


def test_an_spnet_by_its_config(street, capsys):
    from detectron2.modeling import build_model

    cfg = tiny_config()
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, street / "model.pth")
    (street / "config.yaml").write_text(cfg.dump())
    tool = load_script("tools/predict.py")
    argv = ["--dataset", "predict_street", "--output", str(street / "spnet.npz")]
    argv += ["--config-file", str(street / "config.yaml"), "--weights", str(street / "model.pth")]
    assert tool.main([*argv, "DATASETS.FILES", str(street / "datasets.yaml")]) == 0
    found = Predictions.load(str(street / "spnet.npz"))
    assert len(found.scores) > 0 and found.gt_annotation_ids.tolist() == list(range(8))
    predictor = PersonSearchPredictor(cfg, weights=str(street / "model.pth"))
    image = cv2.imread(str(street / "images" / "0.png"))
    boxes = [(x, y, x + w, y + h) for x, y, w, h in BOXES]
    np.testing.assert_allclose(
        found.gt_embeddings[:2], predictor.embed(image, boxes), rtol=1e-4, atol=1e-5
    )
