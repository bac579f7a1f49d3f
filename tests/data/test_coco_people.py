"""Plain COCO files: their people, crowds and categories, and what is told about them."""

import json
import logging

import pytest

from spnet_d2.data.person_search_json import count_people, load_person_search_json
from spnet_d2.data.person_search_schema import PersonSearchFormatError, variable_iou_thresh


def coco(annotations, categories=None):
    """A file of one image, as a converter writes it."""
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}],
        "annotations": [
            {"id": number, "image_id": 1, "bbox": [100 + number, 50, 10, 20], **fields}
            for number, fields in enumerate(annotations)
        ],
    }
    return content if categories is None else content | {"categories": categories}


@pytest.fixture
def load(tmp_path, caplog):
    def loaded(content):
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content))
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            (image,) = load_person_search_json(path, "")
        return image, [record.getMessage() for record in caplog.records]

    return loaded


PERSON = [{"id": 1, "name": "person"}]


def test_people_without_identities_are_strangers(load, tmp_path):
    image, warnings = load(coco([{"category_id": 1, "iscrowd": 0}] * 3, PERSON))
    entries = image["annotations"]
    assert [entry["identity"] for entry in entries] == [-1] * 3
    assert len({entry["person_id"] for entry in entries}) == 3
    assert not any(entry["is_known"] for entry in entries)
    assert {entry["iou_thresh"] for entry in entries} == {variable_iou_thresh(10, 20)}
    (warning,) = warnings
    assert "instances.json: no annotation has person_id: its 3 boxes are unknown people" in warning
    assert count_people(tmp_path / "instances.json") == (3, 0)


def test_a_warning_is_given_once(load):
    content = coco([{"category_id": 1}] * 2)
    assert len(load(content)[1]) == 1
    assert load(content)[1] == []


def test_tracks_of_cvat_are_pointed_out(load):
    content = coco([{"category_id": 1, "attributes": {"track_id": 3, "occluded": False}}])
    assert "attributes.track_id can be the person_id" in load(content)[1][0]


@pytest.mark.parametrize("name", ["person", "Pedestrian", " People "])
@pytest.mark.parametrize("number", [0, 3])
def test_the_category_of_people_is_found_by_its_name(load, name, number):
    categories = [{"id": number, "name": name}, {"id": 7, "name": "car"}]
    known = {"person_id": 4, "is_known": True}
    people = [
        {"category_id": number, **known},
        {"category_id": 7},
        {"category_id": number, **known},
    ]
    image, warnings = load(coco(people, categories))
    assert [entry["annotation_id"] for entry in image["annotations"]] == [0, 2]
    assert {entry["category_id"] for entry in image["annotations"]} == {0}
    (warning,) = warnings
    assert "1 of 3 annotations are no people and left out" in warning and "'car'" in warning


def test_crowds_are_ignore_regions(load):
    image, warnings = load(coco([{"iscrowd": 1}, {"person_id": 4, "is_known": True}]))
    assert image["ignore_regions"] == [[100, 50, 10, 20]]
    assert [entry["annotation_id"] for entry in image["annotations"]] == [1]
    (warning,) = warnings
    assert "1 crowds (iscrowd 1) are ignore regions" in warning


def test_a_derived_threshold_needs_no_word(load):
    image, warnings = load(coco([{"person_id": 4, "is_known": True}]))
    assert image["annotations"][0]["iou_thresh"] == variable_iou_thresh(10, 20)
    assert warnings == []


def test_other_categories_are_named_where_none_is_called_person(load):
    categories = [{"id": 1, "name": "worker"}, {"id": 2, "name": "car"}]
    _, warnings = load(coco([{"person_id": 4, "is_known": True, "category_id": 1}], categories))
    assert "no category is called person; category_id 1 is taken for people" in warnings[0]


@pytest.mark.parametrize(
    "content, message",
    [
        (coco([{"category_id": 0}] * 3), r"found category_id 0 \(3 times\); it has no categories"),
        (
            coco([{"category_id": 0}], [{"id": 0, "name": "tree"}]),
            r"category_id 0 \(1 times\); categories: 0 'tree'\. .*\"id\": 0, \"name\": \"person\"",
        ),
        (coco([{"category_id": 5}, {}], PERSON), r"category_id 1 here, found .*5 \(1 times\)"),
        (coco([{"category_id": [1]}], PERSON), r"found category_id \[1\] \(1 times\)"),
        (coco([{"person_id": 1, "is_known": True}, {}]), r"annotations\[1\] lacks person_id \(one"),
        (coco([{"person_id": 1}]), r"annotations\[0\] lacks is_known \(true where"),
        (coco([{"is_known": True}]), "is_known true, but none has person_id"),
        (coco([{"iscrowd": 1, "bbox": None}]), r"id 0: a crowd needs a bbox"),
        (coco([{"iscrowd": 1, "image_id": 9}]), r"id 0: a crowd needs .* and 9"),
    ],
)
def test_what_would_need_a_guess_is_an_error(load, content, message):
    with pytest.raises(PersonSearchFormatError, match=message) as error:
        load(content)
    assert "instances.json: " in str(error.value) and "README" in str(error.value)
