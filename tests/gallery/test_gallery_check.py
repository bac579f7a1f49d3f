"""``tools/gallery_check.py`` on people made up for it."""

import numpy as np
import pytest

from spnet_d2.gallery.people import unit_vectors
from tests.fixtures.scripts import load_script

TOOL = load_script("tools/gallery_check.py")


def made_up(random, people: int, pictures: int, spread: float):
    """Four people a frame, each ``pictures`` frames long; the next four follow them; twice."""
    centres = random.standard_normal((people, 32))
    person = np.tile(np.repeat(np.arange(people), pictures), 2)
    visit = np.repeat([0, 1], people * pictures)
    frame = visit * 10_000 + (person // 4) * 100 + np.tile(np.arange(pictures), 2 * people)
    noise = spread * random.standard_normal((len(person), 32))
    vectors = unit_vectors(centres[person] + noise).astype(np.float64)
    return TOOL.Boxes(
        ids=np.arange(len(person)),
        images=frame,
        people=person,
        frames=frame,
        sequences=np.zeros(len(person), int),
        boxes=np.tile([0.0, 0, 10, 20], (len(person), 1)),
        vectors=vectors,
        # A crop alone shows half of everybody.
        crops=vectors * (np.arange(32) < 16),
        tracklets=visit * people + person,
    )


def queries(boxes):
    """The first picture of each person's first visit searches all images of the second."""
    later = np.unique(boxes.images[boxes.images >= 10_000]).tolist()
    first = [int(np.flatnonzero(boxes.people == p)[0]) for p in np.unique(boxes.people)]
    return dict.fromkeys(first, later)


def test_people_who_are_easily_told_apart():
    boxes = made_up(np.random.default_rng(0), 40, 8, 0.05)
    found = TOOL.check(boxes, queries(boxes), 3, fps=1.0)
    assert found["queries"] == 40 and found["tracklets"] == 80 and found["purity"] == 1
    assert found["rows"] == 640 and found["rows kept"] == 240
    ways = [name for name in found if name.startswith("mAP, top-1")]
    assert len(ways) == 5 and all(found[name] == (1.0, 1.0) for name in ways)
    for line in found["calibration"]:
        assert line["true"] <= line["claimed"] and line["found"] == 1


def test_more_pictures_help_where_they_are_noisy():
    boxes = made_up(np.random.default_rng(0), 40, 8, 1.5)
    found = TOOL.check(boxes, queries(boxes), 3, fps=1.0)
    first, three = found["mAP, top-1 of rows kept"][0], found["mAP, top-1 with 3 pictures"][0]
    assert 0.1 < first < three < 1
    assert 0 < found["mAP, top-1 with a crop alone"][0] < first
    found_at = [line["found"] for line in found["calibration"]]
    assert found_at == sorted(found_at) and found_at[0] < 1


def test_average_precision():
    scores, right = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    assert TOOL.average_precision(scores, right) == pytest.approx((1 + 2 / 3) / 2)
    assert TOOL.average_precision(scores, np.zeros(4, bool)) == 0
