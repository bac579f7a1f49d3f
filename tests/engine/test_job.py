"""From arguments to a config, and the command line itself."""

import json
import re
import runpy
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from spnet_d2.config_reader import ConfigError
from spnet_d2.data.catalog import register_person_search, unregister
from spnet_d2.engine import job_config, setup
from spnet_d2.modeling import precision

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tiny_opts(tiny_opts, tmp_path):
    """Settings of the tiny corpus, with the test's own output folder."""
    return [*tiny_opts, "OUTPUT_DIR", str(tmp_path / "output")]


def arguments(opts, **more):
    return Namespace(**{"config_file": "", "opts": opts, "num_gpus": 1, "eval_only": False, **more})


def test_training_config_knows_its_data(tiny_opts):
    cfg = setup(arguments(tiny_opts))
    assert cfg.is_frozen()
    assert cfg.SOLVER.MAX_ITER == 8  # 2 epochs of 8 images in batches of 2
    assert cfg.SOLVER.WARMUP_ITERS == 3
    assert cfg.MODEL.SPNET.REID.NUM_IDENTITIES == 3
    assert (Path(cfg.OUTPUT_DIR) / "config.yaml").is_file()


def test_training_reid_on_strangers_is_told(tiny_opts, tiny_corpus, tmp_path, monkeypatch):
    """Plain COCO files have no identities: OIM would train nothing, without a word."""
    content = json.loads((tiny_corpus / "people.json").read_text())
    for entry in content["annotations"]:
        del entry["person_id"], entry["is_known"], entry["iou_thresh"]
    (tmp_path / "coco.json").write_text(json.dumps(content))
    register_person_search("strangers", tmp_path / "coco.json", tiny_corpus)
    try:
        for loss, told in (("oim", True), ("momentum_queue", False)):
            warning = Mock()
            monkeypatch.setattr(job_config.logger, "warning", warning)
            twin = ["MODEL.SPNET.MOMENTUM_TWIN.ENABLED", not told]
            opts = ["DATASETS.TRAIN", ("strangers",), "MODEL.SPNET.REID.LOSS", loss, *twin]
            setup(arguments([*tiny_opts, *opts]))
            assert ("nobody's identity is known" in str(warning.call_args_list)) == told
    finally:
        unregister("strangers")


def test_explicit_values_win(tiny_opts):
    at = tiny_opts.index("SOLVER.EPOCHS")
    without_epochs = tiny_opts[:at] + tiny_opts[at + 2 :]
    given = ["SOLVER.MAX_ITER", 5, "SOLVER.WARMUP_ITERS", 1, "MODEL.SPNET.REID.NUM_IDENTITIES", 9]
    cfg = setup(arguments([*without_epochs, *given]))
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS) == (5, 1)
    assert cfg.MODEL.SPNET.REID.NUM_IDENTITIES == 9


def test_config_of_a_run_can_be_used_again(tiny_opts, tmp_path):
    first = setup(arguments([*tiny_opts, "OUTPUT_DIR", str(tmp_path / "run")]))
    again = setup(arguments([], config_file=str(tmp_path / "run" / "config.yaml")))
    for section in ("SOLVER", "TEST", "DATASETS", "INPUT"):
        assert again[section] == first[section]
    assert again.MODEL.SPNET == first.MODEL.SPNET
    longer = setup(
        arguments(["SOLVER.EPOCHS", 3], config_file=str(tmp_path / "run" / "config.yaml"))
    )
    assert longer.SOLVER.MAX_ITER == 12


def test_evaluation_config_needs_no_training_data(tiny_opts):
    opts = [*tiny_opts, "DATASETS.TRAIN", "('cuhk_sysu_train',)"]
    cfg = setup(arguments(opts, eval_only=True))
    assert cfg.MODEL.SPNET.REID.NUM_IDENTITIES == -1


@pytest.mark.parametrize("num_gpus", [0, 1])
def test_falls_back_to_the_cpu(tiny_opts, monkeypatch, num_gpus):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus == 0)
    opts = [*tiny_opts, "MODEL.DEVICE", "cuda", "SOLVER.AMP.ENABLED", True]
    cfg = setup(arguments(opts, num_gpus=num_gpus))
    assert cfg.MODEL.DEVICE == "cpu"
    assert not cfg.SOLVER.AMP.ENABLED
    log = (Path(cfg.OUTPUT_DIR) / "log.txt").read_text()
    reason = ("--num-gpus is 0", "PyTorch finds no usable GPU")[num_gpus]
    assert f"MODEL.DEVICE is cpu instead of cuda: {reason}" in log
    assert "SOLVER.AMP.ENABLED is False on the CPU: float16 needs a GPU" in log


