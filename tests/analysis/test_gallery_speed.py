"""Benchmark of galleries: every engine that is there finds whom the exact one finds."""

import importlib.util
import json

import numpy as np
import pytest

from spnet_d2.analysis import gallery_speed
from spnet_d2.analysis.gallery_engines import CAMERAS, engine
from spnet_d2.analysis.gallery_speed import Searches
from tests.fixtures.scripts import load_script

THERE = [e for e in ("exact", "lancedb", "npz") if e != "lancedb" or importlib.util.find_spec(e)]


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/benchmark_gallery.py")


def test_the_table_and_the_numbers(tool, monkeypatch, tmp_path, capsys):
    # In this process: a new one takes seconds to start.
    monkeypatch.setattr(tool, "alone", lambda work, *arguments: work(*arguments))
    monkeypatch.setattr(gallery_speed, "_APPENDS", 5)
    output = tmp_path / "numbers.json"
    size = ["--people", "2000", "--dimension", "16", "--queries", "5"]
    assert tool.main([*size, "--engines", *THERE, "--output", str(output)]) == 0
    text = capsys.readouterr().out
    result = json.loads(output.read_text())["engines"]
    assert list(result) == THERE
    for one in result.values():
        assert one["all"]["recall"] == one["camera"]["recall"] == 1
        assert 0 < one["all"]["median"] <= one["all"]["worst"]
        assert one["disk_bytes"] > 2000 * 16 * 2
    assert 0 < result["exact"]["bandwidth"]["share"]
    assert result["exact"]["appends"]["slower"] > 0
    assert "recall@10" in text and "2,000 people x 16" in text


@pytest.mark.parametrize("name", ["exact", "npz"])
def test_a_camera_is_every_fiftieth_row(name, tmp_path):
    people = gallery_speed.write_people(tmp_path / "people", 1000, 8)
    one = engine(name)
    one.build(people, tmp_path)
    one.open(tmp_path)
    query = people[107].astype(np.float32)
    found = one.search(query, 7)
    rows = np.arange(7, 1000, CAMERAS)
    assert found[0] == 107
    assert set(found.tolist()) <= set(rows.tolist())
    near = rows[np.argsort(-(people[rows].astype(np.float32) @ query))[:10]]
    assert len(set(near.tolist()) & set(found.tolist())) >= 9


def test_recall_counts_what_is_there():
    truth = Searches(1, 1, 1, [[1, 2, 3, 4], [5, 6, -1, -1]])
    found = Searches(1, 1, 1, [[4, 9, 1, 8], [6, 5, -1, -1]])
    assert found.recall(truth) == 4 / 6
    assert truth.recall(truth) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [("--people 10", "1000 or more"), ("--engines npz", "needs exact")],
)
def test_bad_arguments(tool, words, message, capsys):
    with pytest.raises(SystemExit):
        tool.main(words.split())
    assert message in capsys.readouterr().err
