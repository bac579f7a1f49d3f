"""The demo corpus as shipped: split, ignore regions, protocols, and the way to the video."""

import gzip
import hashlib
import itertools
import json
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from spnet_d2.data.formats import pets09, pets09_weak
from spnet_d2.data.formats.hog_people import precision_recall
from spnet_d2.data.person_search_json import load_person_search_json, load_protocol
from spnet_d2.data.person_search_schema import check_person_search
from tests.fixtures.scripts import load_script

DATASETS = Path(__file__).resolve().parents[3] / "datasets"
ANNOTATIONS = DATASETS / "pets09" / "pets09_s2l1.json"


@pytest.fixture(scope="module")
def raw():
    return pets09.load_annotations(ANNOTATIONS)


@pytest.fixture(scope="module")
def partitions(raw):
    return pets09.build_partitions(raw)


@pytest.fixture(scope="module")
def protocols(raw, partitions):
    return pets09.build_protocols(raw, partitions["test"])


@pytest.fixture
def script():
    return load_script("datasets/prepare_pets09.py")


def people(part):
    return sorted({annotation["person_id"] for annotation in part["annotations"]})


def test_split(partitions):
    train, test = partitions["train"], partitions["test"]
    assert (len(train["images"]), len(train["annotations"])) == (61, 373)
    assert (len(test["images"]), len(test["annotations"])) == (91, 504)
    assert people(train) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert people(test) == [1, 2, 3, 4, 5, 6, 9, 10]
    gap = test["images"][0]["frame"] - train["images"][-1]["frame"]
    assert gap == 40
    ids = [image["id"] for part in (train, test) for image in part["images"]]
    assert ids == list(range(152))
    ids = [annotation["id"] for part in (train, test) for annotation in part["annotations"]]
    assert ids == list(range(877))


def test_hardly_visible_boxes_and_far_walkers_are_ignored(raw, partitions):
    for part in partitions.values():
        assert all(annotation["visibility"] >= 0.4 for annotation in part["annotations"])
    # Of the raw file's 42 far walkers and 35 hidden people, those outside the gap.
    frames = {image["id"]: image["frame"] for image in raw["images"]}
    used = [frame for frame in frames.values() if not 301 < frame < 341]
    hidden = [a for a in raw["annotations"] if a["visibility"] < 0.4]
    expected = sum(frames[entry["image_id"]] in used for entry in hidden + raw["ignore_regions"])
    found = [r for p in partitions.values() for i in p["images"] for r in i["ignore_regions"]]
    assert len(found) == expected == 77
    everything = pets09.build_partitions(raw, min_visibility=0)
    assert len(everything["test"]["annotations"]) == 504 + 21


def test_standard_protocol(partitions, protocols):
    images = [image["id"] for image in partitions["test"]["images"]]
    queries = [annotation["id"] for annotation in partitions["test"]["annotations"]]
    assert protocols["standard"] == {"images": images, "queries": queries}


def test_reentry_protocol(raw, partitions, protocols):
    """Straight from the raw file: no gallery frame falls into the query's own stay."""
    test = partitions["test"]
    annotations = {annotation["id"]: annotation for annotation in test["annotations"]}
    frame_of = {image["id"]: image["frame"] for image in test["images"]}
    raw_frame = {image["id"]: image["frame"] for image in raw["images"]}
    stays = defaultdict(list)
    for entry in raw["annotations"]:
        stays[entry["track_id"]].append(raw_frame[entry["image_id"]])

    queries = protocols["reentry"]["queries"]
    assert len(queries) == 399
    tracks = defaultdict(set)
    for query, gallery in queries.items():
        entry = annotations[query]
        tracks[entry["person_id"]].add(entry["track_id"])
        stay = stays[entry["track_id"]]
        for image_id in frame_of:
            inside = min(stay) <= frame_of[image_id] <= max(stay)
            assert (image_id in gallery) == (not inside)
        hits = [
            a
            for a in annotations.values()
            if a["person_id"] == entry["person_id"] and a["image_id"] in gallery
        ]
        assert len(hits) >= 5 and all(a["track_id"] != entry["track_id"] for a in hits)
    assert dict(tracks) == {
        1: {1, 16},
        2: {10, 13, 19},
        4: {4, 15},
        5: {5, 14},
        6: {6, 12},
        9: {11, 17},
    }


