"""PRW: from the official files to partitions and protocols, trap by trap."""

import json
import shutil

import numpy as np
import pytest

from spnet_d2.data.formats import prw, prw_mat
from spnet_d2.data.formats.corpus import CorpusError
from spnet_d2.data.person_search_json import load_protocol
from tests.fixtures import corpora


@pytest.fixture(scope="module")
def folder(prepared_root):
    return prepared_root / "prw"


@pytest.fixture
def copied(prw_files, tmp_path):
    return shutil.copytree(prw_files, tmp_path / "prw")


def partition(folder, name):
    return json.loads((folder / "coco" / f"{name}.json").read_text())


def by_frame(content, frame):
    image = next(image for image in content["images"] if image["file_name"] == f"{frame}.jpg")
    return [entry for entry in content["annotations"] if entry["image_id"] == image["id"]]


def test_every_partition_and_protocol_is_written(folder):
    names = {path.stem for path in (folder / "coco").iterdir()}
    expected = {"trainval", "test", "train", "val", "minitrain", "minival"}
    assert names == expected | {"tinytrainval1", "tinytrainval3"}
    protocols = {path.stem for path in (folder / "retrieval").iterdir()}
    assert protocols == {"test", "same_cam_id", "cross_cam_id", "val"}


def test_frames_keep_the_official_order_and_ids_run_on(folder):
    trainval, test = partition(folder, "trainval"), partition(folder, "test")
    for content, frames in ((trainval, corpora.PRW_TRAIN), (test, corpora.PRW_TEST)):
        assert [image["file_name"] for image in content["images"]] == [f"{f}.jpg" for f in frames]
    for kind in ("images", "annotations"):
        ids = [entry["id"] for content in (trainval, test) for entry in content[kind]]
        assert ids == list(range(len(ids)))


def test_cameras_and_sizes(folder):
    for name in ("trainval", "test"):
        for image in partition(folder, name)["images"]:
            assert image["cam_id"] == int(image["file_name"][1])
            size = (720, 576) if image["cam_id"] == 6 else (1920, 1080)
            assert (image["width"], image["height"]) == size


def test_boxes_are_truncated_then_raised_to_zero(folder):
    boxes = [entry["bbox"] for entry in by_frame(partition(folder, "trainval"), "c1s1_000151")]
    assert boxes == [[0, 10, 40, 100], [700, 300, 90, 200]]
    one = prw_mat.integer_boxes(np.array([(-3.5, 10.2, 40.7, 100.9)]))
    assert one.tolist() == [[0, 10, 40, 100]]


def test_the_first_annotation_variable_counts(folder):
    """The first file also holds ``anno_previous``, with someone else."""
    ids = [entry["person_id"] for entry in by_frame(partition(folder, "trainval"), "c1s1_000151")]
    assert 77 not in ids and 1 in ids


def test_unknown_people_count_on_from_5555_over_train_and_test(folder):
    unknown = [
        entry["person_id"]
        for name in ("trainval", "test")
        for entry in partition(folder, name)["annotations"]
        if not entry["is_known"]
    ]
    assert unknown == [5555, 5556, 5557, 5558, 5559]


def test_known_people_keep_their_number(folder):
    known = {
        name: {e["person_id"] for e in partition(folder, name)["annotations"] if e["is_known"]}
        for name in ("trainval", "test")
    }
    assert known["trainval"] == {1, 2, 3, 478, 932}
    # Person 2 is a training identity that reappears, 933 is in no list.
    assert known["test"] == {2, 479, 500, 501, 502, 933}


def test_a_person_can_be_twice_in_a_frame(folder):
    ids = [entry["person_id"] for entry in by_frame(partition(folder, "trainval"), "c1s1_000301")]
    assert ids == [932, 932]


def test_thresholds_use_the_integer_box(folder):
    entry = by_frame(partition(folder, "trainval"), "c1s1_000151")[0]
    assert entry["iou_thresh"] == 0.5 and entry["area"] == 4000
    assert partition(folder, "test")["annotations"][0]["bbox"] == [1271, 300, 60, 182]


def test_queries_are_annotations_after_the_patches(folder):
    content = partition(folder, "test")
    annotations = {entry["id"]: entry for entry in content["annotations"]}
    names = {image["id"]: image["file_name"] for image in content["images"]}
    protocol = load_protocol(folder / "retrieval/test.json")
    found = [
        (annotations[q]["person_id"], names[annotations[q]["image_id"]], annotations[q]["bbox"])
        for q in protocol.queries
    ]
    assert found == [
        (479, "c1s3_016471.jpg", [1271, 300, 60, 182]),
        (500, "c5s2_042630.jpg", [1859, 280, 59, 182]),
        (501, "c5s2_082752.jpg", [77, 385, 119, 219]),
        (502, "c5s2_120599.jpg", [241, 390, 119, 315]),
        (501, "c3s2_120624.jpg", [0, 385, 118, 219]),
    ]
    assert protocol.images == [image["id"] for image in content["images"]]


def galleries(folder, name):
    content = partition(folder, "test")
    image_of = {entry["id"]: entry["image_id"] for entry in content["annotations"]}
    camera = {image["id"]: image["cam_id"] for image in content["images"]}
    queries = load_protocol(folder / "retrieval" / f"{name}.json").queries
    return [(image_of[query], gallery, camera) for query, gallery in queries.items()]


