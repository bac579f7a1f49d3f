"""Rows and filters: conversions, and one message for each that is wrong."""

from datetime import datetime

import numpy as np
import pytest

from spnet_d2.gallery import Filter, GalleryError, GallerySettings, People
from spnet_d2.gallery.times import time_stamp

BOX = [[0, 0, 1, 1]]


def test_embeddings_become_unit_vectors():
    people = People.of([[3, 4], [3e30, 4e30], [3e-30, 4e-30]], BOX * 3, [1, 1, 1])
    assert people.embeddings.dtype == np.float16
    assert people.embeddings.tolist() == [pytest.approx([0.6, 0.8], abs=1e-3)] * 3


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"embeddings": [[0, 0]]}, "Embedding 0 is zero"),
        ({"embeddings": [[np.nan, 1]]}, "embeddings must be finite"),
        ({"embeddings": [1, 2]}, r"shape \(people, dimension\), found \(2,\)"),
        ({"embeddings": [["a"]]}, "embeddings must be numbers"),
        ({"boxes": BOX * 2}, "same length.*'boxes': 2"),
        ({"boxes": [[0, 0, 1]]}, "boxes have four numbers"),
        ({"scores": [1.5]}, r"must be in \[0, 1\]"),
        ({"cameras": ["a", "b"]}, "same length.*'cameras': 2"),
        ({"frames": [0.5]}, "frames must be whole numbers"),
        ({"times": [datetime(2026, 5, 1)]}, "2026-05-01T00:00:00 has no time zone"),
        ({"times": [1.5]}, "found 1.5"),
        ({"times": "today"}, "found 'today'"),
        ({"times": 2**63}, "from 1678 to 2262"),
        ({"times": np.datetime64("3000-01-01")}, "from 1678 to 2262"),
    ],
)
def test_people_that_are_wrong(columns, message):
    with pytest.raises(GalleryError, match=message):
        People.of(**{"embeddings": [[1, 0]], "boxes": BOX, "scores": [1], **columns})


@pytest.mark.parametrize(
    "conditions, message",
    [
        ({"since": datetime(2026, 5, 1)}, "no time zone"),
        ({"cameras": 3}, "cameras of a filter are names, found 3"),
        ({"ids": [0.5]}, "whole numbers"),
        ({"min_score": np.nan}, "min_score must be a number"),
    ],
)
def test_filters_that_are_wrong(conditions, message):
    with pytest.raises(GalleryError, match=message):
        Filter(**conditions)


@pytest.mark.parametrize("values", [{"dimension": 0}, {"dimension": 4, "score_floor": 1.5}])
def test_settings_that_are_wrong(values):
    with pytest.raises(GalleryError):
        GallerySettings(**values)


def test_unknown_times():
    assert np.isnat(time_stamp(None)) and np.isnat(time_stamp(np.datetime64("NaT")))
