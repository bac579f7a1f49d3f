"""tools/adapt.py: footage of painted people, from nothing to weights that the other tools take."""

import json

import cv2
import numpy as np
import pytest

from spnet_d2.cli import adapt
from spnet_d2.config_reader import read_config
from spnet_d2.search import PersonSearchPredictor
from spnet_d2.search.two_stage import NetworkDetector
from tests.fixtures.painted import scene

FRAMES = 10


class ColourDetector:
    """Finds what is not black."""

    settings: dict = {}
    min_score = 0.5

    def detect(self, image, image_format):
        mask = (image.max(axis=2) > 100).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
        boxes = [[x, y, x + w, y + h] for x, y, w, h, area in stats[1:].tolist() if area > 99]
        return np.array(boxes, np.float32).reshape(-1, 4), np.full(len(boxes), 0.9, np.float32)


@pytest.fixture
def street(tmp_path):
    (tmp_path / "street").mkdir()
    for i in range(FRAMES):
        people = [("red", 3 * i), ("blue", 120 - 2 * i)]
        cv2.imwrite(str(tmp_path / "street" / f"{i:03d}.png"), scene(*people))
    return tmp_path / "street"


@pytest.fixture
def detector(monkeypatch, tmp_path):
    monkeypatch.setattr(NetworkDetector, "from_yaml", lambda *_: ColourDetector())
    (tmp_path / "any.yaml").touch()
    return ["--detector", str(tmp_path / "any.yaml")]


@pytest.fixture
def small_images(monkeypatch):
    """The starter weights look at small scenes, which they would enlarge."""

    def predictor(cfg, **given):
        cfg.INPUT.MIN_SIZE_TEST = 192
        return PersonSearchPredictor(cfg, **given)

    monkeypatch.setattr(adapt, "PersonSearchPredictor", predictor)


def test_from_footage_to_weights(street, detector, small_images, tmp_path, capfd):
    """Slow: two trainings in processes of their own, and the starter weights."""
    out = tmp_path / "out"
    argv = [str(street), "--output", str(out), *detector, "--num-gpus", "0"]
    argv += [
        "--pretrain-iterations",
        "1",
        "--iterations",
        "1",
        "--set",
        "SOLVER.IMS_PER_BATCH",
        "2",
    ]
    argv += ["--set", "INPUT.CROP_SIZE", "128"]
    assert adapt.main(argv) == 0
    report = (out / "report.txt").read_text()
    assert "boxes: AP50" in report and "least score" in report and "--weights" in report
    assert (out / "data" / "preview.jpg").is_file()
    labels = json.loads((out / "data" / "annotations.json").read_text())
    # Both walk through the picture.
    people = {a["person_id"] for a in labels["annotations"]}
    assert len(labels["annotations"]) == 20 and len(people) == 2
    cfg = read_config(out / "config.yaml", ["MODEL.DEVICE", "cpu"])
    predictor = PersonSearchPredictor(cfg)
    (found,) = predictor.detect([cv2.imread(str(street / "000.png"))])
    assert found.embeddings.shape[1] == 256
    metrics = (out / "finetune" / "metrics.json").read_text()
    assert "loss_reid" in metrics

    # Again: nothing is labelled or trained once more.
    before = (out / "finetune" / "metrics.json").stat().st_mtime_ns
    capfd.readouterr()
    (out / "report.txt").unlink()
    assert adapt.main(argv) == 0
    assert (out / "report.txt").read_text() == report
    assert (out / "finetune" / "metrics.json").stat().st_mtime_ns == before

    # Neither other footage nor other settings mix with it.
    assert adapt.main([*argv, "--every", "2"]) == 1
    assert "other settings (--every 1 -> 2). Choose another --output" in capfd.readouterr().err
    assert adapt.main([*argv, "--iterations", "2"]) == 1
    assert "SOLVER.MAX_ITER 1 -> 2" in capfd.readouterr().err


def test_footage_that_shows_nobody(tmp_path, detector, capsys):
    (tmp_path / "empty").mkdir()
    for i in range(3):
        cv2.imwrite(str(tmp_path / "empty" / f"{i}.png"), scene())
    argv = [str(tmp_path / "empty"), "--output", str(tmp_path / "out"), *detector]
    assert adapt.main([*argv, "--num-gpus", "0"]) == 1
    assert "Nobody was found in 3 frames" in capsys.readouterr().err


def test_arguments(capsys):
    for words, message in (
        (["--every", "0"], "must be 1 or more"),
        (["--min-score", "2"], "between 0 and 1"),
        (["--pretrain-iterations", "-1"], "0 or more"),
    ):
        with pytest.raises(SystemExit):
            adapt.parse_args(["frames", "--output", "out", *words])
        assert message in capsys.readouterr().err


def test_settings_are_looked_at_before_anything_is_done(tmp_path, capsys):
    argv = ["frames", "--output", str(tmp_path / "out"), "--num-gpus", "0"]
    assert adapt.main([*argv, "--set", "SOLVER.NO_SUCH", "1"]) == 1
    assert "SOLVER.NO_SUCH" in capsys.readouterr().err
    assert adapt.main([*argv, "--set", "SOLVER.IMS_PER_BATCH", "0"]) == 1
    assert "SOLVER.IMS_PER_BATCH is 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
