"""Indexing: what is in the gallery after one run, several, stopped ones and changed footage."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from spnet_d2.gallery import Filter, GalleryError
from spnet_d2.gallery.finding import sighting
from spnet_d2.ingestion import GalleryHome, Options, Progress, Source, clips, index_sources
from spnet_d2.ingestion.look import best_rows
from tests.fixtures.painted import PaintedPredictor, scene, walk, write_folder, write_video
from tests.fixtures.without_pytorch import HIDE
from tests.ingestion.conftest import SETTINGS

START = datetime(2026, 5, 1, 8, tzinfo=timezone.utc)
EVERY = Options(per_tracklet=0, segment_seconds=1)


def index(home, predictor, *sources, options=EVERY) -> Progress:
    return index_sources(home, sources, lambda image: predictor.detect([image])[0], options)


def rows(home, **where):
    """(source, frame, colour's largest channel) of all people, sorted."""
    home.close()
    people = home.store.fetch(home.store.find(Filter(**where)))
    channel = people.embeddings.argmax(axis=1)
    return sorted(zip(people.sources.tolist(), people.frames.tolist(), channel.tolist()))


def video(tmp_path, frames=30, **settings) -> Source:
    path = write_video(tmp_path / "yard.avi", walk("red", frames))
    return Source("yard", str(path), "yard", **{"start": START, "fps": 5.0, **settings})


def _anywhere(folder: Path, data: bytes) -> bool:
    """Whether any file holds these bytes."""
    return any(data in file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_video_frames_and_times(home, predictor, tmp_path):
    """10 frames a second, of which 5 are taken: each second one, with the container's time."""
    progress = index(home, predictor, video(tmp_path))
    assert progress.frames == progress.found == progress.rows == predictor.looked == 15
    people = home.store.fetch(home.store.find())
    np.testing.assert_array_equal(people.frames, np.arange(15) * 200)
    since = (people.times - np.datetime64("2026-05-01T08:00:00", "ns")) / np.timedelta64(1, "ms")
    np.testing.assert_array_equal(since, people.frames)
    assert set(people.cameras) == {"yard"}


def test_unknown_times_are_places_in_the_video(home, predictor, tmp_path):
    index(home, predictor, video(tmp_path, start=None))
    people = home.store.fetch(np.array([0]))
    hit = sighting(people, 0, 0, 1.0)
    assert hit.time is None and home.when(hit) == "0:00"
    assert home.when(replace(hit, frame=76_900)) == "1:16"
    assert home.when(replace(hit, frame=3_723_000)) == "1:02:03"
    assert home.when(replace(hit, time=START)) == START.isoformat(sep=" ")
    # Of a source that was deleted meanwhile.
    assert home.when(replace(hit, source="gone")) == "frame 0"
    frames = Source("frames", str(tmp_path), "gate")
    assert frames.position(76_900) == "frame 76900"
    # Wherever the folder has gone.
    assert replace(frames, place=str(tmp_path / "gone")).kind == "folder"


def test_second_run_adds_nothing(home, predictor, tmp_path):
    source = video(tmp_path)
    index(home, predictor, source)
    before, looked = rows(home), predictor.looked
    assert index(home, predictor, source).frames == 0
    assert predictor.looked == looked
    assert rows(home) == before


def test_stopped_run_goes_on(home, tmp_path):
    """Stopped in its second unit of three: the first is there, the next run does the rest."""
    source = video(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        index(home, PaintedPredictor(fail_after=7), source)
    assert len(rows(home)) == 5
    again = PaintedPredictor()
    index(home, again, source)
    assert again.looked == 10
    assert [frame for _, frame, _ in rows(home)] == list(range(0, 3000, 200))


def test_tracklets_keep_the_best(home, predictor, tmp_path):
    """One walk in three units: three tracklets, of which two rows each are kept."""
    index(home, predictor, video(tmp_path), options=Options(2, segment_seconds=1))
    people = home.store.fetch(home.store.find())
    assert len(people) == 6
    assert len(np.unique(people.tracklets)) == 3
    # The boxes of all frames stay known.
    assert sum(len(s.boxes) for s in home.scenes("yard")) == 15


def test_folder_with_sub_folders(home, predictor, tmp_path):
    """Equal names stay apart, numbers count as numbers, new and changed files are found later."""
    folder = write_folder(
        tmp_path / "frames",
        {"a/2.png": scene(("red", 5)), "a/10.png": scene(("green", 5)), "b/2.png": scene()},
    )
    source = Source("gate", str(folder), "gate")
    index(home, predictor, source)
    assert rows(home) == [("gate", 0, 2), ("gate", 1, 1)]
    write_folder(folder, {"c/1.png": scene(("blue", 5))})
    # Another time of change, also on file systems with coarse ones.
    write_folder(folder, {"a/2.png": scene(("blue", 5), ("green", 60))})
    os.utime(folder / "a/2.png", (1, 1))
    predictor.looked = 0
    index(home, predictor, source)
    assert predictor.looked == 2
    found = rows(home)
    # The changed file's earlier row is gone, its new ones have a number of their own.
    assert ("gate", 0, 2) not in found
    assert found == [("gate", 1, 1), ("gate", 3, 0), ("gate", 3, 1), ("gate", 4, 0)]


def test_removed_files_stay_unless_dropped(home, predictor, tmp_path, caplog):
    folder = write_folder(
        tmp_path / "frames", {"1.png": scene(("red", 5)), "2.png": scene(("green", 5))}
    )
    source = Source("gate", str(folder), "gate")
    index(home, predictor, source)
    (folder / "1.png").unlink()
    index(home, predictor, source)
    assert len(rows(home)) == 2 and "1 images" in caplog.text
    index(home, predictor, source, options=Options(0, drop_removed=True))
    assert rows(home) == [("gate", 1, 1)]


def test_unreadable_image_is_named(home, predictor, tmp_path, caplog):
    folder = write_folder(tmp_path / "frames", {"1.png": scene(("red", 5))})
    (folder / "2.png").write_bytes(b"no image")
    index(home, predictor, Source("gate", str(folder), "gate"))
    assert len(rows(home)) == 1 and "2.png" in caplog.text


def test_video_that_breaks_off_is_named(home, predictor, tmp_path, caplog, monkeypatch):
    """By the length that its header states; an AVI's own one is guessed by its size."""
    source = video(tmp_path, frames=60)
    stated = clips.duration(source.place)
    monkeypatch.setattr(clips, "duration", lambda place: stated)
    data = (tmp_path / "yard.avi").read_bytes()
    (tmp_path / "yard.avi").write_bytes(data[: len(data) // 2])
    index(home, predictor, source, options=Options(0))
    found = rows(home)
    assert 5 < len(found) < 20
    assert "breaks off at 2." in caplog.text and "of 6.0 s" in caplog.text


def test_name_of_another_place(home, predictor, tmp_path):
    index(home, predictor, video(tmp_path))
    other = write_folder(tmp_path / "frames", {"1.png": scene(("red", 5))})
    with pytest.raises(GalleryError, match='has a source "yard" already'):
        index(home, predictor, Source("yard", str(other), "yard"))


def test_nothing_there(home, predictor, tmp_path):
    with pytest.raises(GalleryError, match="nothing at"):
        index(home, predictor, Source("yard", str(tmp_path / "no.mp4"), "yard"))


def test_other_process_works_on_a_unit(home, predictor, tmp_path):
    """Its unit is left to it, and taken over when it shows no sign of life for a minute."""
    source = video(tmp_path, frames=10)
    home.add_source(source)
    index(home, PaintedPredictor(), video(tmp_path, frames=10))
    (key,) = [unit.key for unit in home.units("yard")]
    home.delete_source("yard")
    lease = home.path / "leases" / key
    lease.write_text("{}")
    index(home, predictor, source)
    assert predictor.looked == 0
    os.utime(lease, (time.time() - 100,) * 2)
    index(home, predictor, source)
    assert predictor.looked == 5 and not lease.exists()


_KILLED = """
    import sys, time
    from spnet_d2.ingestion import GalleryHome, Options, Source, index_sources
    from tests.fixtures.painted import PaintedPredictor
    predictor = PaintedPredictor()
    def detect(image):
        time.sleep(0.01)
        return predictor.detect([image])[0]
    source = Source("yard", sys.argv[2], "yard", fps=10)
    print("ready", flush=True)
    index_sources(GalleryHome(sys.argv[1]), [source], detect, Options(0, 1))
"""


def test_killed_at_any_moment(tmp_path):
    """Killed again and again: it opens, has whole units only, and the last run completes it."""
    path = write_video(tmp_path / "yard.avi", walk("red", 60, start=5))
    home = GalleryHome.create(tmp_path / "home", SETTINGS, {})
    random = np.random.default_rng(0)
    command = [sys.executable, "-c", HIDE + textwrap.dedent(_KILLED), str(home.path), str(path)]
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        process.stdout.readline()
        time.sleep(random.uniform(0.05, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(rows(GalleryHome(home.path))) % 10 == 0
        # A killed process's leases would be respected for a minute.
        for lease in (home.path / "leases").glob("*"):
            os.utime(lease, (1, 1))
    home = GalleryHome(home.path)
    index(home, PaintedPredictor(), Source("yard", str(path), "yard", fps=10))
    assert [frame for _, frame, _ in rows(home)] == list(range(0, 6000, 100))
    assert home.problems() == []


def test_two_processes_share_the_work(tmp_path):
    path = write_video(tmp_path / "yard.avi", walk("red", 60, start=5))
    home = GalleryHome.create(tmp_path / "home", SETTINGS, {})
    command = [sys.executable, "-c", HIDE + textwrap.dedent(_KILLED), str(home.path), str(path)]
    root = Path(__file__).parents[2]
    workers = [subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=root) for _ in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    assert [frame for _, frame, _ in rows(home)] == list(range(0, 6000, 100))


def test_deleting_leaves_nothing(home, predictor, tmp_path):
    """Of a deleted source: no vector, no thumbnail, no box; the other source is untouched."""
    folder = write_folder(tmp_path / "frames", {"1.png": scene(("blue", 5))})
    index(home, predictor, video(tmp_path), Source("gate", str(folder), "gate"))
    people = home.store.fetch(home.store.find(Filter(sources="yard")))
    vectors = people.embeddings[:1].tobytes()
    jpeg = home.thumbnails.read(str(people.thumbnails[0]))
    assert _anywhere(home.path, vectors) and _anywhere(home.path, jpeg)
    home.close()
    assert home.delete_source("yard") == 15
    assert not _anywhere(home.path, vectors) and not _anywhere(home.path, jpeg)
    assert not _anywhere(home.path, b"yard")
    assert rows(home) == [("gate", 0, 0)]


def test_deleting_a_person(home, predictor, tmp_path):
    folder = write_folder(tmp_path / "frames", {"1.png": scene(("blue", 5), ("red", 60))})
    index(home, predictor, Source("gate", str(folder), "gate"))
    people = home.store.fetch(home.store.find())
    red = int(np.flatnonzero(people.embeddings.argmax(axis=1) == 2)[0])
    jpeg = home.thumbnails.read(str(people.thumbnails[red]))
    other = home.thumbnails.read(str(people.thumbnails[1 - red]))
    home.close()
    home.delete(Filter(ids=[int(home.store.find()[red])]))
    assert rows(home) == [("gate", 0, 0)]
    assert not _anywhere(home.path, jpeg) and _anywhere(home.path, other)
    (left,) = home.scenes("gate")
    assert len(left.boxes) == 1 and left.boxes[0][0] < 30


def test_deleting_before_a_time(home, predictor, tmp_path):
    index(home, predictor, video(tmp_path), options=Options(1, segment_seconds=1))
    home.delete(Filter(before=datetime(2026, 5, 1, 8, 0, 2, tzinfo=timezone.utc)))
    assert {frame >= 2000 for _, frame, _ in rows(home)} == {True}
    assert {s.frame >= 2000 for s in home.scenes("yard") if s.boxes} == {True}
    # Deleted footage is not indexed again by itself.
    index(home, predictor, video(tmp_path), options=Options(1, segment_seconds=1))
    assert {frame >= 2000 for _, frame, _ in rows(home)} == {True}


def test_scene_again(home, predictor, tmp_path):
    source = video(tmp_path)
    index(home, predictor, source)
    image = home.scene_image("yard", 1000)
    (found,) = predictor.detect([image])
    assert found.boxes[0][0] == 30
    Path(source.place).unlink()
    with pytest.raises(GalleryError, match="not at .*yard.avi any more"):
        home.scene_image("yard", 1000)
    with pytest.raises(GalleryError, match="no source"):
        home.scene_image("../yard", 0)


def test_damage_is_found(home, predictor, tmp_path):
    index(home, predictor, video(tmp_path))
    assert home.problems() == []
    unit = next((home.path / "units").glob("*.json"))
    unit.write_text(unit.read_text()[:-20])
    zipped = next((home.path / "thumbnails").rglob("*.zip"))
    zipped.write_bytes(zipped.read_bytes()[:-30])
    problems = home.problems()
    assert len(problems) == 2 and str(unit) in " ".join(problems)


@pytest.mark.parametrize(
    "content", ["{", "[]", json.dumps({"format": "spnet_d2 gallery home", "version": 9})]
)
def test_unusable_home(home, content):
    (home.path / "home.json").write_text(content)
    with pytest.raises(GalleryError, match="damaged|not of a gallery|version 9"):
        GalleryHome(home.path)


def test_create_over_something(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(GalleryError, match="not empty"):
        GalleryHome.create(tmp_path, SETTINGS, {})
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_best_rows_are_spread_over_a_tracklet():
    """Of seven rows in three parts the best of each; short tracklets and single rows are kept."""
    tracklets = np.array([5, 5, 9, 5, 5, -1, 5, 5, 9, 5, -1])
    scores = np.array([0.9, 0.8, 0.1, 0.5, 0.6, 0.2, 0.3, 0.4, 0.1, 0.2, 0.1])
    # Of tracklet 5: rows 0, 1, 3 | 4, 6 | 7, 9.
    assert best_rows(tracklets, scores, 3).tolist() == [0, 2, 4, 5, 7, 8, 10]
    assert best_rows(tracklets, scores, 1).tolist() == [0, 2, 5, 10]
    assert best_rows(tracklets, scores, 0).tolist() == list(range(11))
