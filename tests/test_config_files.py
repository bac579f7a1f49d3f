"""The project's configs, found by name from a checkout and from an installed package."""

from pathlib import Path

import pytest

from spnet_d2 import config_files
from spnet_d2.config_files import find_config_file, get_config_file
from spnet_d2.config_reader import ConfigError, read_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "name", ["table5/prw_qc", "table5/prw_qc.yaml", "projects_configs/table5/prw_qc.yaml"]
)
def test_a_config_by_its_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(get_config_file(name)) == ROOT / "projects_configs" / "table5" / "prw_qc.yaml"
    assert read_config(name).OUTPUT_DIR == "outputs/table5/prw_qc"


def test_a_file_that_is_there_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "table5" / "prw_qc"
    own.parent.mkdir()
    own.write_text("OUTPUT_DIR: own\n")
    assert read_config("table5/prw_qc").OUTPUT_DIR == "own"
    assert find_config_file(own) == str(own)


def test_an_installed_package_has_them_inside(tmp_path, monkeypatch):
    """As a wheel is laid out; without a checkout, results lie below the working folder."""
    package = tmp_path / "site-packages" / "spnet_d2"
    (package / "projects_configs").mkdir(parents=True)
    (package / "projects_configs" / "a.yaml").write_text("")
    monkeypatch.setattr(config_files, "_PACKAGE", package)
    monkeypatch.chdir(tmp_path)
    assert get_config_file("a") == str(package / "projects_configs" / "a.yaml")
    assert config_files.project_root() == tmp_path


def test_names_that_are_none():
    with pytest.raises(FileNotFoundError, match="No config 'table5/nothing' in .*projects_configs"):
        get_config_file("table5/nothing")
    with pytest.raises(
        ConfigError, match="No config file at /.*nothing.yaml, nor one of that name"
    ):
        read_config("nothing.yaml")