@pytest.mark.parametrize("native", [False, True])
def test_half_precision_on_the_cpu(tiny_opts, monkeypatch, native):
    """bfloat16 stays; float16 of inference becomes bfloat16 where that is faster, else float32."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda: native)
    precision._log_once.cache_clear()
    opts = ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION", "bfloat16"]
    cfg = setup(arguments([*tiny_opts, *opts, "MODEL.SPNET.TEST.PRECISION", "float16"]))
    assert cfg.SOLVER.AMP.ENABLED
    expected = "bfloat16" if native else "float32"
    assert cfg.MODEL.SPNET.TEST.PRECISION == expected
    log = (Path(cfg.OUTPUT_DIR) / "log.txt").read_text()
    assert f"TEST.PRECISION is {expected} on the CPU: float16 needs a GPU" in log


def test_clashes_are_found_before_any_work(tiny_opts):
    opts = [*tiny_opts, "MODEL.SPNET.REID_DIM", 8]
    with pytest.raises(ConfigError, match=r"EMBED_DIM is 16 .*REID_DIM 8"):
        setup(arguments(opts))
    assert not Path(opts[opts.index("OUTPUT_DIR") + 1]).exists()


def test_numbers_that_do_not_fit_the_data(tiny_opts):
    for settings, message in (
        (["SOLVER.IMS_PER_BATCH", 9], "8 training images do not fill one batch of 9"),
        (["DATASETS.TRAIN", ()], "0 training images do not fill one batch of 2"),
        (["DATALOADER.VIEWS_PER_IMAGE", 0], "VIEWS_PER_IMAGE"),
        (["MODEL.SPNET.REID.NUM_IDENTITIES", 2], "NUM_IDENTITIES is 2.* has 3 known people"),
    ):
        with pytest.raises(ValueError, match=message):
            setup(arguments([*tiny_opts, *settings]))
    # A momentum queue has no row per person.
    queue = [
        "MODEL.SPNET.REID.LOSS",
        "momentum_queue",
        "MODEL.SPNET.MOMENTUM_TWIN.ENABLED",
        True,
        "MODEL.SPNET.REID.NUM_IDENTITIES",
        2,
    ]
    assert setup(arguments([*tiny_opts, *queue])).MODEL.SPNET.REID.NUM_IDENTITIES == 2


def test_missing_corpus_says_what_to_do(tiny_opts):
    opts = [*tiny_opts, "DATASETS.TRAIN", "('prw_train',)"]
    with pytest.raises(FileNotFoundError, match=r"trainval.json.*prepare_prw.py"):
        setup(arguments(opts))


# The tool in a process that knows the tiny corpus: {root} is filled in below.
RUN = """
import runpy, sys
from spnet_d2.data.catalog import register_person_search
root = {root!r}
for name in ("tiny_train", "tiny_test"):
    register_person_search(name, root + "/people.json", root, root + "/all_pairs.json")
sys.argv[0] = "tools/train_net.py"
runpy.run_path("tools/train_net.py", run_name="__main__")
"""


@pytest.fixture
def command_line(tiny_corpus):
    def run(*words):
        code = RUN.format(root=str(tiny_corpus))
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, words)],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )

    return run


def test_train_then_evaluate_from_the_command_line(command_line, tiny_opts, tmp_path):
    opts = [*tiny_opts, "SOLVER.EPOCHS", 1, "MODEL.DEVICE", "cuda"]
    trained = command_line("--num-gpus", 0, *opts)
    assert trained.returncode == 0, trained.stderr[-2000:]
    assert (tmp_path / "output" / "model_final.pth").is_file()
    opts += ["DATASETS.TRAIN", "('prw_train',)"]
    evaluated = command_line("--num-gpus", 0, "--eval-only", "--resume", *opts)
    assert evaluated.returncode == 0, evaluated.stderr[-2000:]
    rows = [re.findall(r"copypaste: ([\d.,]+)$", run.stdout, re.M) for run in (trained, evaluated)]
    assert rows[0] == rows[1] and len(rows[0]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["SOLVER.EPOCHS"], "Settings are KEY VALUE pairs"),
        (["SOLVER.EPOHCS", "3"], "key: SOLVER.EPOHCS; similar ones: SOLVER.EPOCHS"),
        (["--config-file", "nowhere.yaml"], "No config file at /"),
        (["INPUT.SSL_BOXES", "iou"], "INPUT.SSL_BOXES is iou, but MODEL.SPNET.REID.LOSS oim"),
        (["--num-gpus", "99"], "--num-gpus 99, but PyTorch finds"),
    ],
)
def test_wrong_command_lines(monkeypatch, capsys, words, message):
    monkeypatch.setattr(sys, "argv", ["tools/train_net.py", *words])
    with pytest.raises(SystemExit) as error:
        runpy.run_path(str(ROOT / "tools" / "train_net.py"), run_name="__main__")
    assert error.value.code == 2
    assert message in capsys.readouterr().err
