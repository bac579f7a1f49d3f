import json

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

from spnet_d2.data.catalog import UnknownDataSetError, register_person_search, unregister
from spnet_d2.data.corrupt_images import SKIPPED
from spnet_d2.data.person_search_json import write_person_search_json, write_protocol
from spnet_d2.evaluation import PersonSearchEvaluator, Predictions
from spnet_d2.evaluation.evaluator import choose_protocols
from tests.evaluation.corpus import QUERY, worked_example, write_dataset
from tests.fixtures.scripts import load_script

NAME = "evaluator_test"
# Percent.
EVERY_TOP = {"top5": 100, "top10": 100, "gt_top1": 100, "gt_top5": 100, "gt_top10": 100}
EXPECTED = {
    "detection": {"AP50": 45.83, "recall50": 50, "rAP50": 22.92},
    "list": {"mAP": 25, "top1": 0, "gt_mAP": 88.75, **EVERY_TOP},
    "dict": {"mAP": 45.33, "top1": 100, "gt_mAP": 92.67, **EVERY_TOP},
}


@pytest.fixture
def dataset(tmp_path):
    """The worked example as a registered data set; yields its corpus."""
    corpus, _, _ = worked_example(True)
    write_dataset(tmp_path / "test.json", corpus, width=500, height=300, cam_id=-1)
    images = list(range(6))
    write_protocol(tmp_path / "list.json", images, [QUERY])
    write_protocol(tmp_path / "dict.json", images, {QUERY: images})
    protocols = {name: tmp_path / f"{name}.json" for name in ("list", "dict")}
    register_person_search(NAME, tmp_path / "test.json", tmp_path, protocols)
    yield corpus
    unregister(NAME)


def model_output(corpus, image_id):
    """Input and output of a model for one image of the worked example."""
    _, embeddings, gt_embeddings = worked_example(True)
    scene = corpus[image_id]
    size = (600, 1000)  # the model's frame, twice the original
    gt = Instances(size)
    gt.gt_boxes = Boxes(torch.tensor([p.box for p in scene.people]).float() * 2)
    gt.gt_annotation_ids = torch.tensor([p.annotation_id for p in scene.people])
    rows = [d.row for d in scene.detections]
    found = Instances((300, 500))
    found.pred_boxes = Boxes(torch.tensor([d.box for d in scene.detections]).float())
    found.scores = torch.tensor([d.score for d in scene.detections])
    found.pred_classes = torch.zeros(len(rows), dtype=torch.int64)
    found.reid_embeddings = torch.from_numpy(embeddings[rows]).requires_grad_()
    gt_reid = torch.from_numpy(np.stack([gt_embeddings[p.annotation_id] for p in scene.people]))
    image = {"image_id": image_id, "height": 300, "width": 500, "instances": gt}
    return image, {"instances": found, "gt_embeddings": {"reid": gt_reid, "loc": gt_reid}}


