import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from spnet_d2.evaluation import Predictions
from spnet_d2.evaluation.coco_metrics import coco_metrics
from tests.evaluation.corpus import ground_truth, predictions, worked_example, xywh
from tests.oracles.evaluation import Person, Scene


def random_corpus():
    rng = np.random.default_rng(0)
    corpus, boxes, images = {}, [], []
    for image in range(30):
        corners = rng.uniform(0, 300, (rng.integers(0, 6), 2))
        people = np.hstack([corners, corners + rng.uniform(8, 150, (len(corners), 2))])
        corpus[image] = Scene([Person(10 * image + k, k, tuple(b)) for k, b in enumerate(people)])
        if image % 5 == 0:
            corpus[image].ignore_regions = [(0, 0, 120, 90)]
        noise = rng.normal(0, 6, (2, *people.shape)) + people
        boxes += [*noise[0], *noise[1][:2], *rng.uniform(0, 100, (2, 4)).cumsum(axis=1)]
        images += [image] * (len(boxes) - len(images))
    return corpus, np.array(images), np.array(boxes), rng.uniform(0, 1, len(boxes))


def reference(corpus, images, boxes, scores):
    """COCO's own evaluation."""
    target = COCO()
    entries = [
        {"image_id": i, "bbox": xywh(box), "iscrowd": crowd, "category_id": 1}
        for i, scene in corpus.items()
        for crowd, listed in enumerate([[p.box for p in scene.people], scene.ignore_regions])
        for box in listed
    ]
    for number, entry in enumerate(entries):
        entry.update(id=number + 1, area=entry["bbox"][2] * entry["bbox"][3])
    target.dataset = {
        "images": [{"id": i} for i in corpus],
        "annotations": entries,
        "categories": [{"id": 1}],
        "info": {},
    }
    with contextlib.redirect_stdout(io.StringIO()):
        target.createIndex()
        found = [
            {"image_id": int(i), "bbox": xywh(box), "score": score, "category_id": 1}
            for i, box, score in zip(images, boxes.tolist(), scores.tolist())
        ]
        evaluation = COCOeval(target, target.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {
        name: evaluation.stats[place]
        for name, place in (("coco_AP", 0), ("coco_AP50", 1), ("coco_AP75", 2), ("coco_AR100", 8))
    }


def test_equals_pycocotools():
    corpus, images, boxes, scores = random_corpus()
    found = Predictions(
        images, boxes, scores, np.ones((len(images), 1)), np.zeros(0, int), np.ones((0, 1))
    )
    metrics = coco_metrics(ground_truth(corpus), np.arange(30), found)
    assert metrics == pytest.approx(reference(corpus, images, boxes, scores), abs=1e-12)
    assert 0.1 < metrics["coco_AP"] < metrics["coco_AP50"] < 0.99
    # Only the images asked for count.
    half = {i: corpus[i] for i in range(15)}
    inside = images < 15
    metrics = coco_metrics(ground_truth(corpus), np.arange(15), found)
    expected = reference(half, images[inside], boxes[inside], scores[inside])
    assert metrics == pytest.approx(expected, abs=1e-12)


def test_no_score_floor_and_nothing_to_score():
    corpus, embeddings, gt_embeddings = worked_example(False)
    found = predictions(corpus, embeddings, gt_embeddings)
    truth = ground_truth(corpus)
    # Image 2 alone: its only detection is perfect, of score 0.4.
    assert coco_metrics(truth, np.array([2]), found)["coco_AP50"] == pytest.approx(1)
    assert set(coco_metrics(truth, np.zeros(0, int), found).values()) == {0.0}
    found.scores[:] = np.nan
    found.boxes[2] = np.nan
    assert coco_metrics(truth, np.array([2]), found)["coco_AP50"] == 0
