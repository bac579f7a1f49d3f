"""The generic JSON: written deterministically, loaded as Detectron2 dicts, wrong files named."""

import gzip
import json
import os

import cv2
import numpy as np
import pytest
from detectron2.structures import BoxMode

from spnet_d2.data.person_search_json import (
    Protocol,
    clip_xywh,
    count_people,
    load_person_search_json,
    load_protocol,
    write_person_search_json,
    write_protocol,
)
from spnet_d2.data.person_search_schema import (
    PersonSearchFormatError,
    make_annotation,
    variable_iou_thresh,
)
from spnet_d2.utils import atomic_io


def entries():
    images = [
        {"id": 7, "file_name": "b.jpg", "width": 100, "height": 50, "cam_id": 2},
        {
            "id": 3,
            "file_name": "a.jpg",
            "width": 80,
            "height": 60,
            "ignore_regions": [[1, 2, 3, 4]],
        },
        {"id": 5, "file_name": "empty.jpg", "width": 80, "height": 60, "cam_id": -1},
    ]
    annotations = [
        make_annotation(4, 7, (90, -5, 20, 30), 12, True),
        make_annotation(1, 3, (10, 10, 20, 30), 5560, False),
        make_annotation(2, 3, (10, 10, 20, 30), 40, True),
        make_annotation(9, 7, (100, 10, 20, 30), 5, True),
        make_annotation(8, 7, (20, 10, 0, 30), 5561, False),
        make_annotation(3, 3, (-4, -4, 200, 200), 12, True),
    ]
    return images, annotations


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "deep" / "part.json"
    write_person_search_json(path, *entries(), info={"description": "test"})
    return path


@pytest.mark.parametrize(
    "size, expected",
    [((10, 20), 1 / 3), ((15, 30), 0.45), ((20, 40), 0.5), ((40, 100), 0.5), ((0, 9), 0.0)],
)
def test_variable_threshold(size, expected):
    assert variable_iou_thresh(*size) == pytest.approx(expected)


def test_written_file_is_sorted_and_complete(written):
    content = json.loads(written.read_text())
    assert list(content) == ["info", "licenses", "images", "annotations", "categories"]
    assert [image["id"] for image in content["images"]] == [3, 5, 7]
    assert [entry["id"] for entry in content["annotations"]] == [1, 2, 3, 4, 8, 9]
    assert content["annotations"][3] == {
        "id": 4,
        "image_id": 7,
        "bbox": [90.0, -5.0, 20.0, 30.0],
        "area": 600.0,
        "person_id": 12,
        "is_known": True,
        "iou_thresh": 0.5,
        "category_id": 1,
        "iscrowd": 0,
    }


def test_writing_is_deterministic_and_takes_numpy_numbers(written, tmp_path):
    images, annotations = entries()
    annotations[0]["track_id"] = np.int64(3)
    again = tmp_path / "again.json"
    write_person_search_json(again, images[::-1], annotations[::-1], {"description": "test"})
    text = again.read_text()
    assert '"track_id":3' in text
    assert text.replace(',"track_id":3', "") == written.read_text()
    assert os.listdir(tmp_path / "deep") == ["part.json"]