def test_damaged_annotations_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="No PETS09 annotations at"):
        pets09.load_annotations(tmp_path / "none.json")
    for content in ("{", "[]", json.dumps({"images": []}), '{"images": [{}]}'):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(ValueError, match=r"bad\.json is not the PETS09 annotation file"):
            pets09.load_annotations(tmp_path / "bad.json")


@pytest.fixture
def small_video(tmp_path, script, monkeypatch):
    """Twelve frames of 64 x 48 pixels, each of its own grey, accepted as the real video."""
    path = tmp_path / "small.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for number in range(1, 13):
        writer.write(np.full((48, 64, 3), 20 * number, np.uint8))
    writer.release()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(script, "VIDEO_SHA256", digest)
    return path


def test_frames_count_from_one_and_are_not_extracted_twice(tmp_path, script, small_video):
    folder = tmp_path / "frames"
    assert script.extract_frames(small_video, folder, [1, 6, 11]) == 3
    for frame in (1, 6, 11):
        frame_image = cv2.imread(str(folder / pets09.frame_file_name(frame)))
        assert abs(frame_image.mean() - 20 * frame) < 3
    assert script.extract_frames(small_video, folder, [1, 6, 11]) == 0
    (folder / pets09.frame_file_name(6)).unlink()
    assert script.extract_frames(small_video, folder, [1, 6, 11]) == 1
    with pytest.raises(RuntimeError, match="could not read frame 13"):
        script.extract_frames(small_video, folder, [16])


def test_prepare_writes_what_the_loader_reads(tmp_path, script, small_video, raw, monkeypatch):
    monkeypatch.setattr(pets09, "annotated_frames", lambda raw: [1])
    output = tmp_path / "pets09"
    counts = script.prepare(output, small_video)
    assert counts == {
        "train": "61 frames, 373 boxes, 8 people",
        "test": "91 frames, 504 boxes, 8 people",
        "standard": "504 queries",
        "reentry": "399 queries",
    }
    assert (output / "vtest.avi").read_bytes() == small_video.read_bytes()
    dicts = load_person_search_json(output / "test.json", output / "frames")
    assert dicts[0]["file_name"] == str(output / "frames" / "frame_000341.jpg")
    assert sum(len(entry["annotations"]) for entry in dicts) == 504
    assert any(entry["ignore_regions"] for entry in dicts)
    for name, number in (("standard", 504), ("reentry", 399)):
        assert len(load_protocol(output / "retrieval" / f"{name}.json").queries) == number
    # Again, now that the video is there: nothing is fetched.
    assert script.prepare(output) == counts


def test_wrong_and_missing_videos(tmp_path, script, small_video):
    other = tmp_path / "other.avi"
    other.write_bytes(b"not a video")
    with pytest.raises(ValueError, match=r"other\.avi is not the annotated vtest\.avi: expected"):
        script.fetch_video(tmp_path, other)
    with pytest.raises(FileNotFoundError, match="does not exist.*opencv-doc"):
        script.fetch_video(tmp_path, tmp_path / "none.avi")
    assert not (tmp_path / "vtest.avi").exists()


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("stale", [False, True])
def test_video_from_the_package(tmp_path, script, small_video, monkeypatch, zipped, stale):
    """apt-get and dpkg replaced; without package lists the first download fails."""
    calls = []

    def run(command, cwd, **kwargs):
        calls.append(command[:2])
        if command[:2] == ["apt-get", "download"]:
            if stale and ["apt-get", "update"] not in calls:
                raise subprocess.CalledProcessError(100, command, stderr="no candidate")
            (cwd / "opencv-doc_1_all.deb").touch()
        if command[0] == "dpkg":
            target = cwd / command[3] / script.VIDEO_IN_PACKAGE
            target.parent.mkdir(parents=True)
            if zipped:
                with gzip.open(f"{target}.gz", "wb") as file:
                    file.write(small_video.read_bytes())
            else:
                shutil.copy(small_video, target)

    monkeypatch.setattr(script.subprocess, "run", run)
    output = tmp_path / "out"
    output.mkdir()
    found = script.fetch_video(output, None)
    assert found.read_bytes() == small_video.read_bytes()
    assert [path.name for path in output.iterdir()] == ["vtest.avi"]
    assert (["apt-get", "update"] in calls) == stale


def test_no_apt(tmp_path, script, monkeypatch):
    def run(command, **kwargs):
        raise FileNotFoundError(command[0])

    monkeypatch.setattr(script.subprocess, "run", run)
    with pytest.raises(RuntimeError, match="no apt-get on this machine.*--video PATH"):
        script.fetch_video(tmp_path, None)


