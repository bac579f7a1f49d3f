"""The three sets, and what is to be learnt."""

import json

import numpy as np
import pytest

from spnet_d2.adaptation.training_sets import (
    HELD_OUT,
    TRAIN,
    WEAK,
    TooLittleFootageError,
    aligned,
    held_out_images,
    tracklet_means,
    write_training_sets,
)
from spnet_d2.data.own_sets import read_sets
from spnet_d2.data.person_search_schema import make_annotation
from spnet_d2.data.tracklets import unit


def footage(frames: int, people=(7, 9)) -> dict:
    """Two sequences; both people are in every frame, person 40 + i only in frame i."""
    images, annotations = [], []
    for i in range(frames):
        sequence = "hall" if i < frames // 2 else "yard"
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 60, "height": 40})
        images[-1]["sequence"] = sequence
        for person in (*people, 40 + i):
            bbox = [float(i), 2.0, 10.0, 20.0]
            known = person in people
            annotations.append(make_annotation(len(annotations), i, bbox, person, known))
    return {"images": images, "annotations": annotations}


@pytest.fixture
def written(tmp_path):
    partition = footage(20)
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(len(partition["annotations"]), 5))
    write_training_sets(partition, tmp_path / "images", targets, tmp_path)
    return tmp_path, partition, targets


def test_sets_have_their_images_and_people(written):
    folder, _, _ = written
    sets = {s.name: json.loads(s.json.read_text()) for s in read_sets(folder / "datasets.yaml")}
    assert set(sets) == {WEAK, TRAIN, HELD_OUT}
    # The last tenth of each sequence.
    assert [i["id"] for i in sets[HELD_OUT]["images"]] == [9, 19]
    assert [a["is_known"] for a in sets[HELD_OUT]["annotations"]] == 2 * [True, True, False]
    for name in (WEAK, TRAIN):
        assert [i["id"] for i in sets[name]["images"]] == [*range(9), *range(10, 19)]
        assert all(a["is_known"] for a in sets[name]["annotations"])
    weak, train = ([a["person_id"] for a in sets[n]["annotations"]] for n in (WEAK, TRAIN))
    assert weak == list(range(54))
    assert set(train) == set(range(20)) and train.count(0) == train.count(1) == 18


def test_targets_are_means_of_tracklets(written):
    folder, partition, targets = written
    with np.load(folder / "targets.npz") as file:
        found = file["embeddings"]
    train = json.loads((folder / f"{TRAIN}.json").read_text())["annotations"]
    for person in (0, 1, 7):
        rows = [a["id"] for a in train if a["person_id"] == person]
        mean = (targets[rows] / np.linalg.norm(targets[rows], axis=1, keepdims=True)).mean(axis=0)
        np.testing.assert_allclose(found[person], mean / np.linalg.norm(mean), atol=1e-6)


def test_too_little_footage(tmp_path):
    partition = footage(9)
    targets = np.ones((len(partition["annotations"]), 3))
    with pytest.raises(TooLittleFootageError, match="9 images are too few"):
        write_training_sets(partition, tmp_path, targets, tmp_path)
    partition = footage(20)
    partition["annotations"] = [a for a in partition["annotations"] if a["image_id"] == 19]
    with pytest.raises(TooLittleFootageError, match="Nobody was found"):
        write_training_sets(partition, tmp_path, np.ones((3, 3)), tmp_path)


def test_every_sequence_holds_something_out():
    images = [{"id": i, "sequence": "long" if i < 30 else "short"} for i in range(32)]
    assert held_out_images(images) == {27, 28, 29, 31}


def test_means_by_hand():
    rows, means = tracklet_means(np.array([5, 3, 5]), np.array([[2.0, 0], [0, 9], [0, 1]]))
    assert rows.tolist() == [1, 0, 1]
    np.testing.assert_allclose(means, [[0, 1], [0.5**0.5, 0.5**0.5]])


@pytest.mark.parametrize("dim", [4, 6])
def test_alignment_finds_the_turn(dim):
    """Embeddings that are the own ones, turned, become the own ones again."""
    rng = np.random.default_rng(1)
    own = unit(rng.normal(size=(40, 6)) * [3, 2, 1, 1, 0, 0] + [1, 0, 0, 0, 0, 0])
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0][:, :]
    other = own @ turn
    if dim == 4:
        # All that differs lies in four dimensions.
        other = own[:, :4]
        other, own = unit(other), unit(np.pad(other, ((0, 0), (0, 2))))
    rows = np.arange(0, 40, 3)
    found = aligned(other, own[rows], rows)
    expected = own - own.mean(axis=0)
    # The sample's mean is not that of all: up to a common shift.
    np.testing.assert_allclose(found - found[0], expected - expected[0], atol=0.05)
    if dim == 6:
        centred = other - other.mean(axis=0)
        np.testing.assert_allclose(found @ found.T, centred @ centred.T, atol=1e-9)