def process(evaluator, corpus, images):
    for image_id in images:
        image, output = model_output(corpus, image_id)
        evaluator.process([image], [output])


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-2), ("float16", 1e-2)])
def test_results_and_files(dataset, tmp_path, dtype, tolerance):
    output_dir = tmp_path / "inference"
    evaluator = PersonSearchEvaluator(
        NAME, ("list", "dict"), str(output_dir), embedding_dtype=dtype
    )
    evaluator.reset()
    process(evaluator, dataset, [4, 2, 0, 5, 1, 3])
    results = evaluator.evaluate()
    assert list(results) == list(EXPECTED)
    for task, expected in EXPECTED.items():
        assert results[task] == pytest.approx(expected, abs=tolerance)

    metrics = json.loads((output_dir / "metrics.json").read_text())
    assert metrics["protocol"] == "list"
    assert metrics["protocol_variant"] == "original"
    assert 100 * metrics["mAP"] == 100 * metrics["list/mAP"] == results["list"]["mAP"]
    assert metrics["dict/gt_top1"] == 1
    assert {"AP50", "recall50", "rAP50", "top1", "top5", "top10", "gt_mAP"} <= metrics.keys()
    assert {"gt_top5", "gt_top10", "dict/gt_top5"} <= metrics.keys() and metrics["mAP"] <= 1
    assert (metrics["num_queries"], metrics["num_gt_boxes"]) == (1, 6)

    predictions = Predictions.load(output_dir / "predictions.npz")
    assert predictions.image_ids.tolist() == [0, 1, 1, 2, 3, 4, 5]
    assert predictions.embeddings.dtype == dtype
    assert predictions.gt_annotation_ids.tolist() == [100, 101, 102, 103, 104, 105]

    # Scored again without the model: the very same metrics.
    arguments = [
        "--annotations", tmp_path / "test.json",
        "--protocol", tmp_path / "list.json", tmp_path / "dict.json",
        "--predictions", output_dir / "predictions.npz",
        "--no-coco", "--output", tmp_path / "again",
    ]  # fmt: skip
    assert load_script("tools/evaluate.py").main(list(map(str, arguments))) == 0
    for name in ("metrics.json", "per_query.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (output_dir / name).read_bytes()


def test_processes_are_joined_without_duplicates_or_gaps(dataset, tmp_path, monkeypatch):
    whole = PersonSearchEvaluator(NAME, output_dir=str(tmp_path / "whole"))
    process(whole, dataset, range(6))
    expected = whole.evaluate()

    ranks = [PersonSearchEvaluator(NAME, output_dir=str(tmp_path / "parts")) for _ in range(3)]
    for rank, images in zip(ranks, ([0, 3], [1, 4, 1], [2, 5, 0])):
        process(rank, dataset, images)
    sent = [rank._records for rank in ranks]
    monkeypatch.setattr(comm, "gather", lambda data, dst: sent)
    assert ranks[0].evaluate() == expected
    a, b = (Predictions.load(tmp_path / f / "predictions.npz") for f in ("whole", "parts"))
    for name, array in a.arrays().items():
        np.testing.assert_array_equal(array, getattr(b, name))

    monkeypatch.setattr(comm, "gather", lambda data, dst: [])
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert ranks[1].evaluate() == {}


def test_reset_and_default_protocol(dataset):
    evaluator = PersonSearchEvaluator(NAME, ("",))
    process(evaluator, dataset, range(6))
    evaluator.reset()
    with pytest.raises(RuntimeError, match="needs predictions for 6 images, but 6 were not proc"):
        evaluator.evaluate()
    process(evaluator, dataset, range(5))
    with pytest.raises(RuntimeError, match="but 1 were not processed, first: 5"):
        evaluator.evaluate()
    process(evaluator, dataset, [5])
    assert list(evaluator.evaluate()) == ["detection", "list"]


def test_no_detections_score_zero(dataset, caplog):
    evaluator = PersonSearchEvaluator(NAME)
    for image_id in range(6):
        image, output = model_output(dataset, image_id)
        output["instances"] = output["instances"][:0]
        evaluator.process([image], [output])
    results = evaluator.evaluate()
    assert results["detection"] == {"AP50": 0, "recall50": 0, "rAP50": 0}
    nothing = {"mAP": 0, "top1": 0, "top5": 0, "top10": 0}
    assert results["list"] == pytest.approx({**EVERY_TOP, "gt_mAP": 88.75, **nothing})
    assert any("None of the 0 detections counts" in m for m in caplog.messages)


def test_inputs_without_ground_truth(dataset, caplog):
    """As Detectron2's own mapper gives them: told at once, not after all images."""
    evaluator = PersonSearchEvaluator(NAME)
    for image_id in range(6):
        image, output = model_output(dataset, image_id)
        del image["instances"], output["gt_embeddings"]
        evaluator.process([image], [output])
        assert caplog.text.count("Image 0 has queries of the protocols") == 1
    assert "Trainer.build_test_loader" in caplog.text
    with pytest.raises(ValueError, match='query of protocol "list" needs an embedding.*100'):
        evaluator.evaluate()


def test_unknown_images_and_wrong_embeddings(dataset):
    evaluator = PersonSearchEvaluator(NAME)
    image, output = model_output(dataset, 1)
    evaluator.process([image | {"image_id": 77}], [output])
    with pytest.raises(ValueError, match="image ids must be in the data set.* 1 are not: 77"):
        evaluator.evaluate()
    output["gt_embeddings"]["reid"] = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="Image 1: .* gave 3 embeddings for 1 boxes"):
        evaluator.process([image], [output])


