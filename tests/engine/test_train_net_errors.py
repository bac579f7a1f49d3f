"""What is wrong with settings, data or weights, tools/train_net.py says in one line."""

import json
import sys
from argparse import Namespace
from itertools import count
from pathlib import Path

import pytest
from detectron2.utils.logger import setup_logger

from spnet_d2.data.catalog import register_person_search, unregister
from spnet_d2.engine import job
from spnet_d2.engine.launch import launch_job
from spnet_d2.errors import JobError
from spnet_d2.utils.log_handlers import remove_log_handlers
from tests.engine.conftest import write_tiny_corpus
from tests.fixtures.scripts import load_script


@pytest.fixture
def train_net(monkeypatch, capfd, tiny_opts, tmp_path):
    """Run the tool; returns its exit status, what it wrote to stderr, and what to stdout."""
    tool = load_script("tools/train_net.py")
    # A run that stopped leaves checkpoints in its folder.
    runs = count()

    def run(*words, options=()):
        settings = [*tiny_opts, "OUTPUT_DIR", tmp_path / f"output{next(runs)}", *words]
        monkeypatch.setattr(sys, "argv", ["train_net.py", *options, *map(str, settings)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as status:
            tool.run()
        out, err = capfd.readouterr()
        # They write to this run's terminal and folder.
        remove_log_handlers()
        setup_logger.cache_clear()
        return status.value.code, err, out

    return run


@pytest.fixture
def broken(tmp_path):
    """A corpus of its own under ``broken_train``, to be broken."""
    root = tmp_path / "corpus"
    root.mkdir()
    write_tiny_corpus(root)
    register_person_search("broken_train", root / "people.json", root)
    yield root
    unregister("broken_train")


def refused(result, *parts):
    status, err, out = result
    last = err.strip().splitlines()[-1]
    assert status in (1, 2) and "Traceback" not in err + out
    assert all(part in last for part in parts), last


BROKEN = ["DATASETS.TRAIN", "('broken_train',)", "DATASETS.TEST", "()"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["DATASETS.TRAIN", "('prw_train',)"], ["prw", "prepare_prw.py"]),
        (["SOLVER.WARMUP_ITERS", 10, "SOLVER.EPOCHS", 0, "SOLVER.MAX_ITER", 5], ["WARMUP_ITERS"]),
        (["SOLVER.IMS_PER_BATCH", 10], ["SOLVER.IMS_PER_BATCH", "8"]),
        (["MODEL.SPNET.REID.NUM_IDENTITIES", 2], ["NUM_IDENTITIES is 2", "3 known people"]),
        (["MODEL.SPNET.BACKBONE.NAME", "test_convnexd"], ["test_convnexd", "test_convnext"]),
        (["OUTPUT_DIR", "/proc/no/folder"], ["OUTPUT_DIR /proc/no/folder"]),
        (["OUTPUT_DIR", ""], ["OUTPUT_DIR is empty"]),
        (["SOLVER.LR_SCHEDULER_NAME", "Poly"], ["LR_SCHEDULER_NAME Poly", "WarmupMultiStepLR"]),
        (["SOLVER.BASE_LR_END", 1.0], ["BASE_LR 0.001, BASE_LR_END 1.0"]),
        (["SOLVER.WARMUP_METHOD", "none"], ["WARMUP_METHOD none"]),
        (["MODEL.WEIGHTS", "no/such.pth"], ["No checkpoint at", "no/such.pth"]),
    ],
)
def test_of_settings(train_net, words, parts):
    refused(train_net(*words), "train_net: ", *parts)


@pytest.mark.parametrize(
    ("weights", "parts"),
    [
        ("no/such.pth", ["No weight file at", "no/such.pth"]),
        ("", ["MODEL.WEIGHTS is empty"]),
        (__file__, ["can't be read as a PyTorch checkpoint"]),
    ],
)
def test_of_evaluations(train_net, weights, parts):
    refused(train_net("MODEL.WEIGHTS", weights, options=["--eval-only"]), "train_net: ", *parts)


def test_of_data(train_net, broken):
    (broken / "1.png").unlink()
    refused(train_net(*BROKEN), "train_net: ", "1.png")
    refused(train_net(*BROKEN, "DATALOADER.NUM_WORKERS", 1), "train_net: ", "1.png")
    (broken / "1.png").write_bytes(b"no image")
    refused(train_net(*BROKEN), "train_net: ", "1.png")
    content = json.loads((broken / "people.json").read_text())
    content["annotations"][0]["bbox"] = "x"
    (broken / "people.json").write_text(json.dumps(content))
    refused(train_net(*BROKEN), "train_net: ", "people.json", "bbox")
    (broken / "people.json").write_text("{")
    refused(train_net(*BROKEN), "train_net: ", "people.json is not valid JSON")


def test_faults_of_the_program_keep_their_traceback(monkeypatch, tiny_opts, tmp_path):
    tool = load_script("tools/train_net.py")
    monkeypatch.setattr(job, "setup", lambda args, cfg: {}["no such key"])
    monkeypatch.setattr(sys, "argv", ["train_net.py", *map(str, tiny_opts)])
    with pytest.raises(KeyError):
        tool.run()


def fail_in_one(args):
    """A missing file in one of two processes."""
    from detectron2.utils import comm

    if comm.get_rank() == args.rank:
        Path(args.file).read_bytes()
    comm.synchronize()


def test_of_started_processes(tmp_path, capfd):
    args = Namespace(num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto", rank=1)
    args.file = str(tmp_path / "gone.jpg")
    with pytest.raises(JobError, match=r"^FileNotFoundError: .*gone\.jpg'$"):
        launch_job(fail_in_one, args, "cpu")
    assert "Terminating process" not in capfd.readouterr().err
