"""Runs are not continued with other settings."""

import pytest

from spnet_d2.utils.run_record import Record, differences


def test_the_same_settings_go_on(tmp_path):
    record = Record(tmp_path / "run" / "made_with.json")
    record.settle({"every": 2, "sources": ["a.mp4"]})
    record.settle({"every": 2, "sources": ["a.mp4"]})
    assert record.read() == {"every": 2, "sources": ["a.mp4"]}


def test_other_settings_are_refused(tmp_path):
    record = Record(tmp_path / "made_with.json")
    record.settle({"every": 2, "reid": None})
    with pytest.raises(ValueError, match="every 2 -> 3, reid unset -> a.yaml.*another --output"):
        record.settle({"every": 3, "reid": "a.yaml"})
    assert record.read()["every"] == 2


def test_differences():
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 2}) == ""
    assert differences({"a": 1}, {"b": 0}) == "a 1 -> unset, b unset -> 0"
    assert differences({str(i): 0 for i in range(9)}, {}).count("unset") == 5


def test_a_damaged_file(tmp_path):
    (tmp_path / "made_with.json").write_text("{")
    with pytest.raises(ValueError, match="can't be read; remove it"):
        Record(tmp_path / "made_with.json").read()
