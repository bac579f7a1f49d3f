"""tools/demo.py: what it does before and around the training, which is too slow for a test."""

import pytest

from tests.scripts import load_script


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
        (["--config-file", str(config), "SEED"], "KEY VALUE pairs"),
        (["--config-file", str(config), "--skip-train", "--output", str(tmp_path)], "--skip-train"),
    ):
        with pytest.raises(SystemExit):
            tool.parse_args(argv)
        assert message in capsys.readouterr().err
    args = tool.parse_args(["--config-file", str(config), "--seed", "3", "SOLVER.MAX_ITER", "5"])
    assert args.seed == 3 and args.opts == ["SOLVER.MAX_ITER", "5"]