def test_same_camera_leaves_the_own_frame_out(folder):
    for own, gallery, camera in galleries(folder, "same_cam_id"):
        assert gallery == [i for i in camera if camera[i] == camera[own] and i != own]


def test_same_camera_can_keep_the_own_frame(copied):
    prw.prepare(copied, same_cam_own_frame=True)
    for own, gallery, camera in galleries(copied, "same_cam_id"):
        assert gallery == [i for i in camera if camera[i] == camera[own]] and own in gallery


def test_cross_camera_has_the_other_cameras(folder):
    for own, gallery, camera in galleries(folder, "cross_cam_id"):
        assert gallery == [i for i in camera if camera[i] != camera[own]] and gallery


def test_train_and_val_share_only_the_frequent(folder):
    people = [
        {entry["person_id"] for entry in partition(folder, name)["annotations"]}
        for name in ("train", "val")
    ]
    assert people[0] & people[1] <= {1}
    assert len(partition(folder, "val")["images"]) >= 2


def test_val_protocol(folder):
    content = partition(folder, "val")
    people = [entry["person_id"] for entry in content["annotations"]]
    protocol = load_protocol(folder / "retrieval/val.json")
    assert len(protocol.queries) == sum(people.count(person) > 1 for person in people)


def test_components_nearest_in_size_are_taken(caplog):
    components = [[1], [2, 3, 4], [5, 6, 7, 8, 9]]
    assert prw._component(components, 3, 2, "x") == [2, 3, 4] and not caplog.text
    assert prw._component(components, 7, 2, "x") == [5, 6, 7, 8, 9]
    assert "5 frames, 7 were expected" in caplog.text
    assert prw._component(components, 7, 6, "minival") is None
    assert "no partition minival" in caplog.text


REQUIRED = {
    "frame_test.mat": "frame_test.mat",
    "annotations/c6s1_000226.jpg.mat": "c6s1_000226.jpg.mat",
    "query_info.txt": "query_info.txt",
    "frames/c2s1_000201.jpg": "c2s1_000201.jpg",
}


@pytest.mark.parametrize("relative", REQUIRED)
@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_missing_and_damaged_files_are_named(copied, relative, damage):
    path = copied / relative
    path.unlink() if damage == "missing" else path.write_bytes(b"no such \xff format")
    with pytest.raises(CorpusError) as error:
        prw.prepare(copied)
    message = str(error.value)
    assert str(path) in message and str(copied) in message and "PRW-baseline" in message
    assert not (copied / "coco").exists() and not (copied / "retrieval").exists()


STRANGE_QUERIES = [b"", b"inf 1 2 3 4 c1s3_016471", b"479 nan 2 3 4 c1s3_016471", b"word", None]


@pytest.mark.parametrize("content", STRANGE_QUERIES)
def test_strange_queries_are_errors(copied, content):
    path = copied / "query_info.txt"
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(CorpusError, match="lines of: pid x y w h frame"):
        prw.prepare(copied)


def test_a_list_without_frames_is_an_error(copied):
    corpora.save(copied / "frame_train.mat", img_index_train=np.empty((0, 0)))
    with pytest.raises(CorpusError, match="frame_train.mat") as error:
        prw.prepare(copied)
    assert "it lists nothing" in str(error.value)


def test_queries_must_hit_one_annotation(copied):
    path = copied / "query_info.txt"
    path.write_bytes(b"479 1271 300 61 182 c1s3_016471\r\n")
    with pytest.raises(CorpusError, match="line 1: person 479 with box .* found 0"):
        prw.prepare(copied)
    path.write_bytes(b"1 60 200 80 210 c1s1_000176\r\n")
    with pytest.raises(CorpusError, match="no such test frame"):
        prw.prepare(copied)
    path.write_bytes(b"479 1271 300 61 c1s3_016471\r\n")
    with pytest.raises(CorpusError, match="lines of: pid x y w h frame"):
        prw.prepare(copied)


STRANGE_ROWS = {
    "no id": [(0, 1.0, 2.0, 3.0, 4.0)],
    "id of an unknown person": [(5555, 1.0, 2.0, 3.0, 4.0)],
    "half an id": [(1.5, 1.0, 2.0, 3.0, 4.0)],
    "NaN": [(1, np.nan, 2.0, 3.0, 4.0)],
    "no pixels": [(1, 2.0, 2.0, 1e12, 4.0)],
    "three columns": [(1, 2.0, 3.0)],
    # As many numbers as whole rows have.
    "six columns": np.ones((5, 6)),
    "text": "abc",
}


@pytest.mark.parametrize("rows", STRANGE_ROWS.values(), ids=STRANGE_ROWS)
def test_strange_annotations_are_errors(copied, rows):
    corpora.save(copied / "annotations/c1s1_000151.jpg.mat", box_new=np.array(rows))
    with pytest.raises(CorpusError, match="rows of id, x, y, w, h"):
        prw.prepare(copied)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5)])
def test_a_frame_without_people(copied, shape):
    corpora.save(copied / "annotations/c1s1_000151.jpg.mat", box_new=np.zeros(shape))
    prw.prepare(copied)
    assert by_frame(partition(copied, "trainval"), "c1s1_000151") == []


def test_another_variable_in_an_annotation_file(copied):
    path = copied / "annotations/c1s1_000151.jpg.mat"
    corpora.save(path, boxes=np.zeros((1, 5)))
    with pytest.raises(CorpusError, match="box_new or anno_file or anno_previous"):
        prw.prepare(copied)
