"""Label Studio's JSON export."""

import json

import pytest

from spnet_d2.data.formats.convert import (
    Choices,
    SourceError,
    build_partition,
    labelstudio,
    read_source,
)
from tests.data.formats.convert.files import boxes, image, write


def rectangle(region, x, y, width, height, label="Person", **more):
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0}
    return {
        "original_width": 64,
        "original_height": 48,
        "image_rotation": 0,
        "value": value | {"rectanglelabels": [label]} | more,
        "id": region,
        "from_name": "label",
        "to_name": "image",
        "type": "rectanglelabels",
        "origin": "manual",
    }


def said(region, kind, value, name="who"):
    result = rectangle(region, 10, 20, 30, 40)
    del result["value"]["rectanglelabels"]
    result["value"][{"textarea": "text"}.get(kind, kind)] = value
    return result | {"type": kind, "from_name": name}


def task(number, link, *annotations, **more):
    return {
        "id": number,
        "annotations": [
            {
                "id": 10 * number + place,
                "completed_by": place + 1,
                "result": results,
                "was_cancelled": False,
                "ground_truth": False,
                "created_at": "2024-03-09T22:16:08.728353Z",
                "lead_time": 4.288,
                "prediction": {},
                "result_count": 0,
                "task": number,
            }
            for place, results in enumerate(annotations)
        ],
        "file_upload": link.rsplit("/", 1)[-1],
        "drafts": [],
        "predictions": [],
        "data": {"image": link},
        "meta": {},
        "created_at": "2024-03-09T21:52:49.513742Z",
        "project": 83,
    } | more


def export(folder, *tasks):
    image(folder / "a.jpg")
    image(folder / "cams" / "b.jpg")
    return write(folder / "project-83-at-2024-03-09-22-16-f1.json", json.dumps(tasks))


def test_percent_labels_and_links(tmp_path):
    links = [
        "/data/upload/83/f6a1b2c3-a.jpg",
        "/data/local-files/?d=footage/cams/b.jpg",
        "https://example.com/x/cams/b.jpg",
        "s3://bucket/cams/b.jpg",
    ]
    tasks = [task(n, link, [rectangle("r", 25, 50, 50, 25)]) for n, link in enumerate(links, 1)]
    source = labelstudio.read(export(tmp_path, *tasks))
    assert [i.file_name for i in source.images] == ["a.jpg", *["cams/b.jpg"] * 3]
    assert boxes(source) == [("Person", None, (16, 24, 32, 12), "")]
    partition, _ = build_partition(source, Choices())
    assert not partition["annotations"][0]["is_known"]


def test_people_by_choice_text_and_label(tmp_path):
    results = [
        rectangle("one", 10, 20, 30, 40),
        said("one", "choices", ["anna"]),
        said("one", "textarea", ["17"], "badge"),
        rectangle("two", 50, 20, 30, 40),
        said("three", "choices", ["night"], "light"),
    ]
    again = [rectangle("four", 10, 20, 30, 40), said("four", "choices", ["anna"])]
    links = ("/data/upload/83/f6a1b2c3-a.jpg", "/data/upload/83/00112233-b.jpg")
    file = export(tmp_path, task(1, links[0], results), task(2, links[1], again))
    source = labelstudio.read(file)
    partition, _ = build_partition(source, Choices(identity="who"))
    assert [(b["person_id"], b["is_known"]) for b in partition["annotations"]] == [
        (1, True),
        (2, False),
        (1, True),
    ]
    partition, _ = build_partition(source, Choices(identity="badge"))
    assert [b["is_known"] for b in partition["annotations"]] == [True, False, False]
    partition, _ = build_partition(source, Choices(identity="label"))
    assert {b["person_id"] for b in partition["annotations"]} == {1}


def test_a_rectangle_and_its_labels_apart(tmp_path):
    plain = rectangle("r", 25, 50, 50, 25)
    del plain["value"]["rectanglelabels"]
    plain["type"] = "rectangle"
    labels = rectangle("r", 25, 50, 50, 25)
    labels["value"]["labels"] = labels["value"].pop("rectanglelabels")
    labels["type"] = "labels"
    source = labelstudio.read(export(tmp_path, task(1, "a.jpg", [plain, labels])))
    assert boxes(source) == [("Person", None, (16, 24, 32, 12), "")]


def test_rotated_rectangles_turn_about_their_corner(tmp_path):
    turned = rectangle("r", 50, 50, 25, 25, rotation=90)
    source = labelstudio.read(export(tmp_path, task(1, "a.jpg", [turned])))
    # 16 x 12 pixels at (32, 24), a quarter turn clockwise.
    assert boxes(source)[0][2] == (20, 24, 12, 16)
    assert source.notes == ["rotated rectangles became the upright boxes around them"]


def test_annotators_and_other_shapes(tmp_path):
    brush = rectangle("b", 0, 0, 1, 1) | {"type": "brushlabels"}
    first, second = [rectangle("r", 0, 0, 50, 50), brush], [rectangle("r", 0, 0, 25, 25)]
    tasks = task(1, "a.jpg", first, second), task(2, "cams/b.jpg", first, second), task(3, "a.jpg")
    tasks[1]["annotations"][1]["ground_truth"] = True
    tasks[0]["annotations"][0]["was_cancelled"] = True
    source = labelstudio.read(export(tmp_path, *tasks))
    assert boxes(source, 0)[0][2] == boxes(source, 1)[0][2] == (0, 0, 16, 12)
    assert source.dropped == {"by a further annotator": 2}
    assert not source.images[2].boxes
    source = labelstudio.read(export(tmp_path, task(1, "a.jpg", first)))
    assert source.dropped == {"brushlabels, no rectangle": 1}


@pytest.mark.parametrize(
    "result, message",
    [
        (rectangle("r", "x", 0, 1, 1), "task 1: x must be a number"),
        (rectangle("r", 0, 0, 1, 1) | {"image_rotation": 90}, "region 'r' was drawn in an image"),
        (rectangle("r", 0, 0, 1, 1) | {"original_width": 48}, "task 1: was labelled at 48x48"),
        (rectangle("r", 0, 0, 1, 1) | {"value": 3}, "region 'r' lacks a value"),
    ],
)
def test_bad_regions_are_named(tmp_path, result, message):
    with pytest.raises(SourceError, match=message):
        labelstudio.read(export(tmp_path, task(1, "a.jpg", [result])))


def test_structures_that_no_export_has(tmp_path):
    """Where no check expects a type, the message still names the file."""
    result = rectangle("r", 0, 0, 1, 1) | {"value": {"x": 0, "rectanglelabels": 3}}
    result["value"] |= {"y": 0, "width": 1, "height": 1}
    file = export(tmp_path, task(1, "a.jpg", [result]))
    with pytest.raises(SourceError, match=f"{file} is not as labelstudio files are"):
        read_source("labelstudio", file)


def test_other_bad_exports(tmp_path):
    with pytest.raises(SourceError, match="no image 'x/c.jpg' below"):
        labelstudio.read(export(tmp_path, task(1, "x/c.jpg", [])))
    with pytest.raises(SourceError, match="JSON-MIN"):
        labelstudio.read(export(tmp_path, {"image": "a.jpg", "id": 1, "label": []}))
    with pytest.raises(SourceError, match='"data" names no image'):
        labelstudio.read(export(tmp_path, task(1, "film.mp4", [])))
    with pytest.raises(SourceError, match="expected a list of tasks"):
        labelstudio.read(write(tmp_path / "b.json", "{}"))
