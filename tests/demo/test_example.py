import numpy as np
import pytest

from spnet_d2.data.catalog import register_person_search, unregister
from spnet_d2.data.person_search_json import write_person_search_json, write_protocol
from spnet_d2.demo import example as demo_example
from spnet_d2.search import Match

NAME = "demo_example_test"


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Person 0 in frames 0..5, person 1 in frames 4 and 5 only."""
    monkeypatch.setattr(demo_example, "MIN_APPEARANCES", 3)
    images, annotations = [], []

    def add(image_id, person_id, bbox, visibility=1.0):
        annotations.append(
            {
                "id": len(annotations),
                "image_id": image_id,
                "bbox": list(map(float, bbox)),
                "category_id": 1,
                "iscrowd": 0,
                "person_id": person_id,
                "is_known": True,
                "iou_thresh": 0.5,
                "visibility": visibility,
            }
        )

    for i in range(6):
        images.append({"id": i, "file_name": f"{i}.png", "width": 100, "height": 80, "cam_id": 1})
        add(i, 0, (10 + i, 10, 10 + i, 40), visibility=0.5 if i == 5 else 1.0)
    add(0, 2, (0, 0, 60, 60))  # larger, but at the edge
    add(4, 1, (50, 10, 30, 60))  # larger, but rare
    add(5, 1, (50, 10, 30, 60))
    write_person_search_json(tmp_path / "test.json", images, annotations)
    queries = {a["id"]: [i for i in range(6) if i != a["image_id"]] for a in annotations}
    write_protocol(tmp_path / "reentry.json", list(range(6)), queries)
    register_person_search(NAME, tmp_path / "test.json", tmp_path, tmp_path / "reentry.json")
    yield tmp_path
    unregister(NAME)


def test_choice_and_answers(corpus):
    example = demo_example.choose_example(NAME)
    # Frame 5 has the largest box of person 0, but it is half hidden.
    assert example.file == str(corpus / "4.png") and example.box == (14, 10, 28, 50)
    assert example.gallery == [str(corpus / f"{i}.png") for i in (0, 1, 2, 3, 5)]
    assert set(example.answers) == set(example.gallery)
    assert "5 of 5 gallery frames" in demo_example.describe(example)

    def match(box, file):
        return Match(1, 0.9, 0.9, box, 0, str(corpus / file), None)

    assert example.is_hit(match((10, 10, 20, 50), "0.png"))
    assert example.is_hit(match((10, 10, 20, 32), "0.png"))
    assert not example.is_hit(match((10, 10, 20, 28), "0.png"))
    assert not example.is_hit(match((10, 10, 20, 50), "elsewhere.png"))
    assert all(isinstance(box, np.ndarray) for box, _ in example.answers.values())


def test_no_such_query(corpus, monkeypatch):
    monkeypatch.setattr(demo_example, "MIN_APPEARANCES", 6)
    with pytest.raises(ValueError, match="has no wholly visible query"):
        demo_example.choose_example(NAME)
