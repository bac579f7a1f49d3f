import dataclasses

import pytest

from spnet_d2.evaluation import GroundTruth, RetrievalProtocol
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


def test_gt_figures_need_the_embeddings_of_what_is_searched(truth, caplog):
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
