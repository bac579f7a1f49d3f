"""Data sets named in a YAML file."""

import os

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from spnet_d2.config_checks import check_data_sets
from spnet_d2.config_reader import ConfigError, read_config
from spnet_d2.data import own_sets
from spnet_d2.data.catalog import unregister
from spnet_d2.data.own_sets import OwnSet, OwnSetsError, read_sets, register_sets, write_sets
from spnet_d2.data.person_search_json import write_person_search_json, write_protocol
from spnet_d2.data.person_search_schema import make_annotation

SETS = """
own_street:
  json: labels/street.json
  images: frames
  protocols:
    later: labels/later.json
    all: labels/all.json
"""


@pytest.fixture(autouse=True)
def _forget():
    yield
    for name in list(own_sets._registered):
        unregister(name)
    own_sets._registered.clear()


@pytest.fixture
def street(tmp_path):
    (tmp_path / "frames").mkdir()
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 9, "height": 9} for n in (0, 1)]
    annotations = [make_annotation(n, n, (1, 1, 2, 2), 1, True) for n in (0, 1)]
    write_person_search_json(tmp_path / "labels" / "street.json", images, annotations)
    for name in ("later", "all"):
        write_protocol(tmp_path / "labels" / f"{name}.json", [0, 1], [0, 1])
    (tmp_path / "sets.yaml").write_text(SETS)
    return tmp_path


def test_paths_count_from_the_file(street, monkeypatch):
    monkeypatch.chdir("/")
    assert register_sets([street / "sets.yaml"]) == ["own_street"]
    dicts = DatasetCatalog.get("own_street")
    assert dicts[1]["file_name"] == str(street / "frames" / "1.jpg")
    protocols = MetadataCatalog.get("own_street").protocols
    assert protocols == {n: str(street / "labels" / f"{n}.json") for n in ("later", "all")}
    assert list(protocols) == ["later", "all"]


@pytest.mark.parametrize("value", ["sets.yaml", "('sets.yaml',)", ("sets.yaml",), ["sets.yaml"]])
def test_from_the_command_line(street, monkeypatch, value):
    monkeypatch.chdir(street)
    opts = ["DATASETS.FILES", value, "DATASETS.TEST", ("own_street",)]
    cfg = read_config(None, opts)
    assert cfg.DATASETS.FILES == (str(street / "sets.yaml"),)
    check_data_sets(cfg, training=False)
    # The config that a job writes down holds in other folders, too.
    monkeypatch.chdir("/")
    assert read_config(None, ["DATASETS.FILES", str(cfg.DATASETS.FILES)]) is not None


def test_from_a_config_file_beside_it(street):
    (street / "job.yaml").write_text('DATASETS:\n  FILES: ("sets.yaml",)\n')
    assert not os.path.exists("sets.yaml")
    read_config(street / "job.yaml")
    assert "own_street" in DatasetCatalog


def test_a_file_may_change(street):
    register_sets([street / "sets.yaml"])
    (street / "sets.yaml").write_text(SETS.replace("frames", "."))
    register_sets([street / "sets.yaml"])
    assert MetadataCatalog.get("own_street").image_root == str(street)


def test_names_that_are_taken(street, tmp_path):
    (street / "sets.yaml").write_text(SETS.replace("own_street", "prw_train"))
    with pytest.raises(ConfigError, match="'prw_train' is taken by this project"):
        read_config(None, ["DATASETS.FILES", str(street / "sets.yaml")])
    (street / "sets.yaml").write_text(SETS)
    (street / "more.yaml").write_text(SETS.replace("frames", "."))
    register_sets([street / "sets.yaml"])
    with pytest.raises(OwnSetsError, match=r"more.yaml: the name .* is taken by .*sets.yaml"):
        register_sets([street / "more.yaml"])


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: [", "is not YAML"),
        ("- a", "expected names of data sets"),
        ("", "expected names of data sets"),
        ("a: b.json", "data set 'a' must have the keys json and images"),
        ("a: {json: b.json}", "images must be a path, found None"),
        ("a: {json: b, images: c, protocol: d}", "unknown keys: protocol; known are json"),
        ("a: {json: b, images: c, protocols: [d]}", "protocols must be names with paths"),
        ("a: {json: b, images: 3}", "images must be a path, found 3"),
    ],
)
def test_files_of_another_form(tmp_path, text, message):
    file = tmp_path / "sets.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"Cannot use DATASETS.FILES: {file}.*{message}"):
        read_config(None, ["DATASETS.FILES", str(file)])


@pytest.mark.parametrize(
    "gone, message",
    [
        ("sets.yaml", "No data sets at .*sets.yaml"),
        ("labels/street.json", "data set 'own_street': no person-search JSON at .*street.json"),
        ("frames", "data set 'own_street': no image folder at .*frames"),
        ("labels/all.json", "protocol 'all': No such file"),
    ],
)
def test_missing_files_stop_a_job_that_uses_them(street, gone, message):
    (street / gone).rename(street / "elsewhere")
    opts = ["DATASETS.FILES", str(street / "sets.yaml"), "DATASETS.TEST", ("own_street",)]
    # Reading a trained model's config is no use of its data.
    cfg = read_config(None, opts)
    with pytest.raises(ConfigError, match=message):
        check_data_sets(cfg, training=False)
    if gone != "sets.yaml":
        check_data_sets(read_config(None, [*opts[:2], "DATASETS.TEST", ("prw_test",)]), False)


def test_a_protocol_that_cannot_be_used(street):
    (street / "labels" / "later.json").write_text('{"images": [0]}')
    opts = ["DATASETS.FILES", str(street / "sets.yaml"), "DATASETS.TEST", ("own_street",)]
    with pytest.raises(ConfigError, match="'own_street': protocol 'later': .*queries"):
        check_data_sets(read_config(None, opts), training=False)


def test_written_sets_join_those_that_are_there(street):
    inside = OwnSet("a", street / "x" / "a.json", street)
    outside = OwnSet("own_street", street.parent / "b.json", street / "i", {"p": street / "p.json"})
    write_sets(street / "sets.yaml", [inside, outside])
    text = (street / "sets.yaml").read_text()
    assert "json: x/a.json" in text and f"json: {street.parent / 'b.json'}" in text
    assert {entry.name: entry for entry in read_sets(street / "sets.yaml")} == {
        "a": inside,
        "own_street": outside,
    }
    (street / "sets.yaml").write_text("- mine")
    with pytest.raises(OwnSetsError, match="expected names"):
        write_sets(street / "sets.yaml", [inside])
    assert (street / "sets.yaml").read_text() == "- mine"
