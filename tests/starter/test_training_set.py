"""Boxes and targets of the set: who is where, also on recoloured copies and sheets."""

import json

import cv2
import numpy as np
import pytest

from spnet_d2.data.own_sets import read_sets
from spnet_d2.starter.training_set import (
    NAME,
    DistillationSet,
    Scene,
    annotated_scenes,
    recoloured,
)

COLOURS = [(30, 30, 220), (30, 220, 30), (220, 30, 30)]


def scene(number: int) -> Scene:
    """Three people on grey: rectangles of 30 x 70 pixels."""
    image = np.full((120, 200, 3), 128, np.uint8)
    boxes = [[10.0 + 60 * i, 20.0, 30.0, 70.0] for i in range(3)]
    for (x, y, w, h), colour in zip(boxes, COLOURS):
        image[int(y) : int(y + h), int(x) : int(x + w)] = colour
    return Scene(f"scene_{number}", image, np.array(boxes), np.array([[150.0, 0, 40, 20]]))


def mean_colours(image, boxes):
    found = [image[int(y1) : int(y2), int(x1) : int(x2)].mean((0, 1)) for x1, y1, x2, y2 in boxes]
    return np.array(found)


@pytest.fixture
def made(tmp_path):
    result = DistillationSet(tmp_path, mean_colours)
    result.add([scene(0), scene(1)], copies=2)
    result.add_sheets(3)
    result.save()
    return tmp_path


def content(folder):
    train = json.loads((folder / "train.json").read_text())
    with np.load(folder / "targets.npz") as file:
        return train, file["embeddings"].astype(np.float64)


def test_every_box_is_an_identity_with_its_own_target(made):
    train, targets = content(made)
    people = [a["person_id"] for a in train["annotations"]]
    assert len(targets) == 2 * 3 * 3 + 3 * 24 and people == list(range(len(targets)))
    np.testing.assert_allclose(np.linalg.norm(targets, axis=1), 1, atol=1e-2)
    # The uncoloured ones: their own colours.
    expected = np.array(COLOURS) / np.linalg.norm(COLOURS, axis=1, keepdims=True)
    np.testing.assert_allclose(targets[:3], expected, atol=0.02)
    assert train["images"][0]["ignore_regions"] == [[150.0, 0, 40, 20]]


def test_people_of_sheets_are_who_they_are_said_to_be(made):
    """A target is what the other model sees in the sheet's own box."""
    train, targets = content(made)
    sheets = {i["id"]: i for i in train["images"] if i["file_name"].startswith("sheet")}
    people = [a for a in train["annotations"] if a["image_id"] in sheets]
    assert len(sheets) == 3 and len(people) == 72
    for a in people:
        image = cv2.imread(str(made / "images" / sheets[a["image_id"]]["file_name"]))
        x, y, w, h = a["bbox"]
        (colour,) = mean_colours(image, [(x, y, x + w, y + h)])
        assert colour @ targets[a["person_id"]] > 0.98 * np.linalg.norm(colour), a
        # Just outside there is what was around, not the person.
        assert 70 <= h <= 140 and w > 25


def test_people_of_sheets_wear_other_clothes(made):
    """Some their own, some one other colour, some one above and another below."""
    train, _ = content(made)
    kinds = {"own": 0, "halves": 0}
    for entry in train["images"][6:]:
        image = cv2.imread(str(made / "images" / entry["file_name"])).astype(float)
        for a in (a for a in train["annotations"] if a["image_id"] == entry["id"]):
            x, y, w, h = a["bbox"]
            parts = [
                (x + 3, y + 3, x + w - 3, y + 0.4 * h),
                (x + 3, y + 0.65 * h, x + w - 3, y + h),
            ]
            above, below = mean_colours(image, np.maximum(parts, 0))
            kinds["halves"] += np.abs(above - below).max() > 40
            unlit = [np.corrcoef(above, colour)[0, 1] for colour in COLOURS]
            kinds["own"] += max(unlit) > 0.999 and np.abs(above - below).max() <= 40
    assert 15 <= kinds["own"] <= 55 and 15 <= kinds["halves"] <= 45, kinds


def test_tools_can_train_on_it(made):
    (found,) = read_sets(made / "datasets.yaml")
    assert found.name == NAME


def test_recolouring_changes_hues(made):
    image = scene(0).image
    copies = [recoloured(image, np.random.default_rng(seed)) for seed in range(4)]
    assert all(copy.shape == image.shape and copy.dtype == np.uint8 for copy in copies)
    assert min(np.abs(copy.astype(int) - image).mean() for copy in copies) > 5


def test_annotated_scenes(tmp_path):
    """Large images are made smaller, with their boxes."""
    folder = tmp_path / "street"
    (folder / "images").mkdir(parents=True)
    for i in range(3):
        cv2.imwrite(str(folder / "images" / f"{i}.png"), np.zeros((100, 2000, 3), np.uint8))
    images = [{"id": i, "file_name": f"{i}.png", "width": 2000, "height": 100} for i in range(3)]
    boxes = [{"id": 0, "image_id": 2, "bbox": [1000, 20, 40, 60]}]
    text = json.dumps({"images": images, "annotations": boxes})
    (folder / "annotations.json").write_text(text)
    found = list(annotated_scenes(folder / "annotations.json", folder / "images", every=2))
    assert [s.name for s in found] == ["street_000000", "street_000002"]
    assert found[1].image.shape == (50, 1000, 3)
    assert found[1].boxes.tolist() == [[500, 10, 20, 30]]
