"""Data of the study on strangers."""

import json

import cv2
import numpy as np
import pytest

from spnet_d2.data.own_sets import read_sets
from spnet_d2.data.person_search_json import write_person_search_json, write_protocol
from spnet_d2.data.person_search_schema import make_annotation
from spnet_d2.experiments.strangers import StrangersError, write_strangers


@pytest.fixture
def place(tmp_path):
    """Five images of 800 x 400 with six people each, and an ignore region."""
    folder = tmp_path / "park"
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for i in range(5):
        cv2.imwrite(str(folder / "images" / f"{i}.png"), np.full((400, 800, 3), 40 * i, np.uint8))
        entry = {"id": i, "file_name": f"{i}.png", "width": 800, "height": 400, "cam_id": -1}
        images.append({**entry, "ignore_regions": [[700.0, 0.0, 80.0, 40.0]]})
        for k in range(6):
            bbox = [100.0 * k, 50.0, 40.0, 100.0]
            annotations.append(make_annotation(len(annotations), i, bbox, k, True))
    write_person_search_json(folder / "annotations.json", images, annotations)
    (folder / "retrieval").mkdir()
    write_protocol(folder / "retrieval" / "later.json", list(range(5)), [0, 1])
    return folder


def test_labels_are_whole_missing_or_spurious(place, tmp_path):
    write_strangers(tmp_path / "out", {"a": place, "b": place}, place)
    sets = {s.name: s for s in read_sets(tmp_path / "out" / "datasets.yaml")}
    counts = {n: len(json.loads(s.json.read_text())["annotations"]) for n, s in sets.items()}
    assert counts == {
        "strangers_weak": 60,
        "strangers_weak_p20": 12,
        "strangers_weak_p180": 108,
        "mot15_people": 30,
    }
    whole = json.loads(sets["strangers_weak"].json.read_text())
    # Made smaller, boxes and regions with it; nobody is anybody else.
    assert whole["images"][9]["file_name"] == "b_00009.jpg"
    assert (whole["images"][0]["width"], whole["images"][0]["height"]) == (640, 320)
    assert whole["annotations"][1]["bbox"] == [80.0, 40.0, 32.0, 80.0]
    assert whole["images"][0]["ignore_regions"] == [[560.0, 0.0, 64.0, 32.0]]
    assert len({a["person_id"] for a in whole["annotations"]}) == 60
    assert cv2.imread(str(sets["strangers_weak"].images / "b_00009.jpg")).shape == (320, 640, 3)
    assert sets["mot15_people"].protocols["later"].is_file()


def test_folders_that_lack_something(place, tmp_path):
    with pytest.raises(StrangersError, match="No annotations.json"):
        write_strangers(tmp_path / "out", {"a": tmp_path}, place)
    (place / "retrieval" / "later.json").unlink()
    with pytest.raises(StrangersError, match="--protocol later"):
        write_strangers(tmp_path / "out", {"a": place}, place)
    assert not (tmp_path / "out").exists()