@pytest.fixture(scope="module")
def weak(partitions):
    return pets09_weak.without_identities(partitions["train"])


def test_weak_boxes_say_not_who_is_who(partitions, weak):
    train, found = partitions["train"], weak["weak_train"]
    assert found["images"] == train["images"]
    for entry, given in zip(found["annotations"], train["annotations"], strict=True):
        for key in ("id", "image_id", "bbox", "area", "visibility"):
            assert entry[key] == given[key]
        assert entry["person_id"] == entry["id"] and entry["is_known"] is True
        assert "track_id" not in entry
    check_person_search(found["images"], found["annotations"], "weak_train")


def test_weak_noise_partitions(weak):
    """Those of COCOPersons, of 373 boxes in 61 frames."""
    counts = {name: len(part["annotations"]) for name, part in weak.items()}
    sizes = {20: 75, 40: 150, 60: 224, 80: 299, 100: 373, 120: 447, 140: 521, 160: 595, 180: 669}
    assert counts == {"weak_train": 373} | {f"weak_train_p{n}": size for n, size in sizes.items()}
    for name, part in weak.items():
        assert {e["image_id"] for e in part["annotations"]} == set(range(61)), name
    boxes = {n: {e["id"] for e in weak[f"weak_train_p{n}"]["annotations"]} for n in sizes}
    for fewer, more in itertools.pairwise(sizes):
        assert boxes[fewer] < boxes[more]


def test_hog_frames_stay_in_the_training_part():
    assert pets09_weak.hog_frames(3)[:3] == [1, 4, 7] and pets09_weak.hog_frames(3)[-1] == 301
    assert pets09_weak.hog_frames(2)[-1] == 301 and pets09_weak.hog_frames(7)[-1] == 295
    with pytest.raises(ValueError, match="--hog-step must be at least 1, found 0"):
        pets09_weak.hog_frames(0)


def test_hog_partition_and_its_comparison(partitions):
    """Detections made of the annotations of frames 1, 4 and 6; 4 is not annotated."""
    train = partitions["train"]
    rows = {
        image["frame"]: np.array(
            [[*e["bbox"], 1.0] for e in train["annotations"] if e["image_id"] == image["id"]]
        )
        for image in train["images"]
    }
    far = np.array([[700.0, 500.0, 20.0, 50.0, 0.456]])
    found = [rows[1][:-1], far, np.concatenate([rows[6], far])]
    part = pets09_weak.hog_partition([1, 4, 6], found, (768, 576))
    check_person_search(part["images"], part["annotations"], "hog_train")
    assert [image["file_name"] for image in part["images"]] == [
        f"frame_00000{frame}.jpg" for frame in (1, 4, 6)
    ]
    assert [e["person_id"] for e in part["annotations"]] == list(range(len(part["annotations"])))
    assert part["annotations"][-1]["score"] == 0.46 and part["annotations"][-1]["is_known"]
    common = pets09_weak.compare(part, train)
    total = len(rows[1]) + len(rows[6])
    assert sum(map(len, common["annotated"])) == total
    assert precision_recall(**common) == ((total - 1) / total, (total - 1) / total)


def test_prepare_weak(tmp_path, script, small_video, monkeypatch):
    """The detector replaced by one that sees someone everywhere; the loader reads the result."""
    output = tmp_path / "pets09"
    output.mkdir()
    shutil.copy(small_video, output / "vtest.avi")
    # The video is shorter than the training part.
    monkeypatch.setattr(pets09_weak, "hog_frames", lambda step: list(range(1, 12, step)))
    monkeypatch.setattr(
        script, "detect_people", lambda paths: [np.array([[5.0, 6, 7, 8, 0.9]]) for _ in paths]
    )
    counts = script.prepare_weak(output, hog_step=5)
    assert counts["weak_train"] == "61 frames, 373 boxes"
    assert counts["hog_train"].startswith("3 frames, 3 boxes; against the 3 of them")
    assert sorted(path.name for path in (output / "hog_frames").iterdir()) == [
        pets09.frame_file_name(frame) for frame in (1, 6, 11)
    ]
    for name in ("weak_train", "weak_train_p20", "weak_train_p180", "hog_train"):
        dicts = load_person_search_json(output / f"{name}.json", output)
        people = [entry["person_id"] for image in dicts for entry in image["annotations"]]
        assert sorted(people) == list(range(len(people)))
