"""COCOPersons: people of COCO 2017, nested samples, noise partitions and person crops."""

import json
import shutil
from math import ceil, floor

import numpy as np
import pytest
from PIL import Image

from spnet_d2.data.formats import cocopersons
from spnet_d2.data.formats.corpus import CorpusError
from spnet_d2.data.formats.noise_partitions import (
    FewPersonsError,
    missing_labels,
    relative_boxes,
    several_persons,
    spurious_labels,
)
from spnet_d2.data.formats.person_crops import export_crops
from tests.fixtures import corpora


@pytest.fixture(scope="module")
def folder(prepared_root):
    return prepared_root / "coco"


@pytest.fixture
def copied(coco_files, tmp_path):
    return shutil.copytree(coco_files, tmp_path / "coco")


def partition(folder, name, kind="coco"):
    return json.loads((folder / kind / f"{name}.json").read_text())


def test_only_images_with_people_stay(folder):
    content = partition(folder, "train")
    assert [image["id"] for image in content["images"]] == sorted(corpora.COCO_PEOPLE)
    assert len(content["annotations"]) == 19
    assert len(partition(folder, "val")["annotations"]) == 5
    assert content["categories"] == [{"supercategory": "person", "id": 1, "name": "person"}]


def test_fields(folder, coco_files):
    official = json.loads((coco_files / "annotations/instances_train2017.json").read_text())
    official = {entry["id"]: entry for entry in official["annotations"]}
    content = partition(folder, "train")
    for entry in content["annotations"]:
        assert entry["person_id"] == entry["id"] and entry["is_known"] is True
        assert entry["iou_thresh"] == 0.5 and entry["iscrowd"] == 0 and entry["category_id"] == 1
        assert "segmentation" not in entry
        # The mask's area and the exact box are kept, also where it leaves the image.
        assert entry["area"] == official[entry["id"]]["area"]
        assert entry["bbox"] == official[entry["id"]]["bbox"]
    assert {image["cam_id"] for image in content["images"]} == {-1}


def test_every_category_goes_elsewhere(copied):
    written = cocopersons.prepare(copied, cocopersons.Samples(sizes=()), every_category=True)
    assert set(written) == {"cocoa/train.json", "cocoa/val.json"}
    content = partition(copied, "train", "cocoa")
    assert len(content["images"]) == 6 and len(content["annotations"]) == 19 + 2 + 2
    assert sum(entry["iscrowd"] for entry in content["annotations"]) == 2


def test_samples_are_nested_and_disjoint_from_their_val(folder):
    ids = {
        name: {image["id"] for image in partition(folder, name)["images"]}
        for name in ("G1train", "G1val", "G2train", "G2val")
    }
    assert [len(ids[name]) for name in ids] == [1, 1, 2, 2]
    assert ids["G1train"] < ids["G2train"]
    assert not ids["G1train"] & ids["G1val"] and not ids["G2train"] & ids["G2val"]


def crowd_of(images, people, seed=0):
    """A partition of ``images`` images with 1 .. 2 * people - 1 annotations each."""
    rng = np.random.RandomState(seed)
    entries = []
    for image in range(images):
        for _ in range(rng.randint(1, 2 * people)):
            box = [*rng.uniform(0, 100, 2), *rng.uniform(1, 50, 2)]
            number = 299990 + len(entries)
            entries.append(
                {"id": number, "image_id": image, "person_id": number, "bbox": box}
                | {"is_known": True, "iou_thresh": 0.5, "iscrowd": 0, "category_id": 1}
            )
    sizes = [{"id": image, "width": 200, "height": 150 + image} for image in range(images)]
    return {"images": sizes, "annotations": entries}


def test_images_with_one_person_are_no_part_of_the_noise_ablation():
    whole = crowd_of(40, 7)
    counts = np.bincount([entry["image_id"] for entry in whole["annotations"]])
    base = several_persons(whole)
    assert [image["id"] for image in base["images"]] == np.flatnonzero(counts >= 2).tolist()
    assert len(base["annotations"]) == counts[counts >= 2].sum()


@pytest.mark.parametrize("images, people", [(40, 7), (97, 9), (3, 12)])
def test_missing_labels_are_nested_and_leave_no_image_empty(images, people):
    partitions = missing_labels(crowd_of(images, people))
    total = len(partitions["train_p100"]["annotations"])
    image_ids = {image["id"] for image in partitions["train_p100"]["images"]}
    previous = {entry["id"] for entry in partitions["train_p100"]["annotations"]}
    for percent in (80, 60, 40, 20):
        part = partitions[f"train_p{percent}"]
        kept = {entry["id"] for entry in part["annotations"]}
        # 1e-9: 0.6 * 5 is a little more than 3 in binary.
        assert len(kept) == ceil(percent / 100 * total - 1e-9)
        assert abs(len(kept) / total - percent / 100) < 2 / total
        assert kept < previous
        assert {entry["image_id"] for entry in part["annotations"]} == image_ids
        assert {image["id"] for image in part["images"]} == image_ids
        previous = kept


def test_missing_labels_need_five_people_per_image():
    with pytest.raises(FewPersonsError, match="5 per image on average"):
        missing_labels(crowd_of(40, 3))


