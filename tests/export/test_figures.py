"""An exported model scores what its model in PyTorch scores."""

import json

import pytest

from spnet_d2.cli import evaluate
from spnet_d2.data.person_search_json import load_person_search_json
from spnet_d2.evaluation.predict import predict_dataset
from spnet_d2.export.predictor import OnnxPredictor
from spnet_d2.search import read_image_bgr

from .uses import make_footage


def figures(predictor, work, name: str) -> dict[str, float]:
    dicts = load_person_search_json(work / "people.json", work / "frames")
    output = work / f"{name}.npz"
    predict_dataset(predictor, dicts, 0.5, progress=False).save(output)
    words = ["--annotations", work / "people.json", "--protocol", "all"]
    words += ["--predictions", output, "--output", work / name, "--cws"]
    assert evaluate.main([str(word) for word in words]) == 0
    metrics = json.loads((work / name / "metrics.json").read_text())
    return {key: value for key, value in metrics.items() if isinstance(value, int | float)}


def annotate(predictor, work) -> None:
    """Call the two surest people of every image the same two people."""
    file = work / "people.json"
    content = json.loads(file.read_text())
    found = predictor.detect([read_image_bgr(p) for p in sorted((work / "frames").iterdir())])
    for entry in content["annotations"]:
        x1, y1, x2, y2 = found[entry["image_id"]].boxes[entry["person_id"] - 1].tolist()
        entry["bbox"] = [x1, y1, x2 - x1, y2 - y1]
    file.write_text(json.dumps(content))


def test_the_figures_are_those_of_pytorch(detecting_everyone, tmp_path):
    predictor, folder = detecting_everyone
    make_footage(tmp_path)
    annotate(predictor, tmp_path)
    expected = figures(predictor, tmp_path, "pytorch")
    found = figures(OnnxPredictor(folder), tmp_path, "exported")
    assert min(expected[name] for name in ("mAP", "AP50", "gt_mAP", "coco_AP")) > 0
    assert found == pytest.approx(expected, abs=1e-6)
