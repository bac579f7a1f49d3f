"""The examples of datasets/README.md work as they stand there."""

import json
import re
from pathlib import Path

from detectron2.data.catalog import DatasetCatalog, MetadataCatalog

from spnet_d2.data import catalog
from spnet_d2.data.person_search_json import load_person_search_json, load_protocol

README = Path(__file__).resolve().parents[2] / "datasets" / "README.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)


def test_own_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    try:
        exec(compile(code, str(README), "exec"), {})
        dicts = DatasetCatalog.get("lobby_test")
        assert [entry["annotations"][0]["identity"] for entry in dicts] == [0, 0]
        protocols = MetadataCatalog.get("lobby_test").protocols
        assert load_protocol(protocols["all"]).queries == [0, 1]
    finally:
        catalog.unregister("lobby_test")


def test_json_examples(tmp_path):
    partition, protocol = blocks("json")
    (tmp_path / "partition.json").write_text(partition)
    (tmp_path / "protocol.json").write_text(protocol)
    assert load_person_search_json(tmp_path / "partition.json", tmp_path)[0]["cam_id"] == 3
    assert load_protocol(tmp_path / "protocol.json").queries == {0: [1, 2, 3], 7: [0, 2]}
    assert json.loads(partition).keys() == {"images", "annotations"}
