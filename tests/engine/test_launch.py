"""Starting several processes: torchrun, two machines, and what can't start."""

import json
import os
import subprocess
import sys
import threading
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from detectron2.engine import default_argument_parser
from detectron2.utils import comm

from spnet_d2.engine.launch import LaunchError, check_launch, count_processes, launch_job
from tests.engine.processes import free_port
from tests.fixtures.scripts import ROOT

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def _no_torchrun(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def parse(*words):
    return default_argument_parser().parse_args(words)


def note_place(args: Namespace) -> None:
    """Write down this process's place in the group."""
    ranks = comm.all_gather(comm.get_rank())
    place = {
        "ranks": ranks,
        "local": [comm.get_local_rank(), comm.get_local_size()],
        "backend": dist.get_backend(),
        "gpus": torch.cuda.device_count(),
    }
    Path(args.opts[0], f"{comm.get_rank()}.json").write_text(json.dumps(place))


def places(folder: Path) -> list[dict]:
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_two_machines_on_loopback(tmp_path):
    address = f"tcp://127.0.0.1:{free_port()}"
    machines = []
    for rank in range(2):
        words = ["--num-machines", "2", "--machine-rank", str(rank), "--dist-url", address]
        args = parse(*words, str(tmp_path))
        check_launch(args, "cpu")
        machines.append(threading.Thread(target=launch_job, args=(note_place, args, "cpu")))
        machines[-1].start()
    for machine in machines:
        machine.join()
    for place in places(tmp_path):
        assert place == {"ranks": [0, 1], "local": [0, 1], "backend": "gloo", "gpus": 0}


def test_torchrun_trains(tiny_corpus, tiny_opts, tmp_path):
    """The tool itself, in two processes on the CPU, for two iterations."""
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    words += ["--master-port", str(free_port()), "-m", "tests.engine.torchrun_job", tiny_corpus]
    words += [*tiny_opts, "SOLVER.MAX_ITER", 2, "SOLVER.CHECKPOINT_PERIOD", 2]
    words += ["OUTPUT_DIR", tmp_path / "out", "DATASETS.TEST", "()"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, words)), cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(x) for x in (tmp_path / "out" / "metrics.json").read_text().splitlines()]
    assert rows[-1]["iteration"] == 1
    assert (tmp_path / "out" / "model_final.pth").is_file()
    # The second process logs to a file of its own.
    assert (tmp_path / "out" / "log.txt.rank1").is_file()


@pytest.mark.parametrize(
    ("words", "device", "message"),
    [
        (["--num-gpus", "9"], "cuda", "--num-gpus 9, but PyTorch finds .* MODEL.DEVICE cpu"),
        (["--num-machines", "2", "--machine-rank", "2"], "cpu", "--machine-rank is 2, expected 0"),
        (["--num-machines", "2", "--num-gpus", "0"], "cpu", "needs a process on each"),
        (["--num-gpus", "2", "--dist-url", "foo"], "cpu", "--dist-url is 'foo', .* or auto"),
        (["--num-gpus", "2", "--dist-url", "tcp://node"], "cpu", "expected tcp://HOST:PORT"),
        (["--num-machines", "2", "--dist-url", "auto"], "cpu", "all machines see\\."),
    ],
)
def test_what_cannot_start(words, device, message):
    with pytest.raises(LaunchError, match=message):
        check_launch(parse(*words), device)


@pytest.mark.parametrize("address", ["auto", "tcp://node:29500", "tcp://[::1]:29500", "file:///a"])
def test_two_processes_on_the_cpu_may_start(address):
    check_launch(parse("--num-gpus", "2"), "cpu")
    check_launch(parse("--num-gpus", "2", "--dist-url", address), "cpu")


def test_torchrun_without_all_of_its_variables(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(LaunchError, match="lacks WORLD_SIZE, LOCAL_RANK"):
        check_launch(parse(), "cpu")


def test_torchrun_starts_the_processes_alone(monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, "2")
    with pytest.raises(LaunchError, match="leave --num-gpus 2"):
        check_launch(parse("--num-gpus", "2"), "cpu")
    with pytest.raises(LaunchError, match="torchrun --nproc-per-node 2, but PyTorch finds"):
        check_launch(parse(), "cuda")


def test_torchrun_without_gpus_talks_by_gloo(monkeypatch):
    """--num-gpus 0 puts the model on the CPU, whatever GPUs there are."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    backends = []

    def start(backend, **_):
        backends.append(backend)
        raise KeyboardInterrupt

    monkeypatch.setattr(dist, "init_process_group", start)
    for number in "0", "1":
        with pytest.raises(KeyboardInterrupt):
            launch_job(note_place, parse("--num-gpus", number), "cuda")
    assert backends == ["gloo", "nccl"]


def test_processes_are_counted_on_all_machines(monkeypatch):
    assert count_processes(parse("--num-gpus", "0")) == 1
    assert count_processes(parse("--num-gpus", "4", "--num-machines", "2")) == 8
    for name in VARIABLES:
        monkeypatch.setenv(name, "6")
    assert count_processes(parse()) == 6