def test_spurious_labels_are_nested_and_unique():
    whole = crowd_of(40, 7)
    partitions = spurious_labels(whole)
    base = several_persons(whole)
    total, step = len(base["annotations"]), floor(0.2 * len(base["annotations"]))
    previous = base["annotations"]
    for index, percent in enumerate((120, 140, 160, 180), start=1):
        part = partitions[f"train_p{percent}"]
        entries = part["annotations"]
        assert part["images"] == base["images"]
        assert len(entries) == total + index * step
        assert entries[: len(previous)] == previous
        previous = entries
    for key in ("id", "person_id"):
        assert len({entry[key] for entry in previous}) == len(previous)
    # Not even the people of the images that were left out lend their number.
    first = max(entry["id"] for entry in whole["annotations"]) + 1
    assert [e["person_id"] for e in previous[total:]] == list(range(first, first + 4 * step))


def test_spurious_boxes_are_real_shapes_in_other_images():
    whole = crowd_of(40, 7)
    shapes = relative_boxes(whole)
    sizes = {image["id"]: (image["width"], image["height"]) for image in whole["images"]}
    base = several_persons(whole)
    added = spurious_labels(whole)["train_p140"]["annotations"][len(base["annotations"]) :]
    for entry in added:
        relative = np.array(entry["bbox"]) / np.tile(sizes[entry["image_id"]], 2)
        assert np.abs(shapes - relative).max(axis=1).min() < 1e-12
        assert entry["is_known"] and entry["iscrowd"] == 0 and entry["iou_thresh"] == 0.5
        assert entry["area"] == pytest.approx(entry["bbox"][2] * entry["bbox"][3])


def test_noise_partitions_are_the_same_every_time():
    whole = crowd_of(40, 7)
    assert missing_labels(whole) == missing_labels(whole)
    assert spurious_labels(whole) == spurious_labels(whole)


def test_noise_partitions_on_disk(folder):
    counts = {
        percent: len(partition(folder, f"train_p{percent}")["annotations"])
        for percent in range(20, 181, 20)
    }
    # 18 people in the three images with several.
    assert counts == {20: 4, 40: 8, 60: 11, 80: 15, 100: 18, 120: 21, 140: 24, 160: 27, 180: 30}


def test_too_few_people_are_a_clear_error(copied):
    path = copied / "annotations/instances_train2017.json"
    path.write_text(json.dumps(corpora.coco_instances({1: ((60, 40), 2), 2: ((60, 40), 3)}, 10)))
    with pytest.raises(CorpusError, match="--no-noise"):
        cocopersons.prepare(copied)
    assert not (copied / "coco").exists()
    written = cocopersons.prepare(copied, cocopersons.Samples(noise=False))
    assert set(written) == {"coco/train.json", "coco/val.json"}


def test_missing_and_damaged_files_are_named(copied):
    path = copied / "annotations/instances_val2017.json"
    for content in (b'{"images": []', b"", b"\xff\xfe\x00", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(CorpusError, match="not readable JSON"):
            cocopersons.prepare(copied)
    path.write_text('{"images": []}')
    with pytest.raises(CorpusError, match="expected a JSON object with images, annotations"):
        cocopersons.prepare(copied)
    path.unlink()
    with pytest.raises(CorpusError) as error:
        cocopersons.prepare(copied)
    assert str(path) in str(error.value) and "cocodataset.org" in str(error.value)
    assert not (copied / "coco").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda content: content["annotations"][0].update(bbox=[1, 2, float("nan"), 4]), "bbox"),
        (lambda content: content["annotations"][0].update(image_id=4444), "4444"),
        (lambda content: content["annotations"][0].pop("iscrowd"), "iscrowd"),
        (lambda content: content["categories"].pop(0), "person"),
    ],
)
def test_malformed_instances_are_named(copied, change, message):
    path = copied / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(CorpusError, match=message) as error:
        # An annotation of an image that is not there counts as malformed too.
        cocopersons.prepare(copied)
    assert str(path) in str(error.value)


def test_person_crops(copied):
    cocopersons.prepare(copied)
    corpus = cocopersons.open_corpus(copied)
    content = partition(copied, "train")
    content["annotations"][0]["bbox"][2] = 0.0
    (copied / "coco/train.json").write_text(json.dumps(content))
    (copied / "train2017/000000000030.jpg").write_bytes(b"no image")
    count, failures = export_crops(corpus, "train")
    # 19 people, 7 of them in the broken image; one box without width.
    assert count == 19 - 7 - 1 and len(failures) == 2
    images = {image["id"]: image for image in content["images"]}
    folder = copied / "crops/train/person"
    for entry in content["annotations"][1:]:
        if entry["image_id"] == 30:
            continue
        x, y, width, height = entry["bbox"]
        with Image.open(copied / "train2017" / images[entry["image_id"]]["file_name"]) as stored:
            expected = stored.convert("RGB").crop((x, y, x + width, y + height))
        with Image.open(folder / f"{entry['id']}.png") as crop:
            assert crop.mode == "RGB" and crop.tobytes() == expected.tobytes()
    assert len(list(folder.iterdir())) == count, "temporary files are left"


def test_crops_need_a_prepared_partition(copied):
    with pytest.raises(CorpusError, match=r"coco/train\.json is missing; prepare it first"):
        export_crops(cocopersons.open_corpus(copied), "train")