def test_arguments(dataset, tmp_path):
    with pytest.raises(ValueError, match='no protocol "G100". Choose from: list, dict, all'):
        PersonSearchEvaluator(NAME, ("G100",))
    # One name, not its letters.
    assert [p.name for p in PersonSearchEvaluator(NAME, "list").protocols] == ["list"]
    with pytest.raises(UnknownDataSetError, match=f"is '{NAME}s', which .* Similar ones: {NAME}"):
        PersonSearchEvaluator(f"{NAME}s")
    with pytest.raises(ValueError, match='"float32" or "float16", found "int8"'):
        PersonSearchEvaluator(NAME, embedding_dtype="int8")
    write_person_search_json(tmp_path / "empty.json", [], [])
    register_person_search("evaluator_test_empty", tmp_path / "empty.json", tmp_path)
    with pytest.raises(ValueError, match='"evaluator_test_empty" has no images'):
        PersonSearchEvaluator("evaluator_test_empty")
    unregister("evaluator_test_empty")
    evaluator = PersonSearchEvaluator(NAME, ("all",))
    process(evaluator, dataset, range(6))
    assert evaluator.evaluate()["all"]["mAP"] == pytest.approx(31.67, abs=1e-2)


def test_data_set_without_protocol_gets_detection_only(dataset, tmp_path):
    register_person_search("evaluator_test_plain", tmp_path / "test.json", tmp_path)
    try:
        evaluator = PersonSearchEvaluator("evaluator_test_plain")
        process(evaluator, dataset, range(6))
        assert list(evaluator.evaluate()) == ["detection"]
    finally:
        unregister("evaluator_test_plain")


def test_protocols_by_name_for_several_sets(dataset, tmp_path):
    other = "evaluator_test_other"
    register_person_search(other, tmp_path / "test.json", tmp_path, tmp_path / "dict.json")
    sets = (NAME, other)
    try:
        for names, first, second in (
            ((), (), ()),
            (("list",), ("list",), ()),
            (("dict",), ("dict",), ("dict",)),
            (("list", "dict"), ("list", "dict"), ("dict",)),
            ((f"{other}:dict", "list"), ("list",), ("dict",)),
            (("all", f"{NAME}:list", "list"), ("all", "list"), ("all",)),
            (("",), ("",), ("",)),
        ):
            assert choose_protocols(NAME, names, sets) == first
            assert choose_protocols(other, names, sets) == second
        for wrong in ("G100", f"{other}:list", "nobody:dict"):
            message = rf'no protocol "{wrong}".*{NAME}: list, dict; {other}: dict; and "all"'
            with pytest.raises(ValueError, match=message):
                choose_protocols(NAME, ("list", wrong), sets)
    finally:
        unregister(other)


def test_unreadable_images_show_nobody(dataset, tmp_path, caplog):
    evaluator = PersonSearchEvaluator(NAME, output_dir=str(tmp_path / "out"))
    for image_id in range(6):
        image, output = model_output(dataset, image_id)
        evaluator.process([image | {SKIPPED: {f"{image_id}.jpg": "cut"}}], [output])
    results = evaluator.evaluate()
    assert results["detection"]["recall50"] == 0 and results["list"]["gt_mAP"] > 0
    assert "6 of the 6 images of evaluator_test could not be read" in caplog.text
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["num_unreadable_images"] == 6


def test_scenes_of_a_gallery_filter_are_kept_and_scored(dataset, tmp_path):
    evaluator = PersonSearchEvaluator(NAME, ("list",), str(tmp_path))
    for image_id in range(6):
        image, output = model_output(dataset, image_id)
        output["scene_embedding"] = torch.tensor([1.0, image_id]).requires_grad_()
        output["scene_fuser"] = torch.tensor([[1.0, 1.0], [0.0, 0.0], [5.0, 5.0]])
        evaluator.process([image], [output])
    results = evaluator.evaluate()
    assert results["list"] == pytest.approx(EXPECTED["list"], abs=1e-2)
    found = Predictions.load(tmp_path / "predictions.npz")
    assert found.scene_image_ids.tolist() == list(range(6))
    assert found.scene_embeddings.tolist() == [[1, i] for i in range(6)]
    assert found.scene_fuser.tolist() == [[1, 1], [0, 0], [5, 5]]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {"gfn_mAP", "gfn_cws_top1", "gfn_scene_mAP", "gfn_suggested_threshold"} <= set(metrics)