def test_a_failed_write_leaves_the_old_file(written, monkeypatch):
    before = written.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(atomic_io.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_person_search_json(written, [], [])
    with pytest.raises(PersonSearchFormatError):
        write_person_search_json(written, [{"id": 1}], [])
    assert written.read_bytes() == before
    assert os.listdir(written.parent) == ["part.json"]


def test_images_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path, pixels = tmp_path / "deep" / "a.png", np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    atomic_io.write_image(path, pixels)
    assert np.array_equal(cv2.imread(str(path)), pixels)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(atomic_io.Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        atomic_io.write_image(path, 255 - pixels)
    assert np.array_equal(cv2.imread(str(path)), pixels)
    assert os.listdir(path.parent) == ["a.png"]


def test_dataset_dicts(written):
    dicts = load_person_search_json(written, "some/images")
    assert [entry["image_id"] for entry in dicts] == [3, 5, 7]
    first, empty, last = dicts
    assert first["file_name"] == os.path.abspath("some/images/a.jpg")
    assert (first["height"], first["width"], first["cam_id"]) == (60, 80, -1)
    assert first["ignore_regions"] == [[1, 2, 3, 4]] and last["ignore_regions"] == []
    assert last["cam_id"] == 2 and empty["annotations"] == []
    assert first["annotations"][0] == {
        "annotation_id": 1,
        "bbox": [10, 10, 20, 30],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "iscrowd": 0,
        "person_id": 3,
        "identity": -1,
        "is_known": False,
        "iou_thresh": pytest.approx(0.5),
    }


def test_boxes_are_clipped_and_dropped_when_empty(written):
    dicts = load_person_search_json(written, "")
    # 8 has no width, 9 lies beyond the border.
    assert [entry["annotation_id"] for entry in dicts[2]["annotations"]] == [4]
    assert dicts[2]["annotations"][0]["bbox"] == [90, 0, 10, 25]
    assert dicts[0]["annotations"][2]["bbox"] == [0, 0, 80, 60]


def test_people_are_numbered_over_all_annotations(written):
    """Ids 5, 12, 40 are known, 5560 and 5561 are not; the only box of 5 is dropped."""
    dicts = load_person_search_json(written, "")
    found = {
        entry["annotation_id"]: (entry["person_id"], entry["identity"], entry["is_known"])
        for image in dicts
        for entry in image["annotations"]
    }
    assert found == {1: (3, -1, False), 2: (2, 2, True), 3: (1, 1, True), 4: (1, 1, True)}
    assert count_people(written) == (5, 3)


def test_clipping_keeps_exact_sides():
    boxes = np.array([[10.2, 0.1, 40.7, 0.3], [-1.5, 5, 3, 5], [5, 5, -2, 5]])
    clipped = clip_xywh(boxes, np.array([[100.0, 50.0]] * 3))
    assert clipped.tolist() == [[10.2, 0.1, 40.7, 0.3], [0, 5, 1.5, 5], [5, 5, 0, 5]]


def test_an_empty_partition_loads(tmp_path):
    path = tmp_path / "none.json"
    write_person_search_json(path, [], [])
    assert load_person_search_json(path, "") == []
    write_person_search_json(path, entries()[0], [])
    assert [entry["annotations"] for entry in load_person_search_json(path, "")] == [[], [], []]


def _set(kind, key, value):
    return lambda content: content[kind][1].update({key: value})


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.pop("annotations"), 'object with "images" and "annotations"'),
        (lambda c: c.update(images={}), '"images" must be a list, found dict'),
        (lambda c: c["images"].append(3), r"images\[3\] must be an object"),
        (lambda c: c["images"][1].pop("width"), r"images\[1\] lacks width"),
        (lambda c: c["annotations"][2].pop("person_id"), r"annotations\[2\] lacks person_id"),
        (_set("annotations", "image_id", 99), "annotations id 2: image_id 99 is not the id"),
        (_set("annotations", "bbox", [1, 2, 3]), "annotations id 2: bbox must be four finite"),
        (_set("annotations", "bbox", [1, 2, float("nan"), 3]), "bbox must be four finite"),
        (_set("annotations", "bbox", [1, 2, float("inf"), 3]), "bbox must be four finite"),
        (_set("annotations", "bbox", [1, 2, "3", 4]), "bbox must be four finite"),
        (_set("annotations", "bbox", [1, 2, None, 4]), "bbox must be four finite"),
        (_set("annotations", "bbox", None), "bbox must be four finite"),
        (_set("annotations", "id", 1), "id 1 occurs 2 times in annotations"),
        (_set("images", "id", 3), "id 3 occurs 2 times in images"),
        (_set("annotations", "id", "1"), "id must be an integer, found '1'"),
        (
            _set("annotations", "id", 2**63),
            "id must fit 64 bits with sign, found 9223372036854775808",
        ),
        (_set("annotations", "person_id", True), "person_id must be an integer, found True"),
        (_set("annotations", "is_known", 1), "is_known must be true or false, found 1"),
        (_set("annotations", "iou_thresh", 50), r"iou_thresh must be a number in \[0, 1\]"),
        (_set("annotations", "iscrowd", 2), "only single persons.* found category_id 1 and isc"),
        (_set("annotations", "category_id", 17), r"only single persons.* found .*17 \(1 times"),
        (_set("annotations", "category_id", "1"), r"only single persons.* found .*'1' \(1 times"),
        (_set("annotations", "category_id", None), "only single persons.* found .*None"),
        (lambda c: c["annotations"][2].pop("iou_thresh"), r"\[2\] lacks iou_thresh.*5 of 6"),
        (lambda c: c["annotations"][2].pop("is_known"), r"\[2\] lacks is_known \(true where"),
        (_set("annotations", "bbox", [1, 2, 3, 10**400]), "bbox must be four finite"),
        (_set("annotations", "bbox", [1, 2, 3, 1e300]), "bbox must be four finite"),
        (_set("annotations", "id", [1]), r"id must be an integer.*at annotations\[1\]"),
        (_set("annotations", "image_id", {}), r"image_id must be an integer, found {}"),
        (_set("images", "width", 10**30), "width must fit 64 bits"),
        (_set("images", "width", 2**40), "width and height must be at least 1 pixel, and at most"),
        (_set("images", "width", "80"), r"width must be an integer, found '80' \(at images\[1\]"),
        (_set("images", "file_name", "a\\b.jpg"), "file_name must have / between folders"),
        (_set("images", "file_name", "C:/b.jpg"), "file_name must not begin with a Windows drive"),
        (_set("images", "file_name", "b\0.jpg"), "can't be the name of a file"),
        (_set("images", "file_name", "b\ud800.jpg"), "can't be the name of a file"),
        (_set("images", "file_name", 5), "file_name must be a non-empty string, found 5"),
        (_set("annotations", "person_id", 5560), "person_id 5560 is known in one"),
        (_set("images", "width", 0), "width and height must be at least 1"),
        (_set("images", "file_name", ""), "file_name must be a non-empty string"),
        *(
            (_set("images", "ignore_regions", regions), "ignore_regions must be a list")
            for regions in ([1, 2, 3, 4], [[1, 2, 3]], None, 5, {"0": [1, 2, 3, 4]})
        ),
        *(
            (_set("images", "cam_id", camera), "cam_id must be an integer, found")
            for camera in ("c1", None, 1.5, True)
        ),
    ],
)
def test_malformed_partitions_are_named(written, change, message):
    content = json.loads(written.read_text())
    change(content)
    written.write_text(json.dumps(content))
    with pytest.raises(PersonSearchFormatError, match=message) as error:
        load_person_search_json(written, "")
    assert str(written) in str(error.value) and "README" in str(error.value)


