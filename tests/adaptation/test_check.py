"""What adaptation changed, from one pass over the held-out images."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from spnet_d2.adaptation import check as module
from spnet_d2.adaptation.check import choose_floor, describe
from spnet_d2.adaptation.training_sets import HELD_OUT
from spnet_d2.evaluation.predictions import Predictions


def person(annotation_id, person_id, *bbox):
    return {
        "annotation_id": annotation_id,
        "person_id": person_id,
        "bbox": list(bbox),
        "iou_thresh": 0.5,
    }


@pytest.fixture
def held_out(monkeypatch):
    """Two images, three people in them; ids that are no indices.

    In the place of what a whole adaptation of another test may have left there.
    """
    dicts = [
        {
            "image_id": 40,
            "annotations": [person(7, 1, 0, 0, 20, 60), person(8, 2, 50, 0, 20, 60)],
        },
        {"image_id": 30, "annotations": [person(9, 1, 10, 0, 20, 60)]},
    ]
    monkeypatch.setitem(DatasetCatalog.data, HELD_OUT, lambda: dicts)
    monkeypatch.setitem(MetadataCatalog.data, HELD_OUT, Metadata(name=HELD_OUT))


def predictions(*found):
    """Of rows (image id, score, x): boxes as large as the people."""
    rows = np.array(found, np.float32).reshape(-1, 3)
    x = rows[:, 2]
    return Predictions(
        image_ids=rows[:, 0].astype(np.int64),
        boxes=np.stack([x, 0 * x, x + 20, 0 * x + 60], axis=1),
        scores=rows[:, 1],
        embeddings=np.ones((len(rows), 4), np.float32),
        gt_annotation_ids=np.array([7, 8, 9]),
        gt_embeddings=np.ones((3, 4), np.float32),
    )


def test_the_floor_lies_under_the_last_right_box(held_out):
    """Scores over 0.5 or under: all count."""
    floor = choose_floor(
        predictions((30, 0.9, 10), (40, 0.6, 1), (40, 0.3, 52), (40, 0.1, 90), (30, 0.08, 90))
    )
    assert floor.score == pytest.approx(0.2) and floor.precision == floor.recall == 1.0


def test_a_second_box_of_a_person_is_wrong(held_out):
    floor = choose_floor(predictions((30, 0.9, 10), (40, 0.6, 1), (40, 0.4, 2), (30, 0.2, 12)))
    assert floor.score == pytest.approx(0.5)
    assert floor.precision == 1.0 and floor.recall == pytest.approx(2 / 3)


def test_nobody_found(held_out):
    assert choose_floor(predictions()).score == 0.5


def test_report():
    before, after = (
        {"AP50": 70.0, "mAP": 60.0, "gt_mAP": 80.0},
        dict.fromkeys(("AP50", "mAP", "gt_mAP"), 90.0),
    )
    text = describe(before, after, module.Floor(0.75, 0.9, 0.8))
    assert "70.0" in text and "90.0 % of the boxes" in text and "least score 0.750" in text
