"""Actors of a Ray cluster do what processes do: the same work, once, and what one leaves undone."""

import sys
from pathlib import Path

import pytest

from spnet_d2.cli.gallery import index, main
from spnet_d2.gallery import Filter, GalleryError
from spnet_d2.ingestion import GalleryHome
from spnet_d2.ingestion.ray_actors import _share, run_actors
from tests.cli.test_gallery import Opened
from tests.fixtures.painted import walk, write_video

ROOT = Path(__file__).resolve().parents[2]


def painted(words) -> int:
    """`spnet-gallery` with painted people in the model's place, in an actor."""
    index.OpenedPredictor = Opened
    return main(list(words))


def failing(words) -> int:
    return 1


@pytest.fixture
def ray(monkeypatch):
    # Workers find this file by it.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    # Else they wait for whatever else runs.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    return pytest.importorskip("ray")


@pytest.fixture
def cameras(tmp_path):
    yard = write_video(tmp_path / "yard.avi", walk("red", 30, start=5))
    gate = write_video(tmp_path / "gate.avi", walk("blue", 20, start=5))
    return ["--source", f"yard={yard}", "--source", f"gate={gate}", "--fps", "10"]


def rows(folder: Path) -> dict[str, list]:
    home = GalleryHome(folder)
    home.close()
    assert home.problems() == []
    people = home.store.fetch(home.store.find(Filter()))
    return {
        "where": sorted(zip(people.sources, people.frames.tolist())),
        "boxes": sorted(people.boxes.tolist()),
    }


def test_both_drivers_index_the_same(ray, tmp_path, cameras, monkeypatch):
    """Two actors in place of one process; afterwards either finds nothing left to do."""
    monkeypatch.setattr(index, "OpenedPredictor", Opened)
    monkeypatch.setattr(index, "_again", painted)
    words = ["index", *cameras, "--segment", "1", "--every-detection", "--gallery"]
    assert main([*words, str(tmp_path / "one")]) == 0
    actors = ["--ray", "local", "--num-gpus"]
    assert main([*words, str(tmp_path / "actors"), *actors, "2"]) == 0
    expected = rows(tmp_path / "one")
    assert len(expected["where"]) == 50
    assert rows(tmp_path / "actors") == expected
    before = sorted((tmp_path / "actors").rglob("*"))
    assert main([*words, str(tmp_path / "actors"), *actors, "1"]) == 0
    assert rows(tmp_path / "actors") == expected
    assert sorted((tmp_path / "actors").rglob("*")) == before


def test_an_actor_that_fails_is_told(ray):
    with pytest.raises(GalleryError, match=r"1 of 1 actors failed: exit status 1, .* the rest"):
        run_actors(failing, ["index"], 1, "local")
    assert not ray.is_initialized()


def test_no_cluster(ray):
    with pytest.raises(GalleryError, match=r"--ray auto: no Ray cluster answers .*ray start"):
        run_actors(failing, [], 1, "auto")


def test_more_actors_than_there_is_room_for():
    """Ray would wait for ever."""
    assert _share({"CPU": 8.0}, 2, "local") == (0, 4)
    assert _share({"CPU": 8.0}, 0, "local") == (0, 8)
    assert _share({"CPU": 64.0, "GPU": 4.0}, 0, "auto") == (4, 16)
    with pytest.raises(GalleryError, match="--num-gpus 9, but the Ray cluster local has 8 cores"):
        _share({"CPU": 8.0}, 9, "local")
    with pytest.raises(GalleryError, match="--num-gpus 5, .* has 4 GPUs"):
        _share({"CPU": 64.0, "GPU": 4.0}, 5, "auto")


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(GalleryError, match=r"pip install 'spnet_d2\[ray\]'"):
        run_actors(failing, [], 1, "local")
