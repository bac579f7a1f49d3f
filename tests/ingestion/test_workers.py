"""Several processes for one gallery: what each is given, and that together they index all once."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from spnet_d2.cli.gallery import index, main
from spnet_d2.gallery import Filter, GalleryError
from spnet_d2.ingestion import GalleryHome, Source, index_sources
from spnet_d2.ingestion.units import plan_folder
from spnet_d2.ingestion.workers import environment_of, run_processes, take_own_device
from tests.cli.test_gallery import Opened
from tests.fixtures.painted import PaintedPredictor, scene, walk, write_folder, write_video
from tests.fixtures.without_pytorch import HIDE

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("inherited", "rank", "device"),
    [
        ({}, 1, "1"),
        ({"CUDA_VISIBLE_DEVICES": "4,6"}, 1, "6"),
        ({"CUDA_VISIBLE_DEVICES": "4,6"}, 2, "4"),
        ({"CUDA_VISIBLE_DEVICES": ""}, 1, ""),
    ],
    ids=["all", "chosen", "more than GPUs", "none"],
)
def test_a_gpu_for_each(inherited, rank, device):
    given = environment_of(rank, 3, {"HOME": "/home", **inherited})
    assert given["CUDA_VISIBLE_DEVICES"] == device
    assert given["LOCAL_RANK"] == str(rank) and given["HOME"] == "/home"
    assert int(given["OMP_NUM_THREADS"]) >= 1
    assert environment_of(0, 3, {"OMP_NUM_THREADS": "7"})["OMP_NUM_THREADS"] == "7"


@pytest.mark.parametrize(
    ("environment", "rank", "device"),
    [
        # torchrun on a machine with all GPUs.
        ({"LOCAL_RANK": "2", "RANK": "10", "WORLD_SIZE": "16"}, 2, "2"),
        ({"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "3,5"}, 1, "5"),
        # A SLURM array: each task has a GPU that is its only one.
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_LOCALID": "0", "CUDA_VISIBLE_DEVICES": "3"}, 0, "3"),
        ({"SLURM_LOCALID": "1"}, 1, "1"),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, None, "0,1"),
    ],
    ids=["torchrun", "torchrun, chosen", "SLURM array", "srun", "alone"],
)
def test_launchers_give_each_its_gpu(environment, rank, device):
    assert take_own_device(environment) == rank
    assert environment["CUDA_VISIBLE_DEVICES"] == device


def test_all_are_started_and_waited_for(tmp_path):
    program = """
        import os, pathlib, sys
        rank = os.environ["LOCAL_RANK"]
        pathlib.Path(sys.argv[1], rank).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
        sys.exit(int(rank) == int(sys.argv[2]))
    """
    command = [sys.executable, "-S", "-c", textwrap.dedent(program), str(tmp_path)]
    run_processes([*command, "9"], 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]
    with pytest.raises(GalleryError, match="Processes 1 of 3 failed"):
        run_processes([*command, "1"], 3)


# `spnet-gallery` with painted people in the model's place.
PROGRAM = (
    HIDE
    + """
import os, sys

from spnet_d2.cli.gallery import index, main
from tests.cli.test_gallery import Opened

index.OpenedPredictor, index._PROGRAM = Opened, os.environ["PROGRAM"]
sys.exit(main())
"""
)


def start(words: list[str], **environment: str) -> subprocess.Popen:
    environment = {**os.environ, "PROGRAM": PROGRAM, **environment}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *words], cwd=ROOT, env=environment)


@pytest.fixture
def words(tmp_path):
    path = write_video(tmp_path / "yard.avi", walk("red", 40, start=5))
    home = ["--gallery", str(tmp_path / "home"), "--source", f"yard={path}"]
    return ["index", *home, "--fps", "10", "--segment", "1", "--every-detection"]


def indexed_frames(home: GalleryHome, source: str) -> list[int]:
    home.close()
    people = home.store.fetch(home.store.find(Filter(sources=source)))
    return sorted(people.frames.tolist())


def check_all_once(tmp_path) -> None:
    found = GalleryHome(tmp_path / "home")
    assert indexed_frames(found, "yard") == list(range(0, 4000, 100))
    assert found.problems() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "yard.avi"]


def test_processes_that_make_the_gallery_at_once(tmp_path, words):
    """As torchrun and SLURM start them: nobody has made the gallery before."""
    started = [start(words, LOCAL_RANK=str(n), WORLD_SIZE="2") for n in range(2)]
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    check_all_once(tmp_path)


def test_num_gpus_starts_as_many_processes(tmp_path, words, monkeypatch):
    """This one makes the gallery, and two others do the work."""
    monkeypatch.setattr(index, "OpenedPredictor", Opened)
    monkeypatch.setattr(index, "_PROGRAM", PROGRAM)
    monkeypatch.setenv("PROGRAM", PROGRAM)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.chdir(ROOT)
    assert main([*words, "--num-gpus", "2"]) == 0
    check_all_once(tmp_path)


def test_a_wrong_number_of_processes(tmp_path, words, capsys):
    assert main([*words, "--num-gpus", "-1"]) == 1
    assert "--num-gpus is 0 or more, found -1" in capsys.readouterr().err


def test_whoever_starts_later_plans_the_same(home, tmp_path):
    """The second of three units is done before another process plans: nothing twice."""
    folder = write_folder(tmp_path / "in", {f"{n}.png": scene(("red", 5)) for n in range(6)})
    source = Source("gate", str(folder), "gate")
    units, *_ = plan_folder(source, "settings", [], [], 2)
    home.plans.write("gate", units)
    later, changed, gone = plan_folder(source, "settings", units[1:2], home.plans.read("gate"), 2)
    assert later == [units[0], units[2]] and not changed and not gone
    # New images get numbers of their own; a plan of other settings does not hold.
    write_folder(folder, {"9.png": scene(("red", 5))})
    more, *_ = plan_folder(source, "settings", units[1:2], units, 2)
    assert more[:2] == later and [p.frame for p in more[2].pictures] == [6]
    others, *_ = plan_folder(source, "others", units[1:2], units, 2)
    assert [p.frame for unit in others for p in unit.pictures] == [6, 7, 8, 9, 10]


def test_plans_end_with_the_work(home, tmp_path):
    folder = write_folder(tmp_path / "in", {"1.png": scene(("red", 5))})
    source = Source("gate", str(folder), "gate")
    stopped, predictor = PaintedPredictor(fail_after=0), PaintedPredictor()
    with pytest.raises(KeyboardInterrupt):
        index_sources(home, [source], lambda image: stopped.detect([image])[0])
    assert len(home.plans.read("gate")) == 1
    index_sources(home, [source], lambda image: predictor.detect([image])[0])
    assert home.plans.read("gate") == [] and list((home.path / "plans").iterdir()) == []


def test_a_damaged_plan_is_one_error(home, tmp_path):
    folder = write_folder(tmp_path / "in", {"1.png": scene(("red", 5))})
    home.plans.write("gate", plan_folder(Source("gate", str(folder), "gate"), "", [])[0])
    (file,) = (home.path / "plans").iterdir()
    file.write_text("[")
    with pytest.raises(GalleryError, match=f"{file.name} is damaged"):
        home.plans.read("gate")
