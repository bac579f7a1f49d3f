"""tools/demo.py: what it does before and around the training, which is too slow for a test."""

import logging

import pytest

from tests.fixtures.scripts import load_script


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/demo.py")


def test_clear_removes_the_last_run_and_nothing_else(tool, tmp_path):
    (tmp_path / "inference" / "pets09_test").mkdir(parents=True)
    ours = ["model_0000009.pth", "model_final.pth", "last_checkpoint", "results.json", "log.txt"]
    ours += ["events.out.tfevents.1.x.2", "search.png", "metrics.json", "inference/a.npz"]
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
        (["--pretrain-config-file", str(tmp_path / "missing.yaml")], "no config file at"),
        (["--config-file", str(config), "SEED"], "KEY VALUE pairs"),
        (["--config-file", str(config), "--skip-train", "--output", str(tmp_path)], "--skip-train"),
    ):
        with pytest.raises(SystemExit):
            tool.parse_args(argv)
        assert message in capsys.readouterr().err
    args = tool.parse_args(["--config-file", str(config), "--seed", "3", "SOLVER.MAX_ITER", "5"])
    assert args.seed == 3 and args.opts == ["SOLVER.MAX_ITER", "5"]


def test_every_training_has_a_log_of_its_own(tool, tmp_path):
    args = tool.parse_args(["--seed", "3", "SOLVER.BASE_LR", "0.5"])
    args.skip_train = True
    logger = logging.getLogger("spnet_d2")
    before = list(logger.handlers)
    try:
        for name in ("first", "second"):
            opts = ["SOLVER.BASE_LR", "0.1", "SOLVER.MAX_ITER", "7"]
            cfg = tool.make_config(args, args.config_file, tmp_path / name, opts)
            logger.info("this is %s", name)
    finally:
        logger.handlers[:] = before
    assert cfg.SEED == 3 and cfg.OUTPUT_DIR == str(tmp_path / "second")
    # The command line wins over the demo's own settings.
    assert cfg.SOLVER.BASE_LR == 0.5 and cfg.SOLVER.MAX_ITER == 7
    for name, other in (("first", "second"), ("second", "first")):
        log = (tmp_path / name / "log.txt").read_text()
        assert log.count(f"this is {name}") == 1 and f"this is {other}" not in log