def test_missing_and_unreadable_files(tmp_path):
    for load in (load_protocol, count_people, lambda path: load_person_search_json(path, "")):
        with pytest.raises(FileNotFoundError, match=r"nothing\.json.*prepare_"):
            load(tmp_path / "nothing.json")
        for content in (b"{\xff", b"", b"[" * 100_000):
            (tmp_path / "bad.json").write_bytes(content)
            with pytest.raises(PersonSearchFormatError, match="not valid JSON"):
                load(tmp_path / "bad.json")


@pytest.mark.parametrize(
    "content, found",
    [
        (b"", "it is empty"),
        (gzip.compress(b"{}", mtime=0), "compressed with gzip: unpack it"),
        (b"PK\x03\x04\0", "a zip archive"),
        (b'{"id": 1}\n{"id": 2}\n', "JSON Lines, one object a line"),
        (b'{"images": ["M\xfcnchen.jpg"]}', "can't decode byte"),
        (b'{"images": [', "Expecting value"),
    ],
)
def test_files_of_another_kind_are_named(tmp_path, content, found):
    path = tmp_path / "other.json"
    path.write_bytes(content)
    for load in (load_protocol, count_people, lambda path: load_person_search_json(path, "")):
        with pytest.raises(PersonSearchFormatError, match=f"not valid JSON .*{found}"):
            load(path)
    with pytest.raises(PersonSearchFormatError, match="is a folder, but must be a JSON file"):
        load_protocol(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_read(written, encoding):
    plain = load_person_search_json(written, "")
    written.write_text(written.read_text(), encoding=encoding)
    assert load_person_search_json(written, "") == plain


@pytest.mark.parametrize("queries", [{4: [3, 5, 3], 1: []}, [9, 4, 1], {}, []])
def test_protocols_keep_order_and_repetitions(tmp_path, queries):
    path = tmp_path / "retrieval" / "p.json"
    write_protocol(path, [7, 3, np.int64(5)], queries)
    protocol = load_protocol(path)
    assert protocol == Protocol([3, 5, 7], queries)
    assert list(protocol.queries) == list(queries)


@pytest.mark.parametrize(
    "content, message",
    [
        ([], 'object with "images" and "queries"'),
        ({"images": [1]}, 'object with "images" and "queries"'),
        ({"images": 3, "queries": []}, "must be a list of image ids"),
        ({"images": [1, 1], "queries": []}, "lists an image twice"),
        ({"images": [1], "queries": "abc"}, "must be a list of image ids"),
        ({"images": [[1]], "queries": []}, "must be a list of image ids"),
        ({"images": [1], "queries": None}, "must be a list of image ids"),
        ({"images": [1], "queries": {"x": [1]}}, 'keys of "queries" must be annotation ids'),
        ({"images": [1], "queries": {"4": [1], "04": [1]}}, "query is listed twice"),
        ({"images": [1], "queries": {"4": [[1]]}}, r"query 4 .* not among them: \[\[1\]\]"),
        ({"images": [1], "queries": {"4": [1.0]}}, r"query 4 .* not among them: \[1.0\]"),
        ({"images": [1], "queries": {"4": [1, 2]}}, r"query 4 .* not among them: \[2\]"),
        ({"images": [1], "queries": {"4": 1}}, "query 4 .* found int"),
        ({"images": [1], "queries": [4, 4]}, "query is listed twice"),
        ({"images": [1], "annotations": []}, "found .*annotations instead of a protocol"),
        ({"images": ["1"], "queries": [4]}, "found '1' among the ids"),
        ({"images": [1], "queries": [4.0]}, "found 4.0 among the ids"),
        ({"images": [1], "queries": [{"4": [1]}]}, "found {'4': .*among the ids"),
        ({"images": [2**63], "queries": [4]}, "ids must fit 64 bits"),
        ({"images": [1], "queries": {str(-(2**63) - 1): [1]}}, "ids must fit 64 bits"),
    ],
)
def test_malformed_protocols_are_named(tmp_path, content, message):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(content))
    with pytest.raises(PersonSearchFormatError, match=message) as error:
        load_protocol(path)
    assert str(path) in str(error.value)


def test_a_query_that_is_listed_twice_in_the_text_is_named(tmp_path):
    path = tmp_path / "p.json"
    path.write_text('{"images": [1, 2], "queries": {"4": [1], "4": [2]}}')
    with pytest.raises(PersonSearchFormatError, match="the key '4' is listed twice"):
        load_protocol(path)


def test_images_listed_twice_and_files_without_boxes_are_told_once(written, caplog):
    content = json.loads(written.read_text())
    content["images"][1]["file_name"] = "a.jpg"
    written.write_text(json.dumps(content))
    load_person_search_json(written, "")
    load_person_search_json(written, "")
    (warning,) = [text for text in caplog.messages if "file_name" in text]
    assert "1 images repeat" in warning and "'a.jpg' is listed 2 times (ids 3, 5)" in warning
    written.write_text(json.dumps(content | {"annotations": []}))
    load_person_search_json(written, "")
    assert any("it has 3 images, but no annotations" in text for text in caplog.messages)
