"""Reading a config: what wins, and what a user is told about one that can't be read."""

import pytest

from spnet_d2.config_reader import ConfigError, merge_settings, read_config


def test_settings_win_over_files_and_files_over_their_base(tmp_path):
    (tmp_path / "base.yaml").write_text("SOLVER:\n  EPOCHS: 7\n  BASE_LR: 0.5\nSEED: 3\n")
    (tmp_path / "run.yaml").write_text("_BASE_: base.yaml\nSOLVER:\n  BASE_LR: 0.25\n")
    cfg = read_config(tmp_path / "run.yaml", ["SEED", 4, "SEED", "5"])
    assert (cfg.SOLVER.EPOCHS, cfg.SOLVER.BASE_LR, cfg.SEED) == (7, 0.25, 5)
    assert cfg.MODEL.META_ARCHITECTURE == "SPNet"
    assert read_config().SOLVER.EPOCHS == 30


def test_a_written_config_is_read_again(tmp_path):
    cfg = read_config(opts=["DATASETS.TEST", "('prw_test',)", "SOLVER.STEPS", "(3,)"])
    (tmp_path / "config.yaml").write_text(cfg.dump())
    again = read_config(tmp_path / "config.yaml")
    assert again.DATASETS == cfg.DATASETS and again.SOLVER == cfg.SOLVER


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"MODEL:\n  SPNET:\n    PATHWAI: QC\n",
            "MODEL.SPNET.PATHWAI; similar ones: MODEL.SPNET.PA",
        ),
        (b"SOLVER:\n  BASE_LR: fast\n", "SOLVER.BASE_LR"),
        (b"SOLVER:\n  BASE_LR: null\n", "SOLVER.BASE_LR can't be None, expected float"),
        (b"SOLVER: [1, {\n", "parsing"),
        (b"_BASE_: nowhere.yaml\n", "nowhere.yaml"),
        (b"_BASE_: bad.yaml\n", "_BASE_ files name each other in a circle"),
        (b"", "expected sections with keys"),
        (b"- SOLVER\n", "expected sections with keys"),
        (b"\x89PNG\r\n\x1a\n\0", "codec can't decode"),
        (b"SEED: !!python/object/apply:os.getpid []\n", "python/object"),
    ],
    ids=["key", "type", "none", "syntax", "base", "circle", "empty", "list", "binary", "code"],
)
def test_files_that_cannot_be_read_are_named(tmp_path, content, message):
    (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_config(tmp_path / "bad.yaml")
    assert "bad.yaml" in str(error.value) and message in str(error.value)


def test_no_file(tmp_path):
    with pytest.raises(ConfigError, match=r"No config file at /.*nowhere\.yaml"):
        read_config(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="No config file at"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["SEED"], "KEY VALUE pairs, found 1 words"),
        (["SOLVER.EPOHCS", "3"], "SOLVER.EPOHCS; similar ones: SOLVER.EPOCHS"),
        (["SOLVER.EPOCHS", "three"], "SOLVER.EPOCHS"),
        (
            ["MODEL.SPNET.REID.SCALE", "None"],
            "MODEL.SPNET.REID.SCALE can't be None, expected float",
        ),
        (["XYZZY", "3"], "Non-existent key: XYZZY. spnet_d2/config.py has every key"),
    ],
)
def test_settings_that_cannot_be_used_are_named(opts, message):
    with pytest.raises(ConfigError, match=message):
        merge_settings(read_config(), opts)


@pytest.mark.parametrize("value", ["('prw_test')", "prw_test", "'prw_test'", "('prw_test',)"])
@pytest.mark.parametrize("reader", ["settings", "file", "detectron2's file", "detectron2's list"])
def test_one_name_where_a_tuple_belongs(tmp_path, reader, value):
    (tmp_path / "run.yaml").write_text(f'VERSION: 2\nDATASETS:\n  TEST: "{value}"\n')
    if reader == "settings":
        cfg = read_config(opts=["DATASETS.TEST", value])
    elif reader == "file":
        cfg = read_config(tmp_path / "run.yaml")
    else:
        cfg = read_config()
        if reader == "detectron2's file":
            cfg.merge_from_file(str(tmp_path / "run.yaml"))
        else:
            cfg.merge_from_list(["DATASETS.TEST", value])
    assert cfg.DATASETS.TEST == ("prw_test",)


def test_one_number_where_a_tuple_belongs():
    cfg = read_config(opts=["INPUT.MIN_SIZE_TRAIN", "640", "SOLVER.STEPS", "(30)"])
    assert cfg.INPUT.MIN_SIZE_TRAIN == (640,) and cfg.SOLVER.STEPS == (30,)
    assert read_config(opts=["TEST.PROTOCOLS", "G100"]).TEST.PROTOCOLS == ("G100",)
    assert read_config(opts=["TEST.PROTOCOLS", "()"]).TEST.PROTOCOLS == ()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("DATASETS.TRAIN", "a,b", r"DATASETS.TRAIN is 'a,b', expected .*such as \('a', 'b'\)"),
        ("DATASETS.TRAIN", "(prw_train,)", r"expected a tuple, such as \('prw_train',\)"),
        ("DATASETS.TRAIN", "", r"expected a tuple, such as \('NAME',\); \(\) is an empty one"),
        ("DATASETS.TRAIN", "3", "Type mismatch"),
        ("INPUT.SCALE_RANGE", "2.0", "Type mismatch"),
        ("INPUT.MIN_SIZE_TRAIN", "True", "Type mismatch"),
    ],
)
def test_no_tuple_and_no_single_value(tmp_path, key, value, message):
    with pytest.raises(ConfigError, match=message):
        read_config(opts=[key, value])
    section, _, name = key.partition(".")
    (tmp_path / "run.yaml").write_text(f'VERSION: 2\n{section}:\n  {name}: "{value}"\n')
    with pytest.raises(ConfigError, match=message):
        read_config(tmp_path / "run.yaml")
