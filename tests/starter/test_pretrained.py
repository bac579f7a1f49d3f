"""The weights that come with the package."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from spnet_d2.pretrained import UnknownWeightsError, pretrained_files
from spnet_d2.search import PersonSearchPredictor
from spnet_d2.starter.pack import PackError, pack_weights

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def predictor():
    return PersonSearchPredictor.pretrained("starter")


def test_files_are_small_and_plain():
    config, weights = pretrained_files("starter")
    assert config.is_file() and weights.stat().st_size <= 25e6
    state = torch.load(weights, weights_only=True)["model"]
    assert {v.dtype for v in state.values()} <= {torch.float16, torch.int64}


def test_unknown_name():
    with pytest.raises(UnknownWeightsError, match="there are: starter"):
        PersonSearchPredictor.pretrained("starterr")


def test_an_empty_street_has_nobody(predictor):
    (found,) = predictor.detect([np.full((240, 320, 3), 127, np.uint8)])
    assert len(found) == 0 and found.embeddings.shape == (0, 256)


@pytest.mark.skipif(not (DATA / "caviar_eecp1").is_dir(), reason="needs ../shared/data")
def test_strangers_are_found_and_told_apart(predictor):
    """People of cameras that the training has not seen: labelled ones are found, and are alike."""
    folder = DATA / "caviar_eecp1"
    content = json.loads((folder / "annotations.json").read_text())
    vectors, people, found = [], [], []
    for entry in content["images"][::8]:
        image = cv2.imread(str(folder / "images" / entry["file_name"]))
        here = [a for a in content["annotations"] if a["image_id"] == entry["id"]]
        if not here:
            continue
        x, y, w, h = np.array([a["bbox"] for a in here]).T
        boxes = np.stack([x, y, x + w, y + h], axis=1)
        (people_found,) = predictor.detect([image])
        centres = (people_found.boxes[:, :2] + people_found.boxes[:, 2:]) / 2
        found += [_inside(centres, box) for box in boxes]
        vectors.append(predictor.embed(image, boxes))
        people += [a["person_id"] for a in here]
    unit = np.concatenate(vectors)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    same = np.equal.outer(people, people)
    similarity = unit @ unit.T
    pairs = ~np.eye(len(people), dtype=bool)
    assert np.mean(found) > 0.8
    assert similarity[same & pairs].mean() > similarity[~same].mean() + 0.1


def _inside(points, box) -> bool:
    return bool(((points > box[:2]) & (points < box[2:])).all(axis=1).any())


def test_packing(tmp_path):
    state = {"a": torch.tensor([0.5, 1e-3]), "n": torch.tensor(3)}
    torch.save({"model": state, "optimizer": {}}, tmp_path / "run.pth")
    assert pack_weights(tmp_path / "run.pth", tmp_path / "out.pth") < 0.1
    packed = torch.load(tmp_path / "out.pth", weights_only=True)
    assert set(packed) == {"model"} and packed["model"]["a"].dtype == torch.float16
    torch.save({"model": {"a": torch.tensor([0.25, 0]), "n": torch.tensor(1)}}, tmp_path / "b.pth")
    pack_weights(tmp_path / "run.pth", tmp_path / "out.pth", before=tmp_path / "b.pth")
    packed = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    assert packed["a"].tolist() == pytest.approx([0.375, 5e-4], rel=1e-3) and packed["n"] == 3
    torch.save({"model": {"a": torch.tensor([1e6])}}, tmp_path / "run.pth")
    with pytest.raises(PackError, match="a does not fit"):
        pack_weights(tmp_path / "run.pth", tmp_path / "out.pth")
