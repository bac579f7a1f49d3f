import dataclasses

import numpy as np
import pytest

from spnet_d2.data.person_search_json import (
    load_person_search_json,
    load_person_search_table,
    write_person_search_json,
)
from spnet_d2.data.person_search_schema import make_annotation
from spnet_d2.evaluation import GroundTruth, Predictions, RetrievalProtocol
from spnet_d2.evaluation.gallery import detected_boxes
from spnet_d2.evaluation.report import format_table
from spnet_d2.evaluation.scoring import evaluate_predictions
from tests.evaluation.corpus import (
    QUERY,
    dataset_dicts,
    ground_truth,
    predictions,
    worked_example,
)


@pytest.fixture
def truth():
    return ground_truth(worked_example(False)[0])


def test_list_leaves_out_the_query_image_and_dict_keeps_order_and_repeats(truth):
    listed = RetrievalProtocol.from_ids("p", truth, [5, 0, 2], [QUERY])
    assert listed.gallery(0).tolist() == [5, 2]
    assert listed.covered_images().tolist() == [0, 2, 5]
    given = RetrievalProtocol.from_ids("p", truth, [0, 1, 4], {QUERY: [4, 0, 4, 1], 101: []})
    assert given.gallery(0).tolist() == [4, 0, 4, 1]
    assert given.gallery(1).tolist() == []
    assert given.gallery_share(truth.num_images) == 4 / 2 / 6
    everything = RetrievalProtocol.all_boxes(truth)
    assert len(everything.queries) == 6
    assert everything.gallery(3).tolist() == [0, 1, 2, 4, 5]


@pytest.mark.parametrize(
    "images, queries, message",
    [
        ([1], [], 'Protocol "p" must have at least one query'),
        ([1, 9], [QUERY], 'protocol "p": image ids .* but 1 are not: 9'),
        ([1], [5, 6], 'protocol "p": annotation ids .* but 2 are not: 5, 6'),
        ([1], {QUERY: [8]}, 'protocol "p": image ids .* but 1 are not: 8'),
    ],
)
def test_protocol_that_does_not_fit(truth, images, queries, message):
    with pytest.raises(ValueError, match=message):
        RetrievalProtocol.from_ids("p", truth, images, queries)


def test_ground_truth_ids_must_be_unique():
    dicts = dataset_dicts(worked_example(False)[0])
    with pytest.raises(ValueError, match="image id must be unique, but 0 occurs twice"):
        GroundTruth.from_dicts([*dicts, {"image_id": 0, "annotations": []}])
    dicts[1]["annotations"] *= 2
    with pytest.raises(ValueError, match="annotation id must be unique, but 101 occurs twice"):
        GroundTruth.from_dicts(dicts)


@pytest.mark.parametrize(
    ("image", "missing"),
    [
        ({"image_id": 5}, "image 5 lacks annotations"),
        (
            {"image_id": 5, "annotations": [{"bbox": [1, 2, 3, 4], "category_id": 0}]},
            "image 5 lacks annotation_id, iou_thresh, person_id. Register",
        ),
    ],
)
def test_ground_truth_of_another_kind(image, missing):
    with pytest.raises(ValueError, match=missing):
        GroundTruth.from_dicts([*dataset_dicts(worked_example(False)[0]), image])


def test_gt_metrics_need_the_embeddings_of_what_is_searched(truth, caplog):
    corpus, embeddings, gt_embeddings = worked_example(False)
    found = predictions(corpus, embeddings, gt_embeddings)
    # The query and the people of images 1 and 3.
    rows = [0, 1, 3]
    partial = dataclasses.replace(
        found,
        gt_annotation_ids=found.gt_annotation_ids[rows],
        gt_embeddings=found.gt_embeddings[rows],
    )
    protocols = [
        RetrievalProtocol.from_ids("p", truth, [1, 2, 3, 4, 5], [QUERY]),
        RetrievalProtocol.from_ids("q", truth, [1, 2, 3, 4, 5], {QUERY: [1, 3]}),
    ]
    evaluation = evaluate_predictions(truth, protocols, partial)
    table = format_table(evaluation)
    assert "p          mAP  25.00  top1   0.00  top5 100.00" in table
    assert table.count("gt_mAP 100.00") == 1  # of q: .8 before .7
    assert list(evaluation.gt_retrieval) == ["q"]
    expected = "3 of the 5 ground-truth boxes of the images that are searched have no embedding"
    assert [expected in m for m in caplog.messages] == [True]


