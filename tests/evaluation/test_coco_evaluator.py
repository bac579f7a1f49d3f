"""Detectron2's COCOEvaluator on registered person-search data sets, beside ours."""

import json

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from detectron2.utils.visualizer import Visualizer

from spnet_d2.data.catalog import (
    num_people,
    register_builtin_datasets,
    register_person_search,
    unregister,
)
from spnet_d2.data.person_search_json import write_person_search_json
from spnet_d2.data.person_search_schema import make_annotation
from spnet_d2.evaluation import PersonSearchEvaluator
from spnet_d2.evaluation.coco_metrics import coco_metrics

NAME, SIDE = "coco_evaluator_test", 400


@pytest.fixture
def people(tmp_path):
    """Ten images with three people each, ids that don't start at 0."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(10):
        name = f"{i}.jpg"
        images.append({"id": 7 + 3 * i, "file_name": name, "width": SIDE, "height": SIDE})
        for k in range(3):
            x, y = 10 + 130 * k, int(rng.integers(0, 200))
            box = (x, y, int(rng.integers(30, 90)), int(rng.integers(80, 190)))
            annotations.append(make_annotation(50 + len(annotations), 7 + 3 * i, box, k, True))
        cv2.imwrite(str(tmp_path / name), rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))
    write_person_search_json(tmp_path / "people.json", images, annotations)
    register_person_search(NAME, tmp_path / "people.json", tmp_path)
    yield DatasetCatalog.get(NAME)
    unregister(NAME)


def detections(image, move, scores):
    """The ground truth moved by some pixels, as detections."""
    boxes = np.array([a["bbox"] for a in image["annotations"]], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes[:, ::2] += move
    return Instances(
        (SIDE, SIDE),
        pred_boxes=Boxes(torch.from_numpy(boxes)),
        scores=torch.tensor(scores[: len(boxes)]),
        pred_classes=torch.zeros(len(boxes), dtype=torch.int64),
        reid_embeddings=torch.ones(len(boxes), 2),
    )


def evaluate(people, tmp_path, moves):
    theirs = COCOEvaluator(NAME, ("bbox",), False, output_dir=str(tmp_path / "coco"))
    ours = PersonSearchEvaluator(NAME, distributed=False)
    for evaluator in (theirs, ours):
        evaluator.reset()
    rng = np.random.default_rng(1)
    for image, move in zip(people, moves, strict=True):
        # The better the box, the surer the detector.
        scores = (1 - move / 200 - rng.uniform(0, 0.01, 3)).round(4).tolist()
        found = detections(image, move, scores)
        for evaluator in (theirs, ours):
            evaluator.process([image], [{"instances": found}])
    predictions = ours._predictions(ours._gather())
    coco = coco_metrics(ours.truth, np.arange(ours.truth.num_images), predictions)
    return theirs.evaluate()["bbox"], ours.evaluate()["detection"], coco


def test_ground_truth_fed_back_is_perfect(people, tmp_path):
    theirs, ours, coco = evaluate(people, tmp_path, [0] * 10)
    assert theirs["AP"] == theirs["AP50"] == pytest.approx(100)
    assert ours["AP50"] == ours["recall50"] == 100 and coco["coco_AP"] == pytest.approx(1)


def test_a_file_without_categories_is_converted(people, tmp_path):
    """As exporters leave them out; ids of images and numbers stay the file's."""
    path = tmp_path / "people.json"
    content = json.loads(path.read_text())
    del content["categories"]
    path.write_text(json.dumps(content))
    unregister(NAME)
    register_person_search(NAME, path, tmp_path)
    moves = [0, 5, 10, 15, 3, 70, 8, 12, 1, 80]
    theirs, _, coco = evaluate(people, tmp_path, moves)
    assert 0 < theirs["AP"] < theirs["AP50"] < 100
    assert 100 * coco["coco_AP"] == pytest.approx(theirs["AP"], abs=1e-6)
    # Detectron2 wrote down its file's name in the catalog: people are still counted in ours.
    assert num_people(NAME) == (3, 3)
    register_person_search(NAME, path, tmp_path)


def test_it_agrees_with_ours(people, tmp_path):
    """Some boxes are off by more than IoU 0.5 allows, in different steps."""
    theirs, ours, coco = evaluate(people, tmp_path, [0, 5, 10, 15, 3, 70, 8, 12, 1, 80])
    assert 0 < theirs["AP"] < theirs["AP50"] < 100
    assert 100 * coco["coco_AP"] == pytest.approx(theirs["AP"], abs=1e-6)
    assert 100 * coco["coco_AP50"] == pytest.approx(theirs["AP50"], abs=1e-6)
    # COCO interpolates precision at 101 recalls.
    assert ours["AP50"] == pytest.approx(theirs["AP50"], abs=0.5)
    # What tools/visualize_json_results.py reads.
    results = json.loads((tmp_path / "coco" / "coco_instances_results.json").read_text())
    to_class = MetadataCatalog.get(NAME).thing_dataset_id_to_contiguous_id
    assert {to_class[entry["category_id"]] for entry in results} == {0}
    assert {entry["image_id"] for entry in results} == {image["image_id"] for image in people}


def test_detectron2_draws_ground_truth_and_detections(people):
    image = people[3]
    pixels = cv2.imread(image["file_name"])[:, :, ::-1]
    metadata = MetadataCatalog.get(NAME)
    for drawn in (
        Visualizer(pixels, metadata).draw_dataset_dict(image),
        Visualizer(pixels, metadata).draw_instance_predictions(detections(image, 0, [0.9] * 3)),
    ):
        assert drawn.get_image().shape == pixels.shape
        assert (drawn.get_image() != pixels).any()


def test_every_registered_set_names_its_class(prepared_root):
    for name in register_builtin_datasets():
        metadata = MetadataCatalog.get(name)
        assert metadata.thing_dataset_id_to_contiguous_id == {1: 0}
    written = list(prepared_root.rglob("coco/*.json"))
    assert len(written) > 20
    for path in written:
        assert json.loads(path.read_text())["categories"][0]["id"] == 1, path
