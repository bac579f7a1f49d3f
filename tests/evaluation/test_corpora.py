"""Prepared CUHK-SYSU and PRW miniatures: every protocol file is scored, a perfect model well."""

import dataclasses

import numpy as np
import pytest

from spnet_d2.data.person_search_json import (
    load_person_search_json,
    load_person_search_table,
    load_protocol,
)
from spnet_d2.evaluation import (
    GroundTruth,
    Predictions,
    RetrievalProtocol,
    evaluate_predictions,
    flat_metrics,
)


@pytest.mark.parametrize("corpus", ["cuhk", "prw"])
def test_perfect_model(prepared_root, corpus):
    folder = prepared_root / corpus
    truth = GroundTruth.from_dicts(load_person_search_json(folder / "coco/test.json", folder))
    columns = GroundTruth.from_table(load_person_search_table(folder / "coco/test.json"))
    for field in dataclasses.fields(GroundTruth):
        a, b = getattr(truth, field.name), getattr(columns, field.name)
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    perfect = np.eye(truth.num_persons, dtype=np.float32)[truth.person_index]
    predictions = Predictions(
        image_ids=truth.image_ids[truth.image_index],
        boxes=truth.boxes.astype(np.float32),
        scores=np.ones(len(truth.boxes), np.float32),
        embeddings=perfect,
        gt_annotation_ids=truth.annotation_ids,
        gt_embeddings=perfect,
    )
    names = [p.stem for p in (folder / "retrieval").glob("*.json") if p.stem != "val"]
    protocols = [
        RetrievalProtocol.from_ids(name, truth, content.images, content.queries)
        for name in sorted(names)
        for content in [load_protocol(folder / "retrieval" / f"{name}.json")]
    ]
    evaluation = evaluate_predictions(truth, protocols, predictions)
    # Less only where the very same box is annotated twice: one detection of them is left over.
    assert flat_metrics(evaluation)["recall50"] == pytest.approx(1, abs=0.15)
    assert len(protocols) >= 3
    for name in names:
        scores, gt = evaluation.retrieval[name], evaluation.gt_retrieval[name]
        np.testing.assert_array_equal(scores.ap, gt.ap)
        matchable = scores.present > 0
        assert (scores.first_hit_rank[matchable] == 0).all()
        # A repeated image halves recall at most, a second box of the person precision.
        assert (scores.ap[matchable] >= 0.25).all()
        assert (scores.ap[~matchable] == 0).all()