def test_query_centric_predictions_need_a_protocol(truth):
    corpus, embeddings, gt_embeddings = worked_example(False)
    for scene in corpus.values():
        for detection in scene.detections:
            detection.query = QUERY
    with pytest.raises(ValueError, match="Query-centric predictions .* need a protocol"):
        evaluate_predictions(truth, [], predictions(corpus, embeddings, gt_embeddings))


def test_empty_boxes_are_left_out_not_unknown(tmp_path, caplog):
    """One box lies outside of its image: the loader drops it, a protocol still names it."""
    images = [{"id": i, "file_name": "a.jpg", "width": 90, "height": 90} for i in range(2)]
    boxes = [(5, 5, 20, 40), (200, 5, 20, 40), (9, 9, 20, 40)]
    annotations = [make_annotation(10 + k, k % 2, box, 3, True) for k, box in enumerate(boxes)]
    write_person_search_json(tmp_path / "a.json", images, annotations)
    truth = GroundTruth.from_table(load_person_search_table(tmp_path / "a.json"))
    dicts = load_person_search_json(tmp_path / "a.json", tmp_path)
    assert GroundTruth.from_dicts(dicts).empty_annotation_ids.tolist() == [11]
    protocol = RetrievalProtocol.from_ids("p", truth, [0, 1], {10: [0], 11: [0, 1], 12: [1]})
    assert truth.annotation_ids[protocol.queries].tolist() == [10, 12]
    assert [g.tolist() for g in protocol.galleries] == [[0], [1]]
    assert 'protocol "p": queries: 1 annotations are left out' in caplog.text
    with pytest.raises(ValueError, match="boxes of all of its 1 queries are empty"):
        RetrievalProtocol.from_ids("p", truth, [0, 1], [11])
    with pytest.raises(ValueError, match="1 are not: 77"):
        RetrievalProtocol.from_ids("p", truth, [0, 1], [11, 77, 10])

    one = np.ones((3, 2), np.float32)
    found = Predictions(
        image_ids=np.array([0, 1, 0]),
        boxes=np.array([[5, 5, 25, 45], [9, 9, 29, 49], [5, 5, 25, 45]], np.float32),
        scores=np.ones(3, np.float32),
        embeddings=one,
        gt_annotation_ids=np.array([11, 10, 12]),
        gt_embeddings=one,
        query_annotation_ids=np.array([10, 10, 11]),
    )
    assert found.gt_rows(truth).tolist() == [1, 2]
    assert len(detected_boxes(truth, found)) == 2
    evaluation = evaluate_predictions(truth, [protocol], found)
    assert evaluation.retrieval["p"].ap.shape == (2,)
    assert "embeddings: 1 annotations are left out" in caplog.text


def test_nobody_to_find_is_said(caplog):
    truth = GroundTruth(
        image_ids=np.arange(2),
        annotation_ids=np.arange(2),
        image_index=np.arange(2),
        boxes=np.array([[5, 5, 25, 45], [9, 9, 29, 49]], float),
        person_index=np.arange(2),
        iou_thresh=np.full(2, 0.5),
    )
    one = np.ones((2, 2), np.float32)
    found = Predictions(
        np.arange(2),
        truth.boxes,
        np.ones(2),
        one,
        gt_annotation_ids=np.arange(2),
        gt_embeddings=one,
    )
    evaluate_predictions(truth, [RetrievalProtocol.all_boxes(truth)], found)
    assert "none of its 2 queries has its person in its gallery" in caplog.text
