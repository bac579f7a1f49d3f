"""tools/demo.py: what it does before and around the training, which is too slow for a test."""

import logging
from pathlib import Path

import pytest

from spnet_d2.config_reader import read_config
from spnet_d2.pretrained import pretrained_files
from tests.fixtures.scripts import load_script


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/demo.py")


def test_clear_removes_the_last_run_and_nothing_else(tool, tmp_path):
    (tmp_path / "inference" / "pets09_test").mkdir(parents=True)
    ours = ["model_0000009.pth", "model_final.pth", "last_checkpoint", "results.json", "log.txt"]
    ours += ["events.out.tfevents.1.x.2", "metrics.json", "inference/a.npz", "unseen.png"]
    ours += ["search.png"]
    others = ["notes.txt", "my_weights.pth", "results_old.json"]
    for name in ours + others:
        (tmp_path / name).write_text("")
    tool.clear(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(others)
    tool.clear(tmp_path)


def test_arguments(tool, tmp_path, capsys):
    config = tmp_path / "c.yaml"
    config.write_text("")
    for argv, message in (
        (["--config-file", str(tmp_path / "missing.yaml")], "no config file at"),
        (["--config-file", str(config), "SEED"], "KEY VALUE pairs"),
        (["--config-file", str(config), "--skip-train", "--output", str(tmp_path)], "--skip-train"),
    ):
        with pytest.raises(SystemExit):
            tool.parse_args(argv)
        assert message in capsys.readouterr().err
    args = tool.parse_args(["--config-file", str(config), "--seed", "3", "SOLVER.MAX_ITER", "5"])
    assert args.seed == 3 and args.opts == ["SOLVER.MAX_ITER", "5"]


def test_the_training_starts_from_the_starter_weights(tool, tmp_path):
    args = tool.parse_args(["--seed", "3", "SOLVER.BASE_LR", "0.5"])
    args.skip_train, args.output = True, tmp_path
    logger = logging.getLogger("spnet_d2")
    before = list(logger.handlers)
    try:
        cfg = tool.make_config(args)
    finally:
        logger.handlers[:] = before
    assert cfg.SEED == 3 and cfg.OUTPUT_DIR == str(tmp_path)
    # The command line wins over the demo's own settings.
    assert cfg.SOLVER.BASE_LR == 0.5 and cfg.SOLVER.MAX_ITER == 300
    assert Path(cfg.MODEL.WEIGHTS).is_file() and Path(cfg.MODEL.WEIGHTS).name == "starter.pth"
    # The weights are those of this model.
    starter = read_config(pretrained_files("starter")[0])
    for key in ("EMBED_DIM", "REID_DIM", "SEPARATE_HEADS"):
        assert cfg.MODEL.SPNET[key] == starter.MODEL.SPNET[key]
