"""Detections of an image's queries: one table, cut where somebody reads a query's own."""

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch.testing import assert_close

from spnet_d2.modeling import query_results
from spnet_d2.modeling.query_results import QueryInstances


def table(query_index):
    index = torch.tensor(query_index, dtype=torch.int64)
    boxes = torch.arange(4.0 * len(index)).view(-1, 4)
    return Instances((8, 8), pred_boxes=Boxes(boxes), scores=boxes[:, 0], query_index=index)


@pytest.mark.parametrize("index", [[0, 0, 2, 4, 4, 4], [3], []], ids=["some", "one", "none"])
def test_every_query_gets_its_rows(index):
    found = table(index)
    parts = QueryInstances(found, 5)
    assert len(parts) == len(list(parts)) == 5
    for query, part in enumerate(parts):
        rows = found.query_index == query
        assert_close(part.pred_boxes.tensor, found.pred_boxes.tensor[rows], rtol=0, atol=0)
        assert_close(part.scores, found.scores[rows], rtol=0, atol=0)
        assert not part.has("query_index")
    assert [len(part) for part in parts[3:]] == [index.count(3), index.count(4)]
    with pytest.raises(IndexError):
        parts[5]


def test_nothing_is_cut_before_it_is_read(monkeypatch):
    calls = []
    split = query_results.split_by_query
    monkeypatch.setattr(
        query_results, "split_by_query", lambda *given: calls.append(1) or split(*given)
    )
    parts = QueryInstances(table([0, 1, 1]), 2)
    assert len(parts) == 2 and not calls
    assert [len(part) for part in parts] == [1, 2]
    assert len(calls) == 1
