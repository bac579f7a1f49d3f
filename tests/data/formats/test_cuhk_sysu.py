"""CUHK-SYSU: from the official files to partitions and protocols, trap by trap."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from spnet_d2.data.formats import cuhk_sysu, cuhk_sysu_mat
from spnet_d2.data.formats.corpus import CorpusError
from spnet_d2.data.person_search_json import load_protocol
from tests.fixtures import corpora
from tests.fixtures.without_pytorch import HIDE

PARTITIONS = {"trainval", "test", "train", "val", "minitrain", "minival"}
PARTITIONS |= {f"tinytrainval{size}" for size in (2, 4, 6, 8)}
PROTOCOLS = {"G50", "G100", "G500", "G1000", "G2000", "G4000", "GOcclusion", "GResolution"}
PROTOCOLS |= {"GFull", "val"}


@pytest.fixture(scope="module")
def folder(prepared_root):
    return prepared_root / "cuhk"


@pytest.fixture
def copied(cuhk_sysu_files, tmp_path):
    return shutil.copytree(cuhk_sysu_files, tmp_path / "cuhk")


def partition(folder, name):
    return json.loads((folder / "coco" / f"{name}.json").read_text())


def by_image(content, name):
    image = next(image for image in content["images"] if image["file_name"] == name)
    return [entry for entry in content["annotations"] if entry["image_id"] == image["id"]]


def test_every_partition_and_protocol_is_written(folder):
    assert {path.stem for path in (folder / "coco").iterdir()} == PARTITIONS
    assert {path.stem for path in (folder / "retrieval").iterdir()} == PROTOCOLS


def test_ids_follow_names_and_run_on_into_test(folder):
    trainval, test = partition(folder, "trainval"), partition(folder, "test")
    names = [image["file_name"] for image in trainval["images"]]
    assert names == sorted(f"s{number}.jpg" for number in range(1, 31))
    assert [image["file_name"] for image in test["images"]] == sorted(corpora.CUHK_TEST_IMAGES)
    for kind in ("images", "annotations"):
        ids = [entry["id"] for content in (trainval, test) for entry in content[kind]]
        assert ids == list(range(len(ids)))
    assert set(trainval) == {"info", "licenses", "images", "annotations", "categories"}
    assert trainval["licenses"] == [] and trainval["categories"][0]["name"] == "person"


def test_image_sizes_come_from_headers(folder):
    sizes = {
        image["file_name"]: (image["width"], image["height"], image["cam_id"])
        for image in partition(folder, "trainval")["images"]
    }
    assert sizes.pop("s30.jpg") == (240, 320, -1)
    assert set(sizes.values()) == {(320, 240, -1)}


def test_known_people_are_numbered_by_position(folder):
    content = partition(folder, "trainval")
    known = {}
    names = {image["id"]: image["file_name"] for image in content["images"]}
    for entry in content["annotations"]:
        if entry["is_known"]:
            place = (names[entry["image_id"]], tuple(entry["bbox"]))
            known.setdefault(entry["person_id"], []).append(place)
    expected = {number: sorted(people) for number, people in enumerate(corpora.CUHK_TRAIN, 1)}
    assert {number: sorted(people) for number, people in known.items()} == expected


def test_unknown_people_are_numbered_from_5555_each_their_own(folder):
    for name in ("trainval", "test"):
        entries = [e for e in partition(folder, name)["annotations"] if not e["is_known"]]
        ids = [entry["person_id"] for entry in entries]
        assert min(ids) >= 5555 and len(set(ids)) == len(ids) >= 12


def test_boxes_without_extent_are_left_out(folder):
    boxes = [entry["bbox"] for entry in by_image(partition(folder, "trainval"), "s1.jpg")]
    assert boxes == [list(corpora.STRANGER_BOX), [10, 20, 40, 100]]


def test_stored_uint8_does_not_overflow(folder):
    entry = next(
        entry
        for entry in by_image(partition(folder, "trainval"), "s27.jpg")
        if entry["bbox"] == [200, 30, 100, 150]
    )
    assert entry["area"] == 15000 and entry["iou_thresh"] == 0.5 and entry["is_known"]


def test_a_person_can_be_twice_in_an_image(folder):
    ids = [entry["person_id"] for entry in by_image(partition(folder, "trainval"), "s27.jpg")]
    assert ids.count(13) == 2


def test_of_two_equal_boxes_the_first_has_the_identity(folder):
    twins = [
        entry
        for entry in by_image(partition(folder, "trainval"), corpora.EQUAL_BOXES_IMAGE)
        if tuple(entry["bbox"]) == corpora.EQUAL_BOX
    ]
    assert [entry["is_known"] for entry in twins] == [True, False]


def test_of_two_equal_boxes_the_last_is_the_query(folder):
    content = partition(folder, "test")
    twins = [e for e in by_image(content, "s108.jpg") if tuple(e["bbox"]) == corpora.EQUAL_BOX]
    queries = load_protocol(folder / "retrieval/G50.json").queries
    assert twins[0]["person_id"] == 4 and twins[0]["id"] not in queries
    assert twins[1]["id"] in queries


def test_small_boxes_have_a_lower_threshold(folder):
    entries = by_image(partition(folder, "test"), "s105.jpg")
    tiny = next(entry for entry in entries if tuple(entry["bbox"]) == corpora.TINY_BOX)
    assert tiny["iou_thresh"] == pytest.approx(1 / 3) and tiny["person_id"] == 2


@pytest.mark.parametrize("name", sorted(PROTOCOLS - {"GFull", "val"}))
def test_galleries_keep_order_and_repetitions(folder, cuhk_sysu_files, name):
    content = partition(folder, "test")
    names = {image["id"]: image["file_name"] for image in content["images"]}
    annotations = {entry["id"]: entry for entry in content["annotations"]}
    protocol = load_protocol(folder / "retrieval" / f"{name}.json")
    start, stop = {"GOcclusion": (0, 2), "GResolution": (1, 3)}.get(name, (0, 4))
    expected = corpora.CUHK_QUERIES[start:stop]
    assert len(protocol.queries) == len(expected)
    used = set()
    for (query, gallery), (_, (image, box), positives, negatives) in zip(
        protocol.queries.items(), expected
    ):
        assert tuple(annotations[query]["bbox"]) == box
        assert names[annotations[query]["image_id"]] == image
        found = [names[image_id] for image_id in gallery]
        assert found[: len(positives)] == [name for name, _ in positives]
        assert sorted(found[len(positives) :]) == sorted(negatives)
        used |= {annotations[query]["image_id"], *gallery}
    assert protocol.images == sorted(used)


def test_a_repeated_gallery_image_stays_repeated(folder):
    protocol = load_protocol(folder / "retrieval/G50.json")
    gallery = next(iter(protocol.queries.values()))
    assert len(gallery) - len(set(gallery)) == 1


def test_full_galleries_are_those_of_g50_and_all_other_test_images(folder):
    content = partition(folder, "test")
    image_of = {entry["id"]: entry["image_id"] for entry in content["annotations"]}
    every = [image["id"] for image in content["images"]]
    listed = load_protocol(folder / "retrieval/G50.json").queries
    full = load_protocol(folder / "retrieval/GFull.json")
    assert full.images == every and list(full.queries) == list(listed)
    for query, gallery in full.queries.items():
        # The repeated image of a G50 gallery stays repeated.
        assert gallery[: len(listed[query])] == listed[query]
        rest = gallery[len(listed[query]) :]
        assert rest == [i for i in every if i not in {image_of[query], *listed[query]}]


def test_labels_end_at_the_first_empty_box(copied):
    empty = corpora.stored_box(None)
    fields = ("imname", "idlocate", "ishard")
    entries = [("a.jpg", corpora.stored_box((1, 2, 3, 4)), empty), ("b.jpg", empty, empty)]
    entries.append(("c.jpg", corpora.stored_box((5, 6, 7, 8)), empty))
    query = corpora.struct((*fields, "idname"), [(*entries[0], "p1")])
    record = (query, corpora.struct(fields, entries))
    path = copied / "annotation/test/train_test/TestG50.mat"
    corpora.save(path, TestG50=corpora.struct(("Query", "Gallery"), [record, record]))
    search = cuhk_sysu_mat.read_protocol(cuhk_sysu_mat.open_corpus(copied), "G50")[0]
    assert search.gallery == ["a.jpg", "b.jpg", "c.jpg"]
    assert search.appearances == [("a.jpg", (1, 2, 3, 4))]


def test_train_and_val_share_no_one(folder):
    trainval, train, val = (partition(folder, name) for name in ("trainval", "train", "val"))
    ids = [{image["id"] for image in content["images"]} for content in (train, val)]
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == {image["id"] for image in trainval["images"]}
    # ceil(0.2 * 30) images, in whole components of at least two.
    assert 6 <= len(ids[1]) <= 8
    people = [{e["person_id"] for e in content["annotations"]} for content in (train, val)]
    assert not people[0] & people[1]


def test_mini_partitions_are_disjoint_and_keep_their_ids(folder):
    trainval = partition(folder, "trainval")
    entries = {entry["id"]: entry for entry in trainval["annotations"]}
    seen = set()
    for name, count in {"minitrain": 2, "minival": 2}.items() | {
        (f"tinytrainval{size}", size) for size in (2, 4, 6, 8)
    }:
        content = partition(folder, name)
        ids = {image["id"] for image in content["images"]}
        assert len(ids) == count and not ids & seen
        seen |= ids
        assert all(entry == entries[entry["id"]] for entry in content["annotations"])


def test_val_protocol(folder):
    content = partition(folder, "val")
    protocol = load_protocol(folder / "retrieval/val.json")
    image_of = {entry["id"]: entry["image_id"] for entry in content["annotations"]}
    people = {}
    for entry in content["annotations"]:
        people.setdefault(entry["person_id"], []).append(entry["id"])
    expected = {query for ids in people.values() if len(ids) > 1 for query in ids}
    assert set(protocol.queries) == expected and expected
    for ids in people.values():
        for query in ids if len(ids) > 1 else []:
            others = [image_of[other] for other in ids if other != query]
            gallery = protocol.queries[query]
            assert len(gallery) == 3 and gallery[: len(others)] == others[:3]
            assert image_of[query] not in gallery[len(others) :]


def test_another_process_writes_the_same_bytes(folder, copied):
    """Strings hash differently there, which must not change any order."""
    code = (
        "from spnet_d2.data.formats import cuhk_sysu as c; import sys;"
        "c.prepare(sys.argv[1], c.Splits(component_size=2, mini_components=1, gallery_size=3))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "4321"}
    command = [sys.executable, "-W", "ignore", "-c", HIDE + code, str(copied)]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    for kind, names in (("coco", PARTITIONS), ("retrieval", PROTOCOLS)):
        for name in names:
            relative = f"{kind}/{name}.json"
            assert (folder / relative).read_bytes() == (copied / relative).read_bytes()


def test_default_sizes_leave_out_what_a_miniature_cannot_fill(copied, caplog):
    written = cuhk_sysu.prepare(copied)
    assert "retrieval/val.json" not in written and "coco/minival.json" not in written
    assert {"coco/trainval.json", "coco/val.json", "retrieval/G100.json"} <= written.keys()
    assert "no partition minitrain" in caplog.text and "no val protocol" in caplog.text


REQUIRED = [
    "annotation/Images.mat",
    "annotation/pool.mat",
    "annotation/test/train_test/Train.mat",
    "annotation/test/train_test/TestG4000.mat",
    "annotation/test/subset/Occlusion.mat",
    "Image/SSM/s7.jpg",
]


@pytest.mark.parametrize("relative", REQUIRED)
@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_missing_and_damaged_files_are_named(copied, relative, damage):
    path = copied / relative
    path.unlink() if damage == "missing" else path.write_bytes(b"no such format")
    with pytest.raises(CorpusError) as error:
        cuhk_sysu.prepare(copied)
    message = str(error.value)
    assert str(path) in message and str(copied) in message and "person_search" in message
    assert not (copied / "coco").exists() and not (copied / "retrieval").exists()


def test_wrong_structures_are_named(copied):
    path = copied / "annotation/Images.mat"
    savemat(path, {"Img": np.arange(6)})
    with pytest.raises(CorpusError, match=r"malformed, expected Img\(i\) with imname"):
        cuhk_sysu.prepare(copied)
    savemat(path, {"Other": np.arange(6)})
    with pytest.raises(CorpusError, match=r"expected variable Img, found \['Other'\]"):
        cuhk_sysu.prepare(copied)


@pytest.mark.parametrize("box", [(np.nan, 1, 2, 3), (1e12, 1, 2, 3), (1, 2, np.inf, 3)])
def test_boxes_that_no_image_has_are_an_error(copied, box):
    path = copied / "annotation/Images.mat"
    images = loadmat(path)["Img"]
    images[0, 3]["box"][0, 0]["idlocate"] = np.array([box])
    corpora.save(path, Img=images)
    with pytest.raises(CorpusError, match="Images.mat") as error:
        cuhk_sysu.prepare(copied)
    assert f"expected numbers of pixels, found {[float(v) for v in box]}" in str(error.value)


@pytest.mark.parametrize(
    ("relative", "variable"),
    [
        ("pool.mat", "pool"),
        ("test/train_test/Train.mat", "Train"),
        ("test/train_test/TestG100.mat", "TestG100"),
    ],
)
def test_empty_lists_are_an_error(copied, relative, variable):
    corpora.save(copied / "annotation" / relative, **{variable: np.empty((0, 0))})
    with pytest.raises(CorpusError, match="it lists nothing"):
        cuhk_sysu.prepare(copied)


def test_a_protocol_outside_the_test_images_is_an_error(copied):
    corpora.save(copied / "annotation/pool.mat", pool=corpora.cell(["s101.jpg", "s102.jpg"]))
    with pytest.raises(CorpusError, match="not among the test images"):
        cuhk_sysu.prepare(copied)
    corpora.save(copied / "annotation/pool.mat", pool=corpora.cell(["s101.jpg", "s999.jpg"]))
    with pytest.raises(CorpusError, match="s999.jpg"):
        cuhk_sysu.prepare(copied)


def test_appearances_without_a_box_are_counted(caplog):
    boxes = {"a.jpg": [(1, 2, 3, 4)]}
    ids = cuhk_sysu.number_people(boxes, [[("a.jpg", (1, 2, 3, 4))], [("a.jpg", (9, 9, 9, 9))]])
    assert ids == {"a.jpg": [1]}
    assert "1 labelled boxes" in caplog.text
