"""Splits and protocols of converted data."""

import pytest

from spnet_d2.data.formats.convert import SourceError, heldout
from spnet_d2.data.formats.convert.heldout import Gap
from spnet_d2.data.person_search_schema import make_annotation


def partition(*rows):
    """Of (sequence, camera, frame, people); nobody's number is below 0."""
    images, annotations = [], []
    for number, (sequence, camera, frame, people) in enumerate(rows):
        image = {"id": number, "file_name": f"{number}.jpg", "width": 9, "height": 9}
        image |= {"cam_id": camera, "frame": frame, "time": frame / 10}
        images.append(image | ({"sequence": sequence} if sequence else {}))
        for person in people:
            box = make_annotation(len(annotations), number, (1, 1, 2, 2), person, person > 0)
            annotations.append(box)
    return {"images": images, "annotations": annotations}


VIDEO = partition(
    ("a", 0, 1, [1, 2]), ("a", 0, 2, [1]), ("a", 0, 9, [1, -5]), ("b", 1, 1, [1]), ("b", 1, 5, [-6])
)


def test_sequences_are_held_out_whole():
    parts = heldout.split_by_sequence(VIDEO, ["b"])
    assert [i["id"] for i in parts["train"]["images"]] == [0, 1, 2]
    assert [a["id"] for a in parts["test"]["annotations"]] == [5, 6]
    with pytest.raises(SourceError, match="no sequence c; there are: a, b"):
        heldout.split_by_sequence(VIDEO, ["c"])
    with pytest.raises(SourceError, match="no person in train"):
        heldout.split_by_sequence(VIDEO, ["a", "b"])


def test_a_share_is_the_end_of_each_sequence():
    parts = heldout.split_by_share(VIDEO, 40)
    assert [i["id"] for i in parts["test"]["images"]] == [2, 4]


def test_a_share_of_single_images_keeps_people_together():
    photos = partition(*(("", -1, 0, [number // 2 + 1]) for number in range(20)))
    parts = heldout.split_by_share(photos, 30)
    people = [{a["person_id"] for a in part["annotations"]} for part in parts.values()]
    assert len(parts["test"]["images"]) == 6 and not people[0] & people[1]
    assert parts == heldout.split_by_share(photos, 30)


def test_all_other_images():
    protocol = heldout.other_images(VIDEO)
    # Person 2 is seen once, nobody knows the others.
    assert protocol.queries == [0, 2, 3, 5]
    assert protocol.images == [0, 1, 2, 3, 4]


def test_other_cameras():
    assert heldout.other_cameras(VIDEO).queries == {
        0: [3, 4],
        2: [3, 4],
        3: [3, 4],
        5: [0, 1, 2],
    }


def test_later_or_elsewhere():
    protocol = heldout.later_or_elsewhere(VIDEO, Gap.parse("7"))
    assert protocol.queries == {0: [2, 3, 4], 2: [2, 3, 4], 3: [0, 1, 3, 4], 5: [0, 1, 2]}
    assert heldout.later_or_elsewhere(VIDEO, Gap.parse("0.7s")) == protocol
    far = heldout.later_or_elsewhere(VIDEO, Gap.parse("100"))
    assert far.queries[0] == [3, 4]
    for text in ("", "0", "-1s", "nan", "inf", "two"):
        with pytest.raises(ValueError):
            Gap.parse(text)


def test_protocols_that_cannot_be():
    nobody = partition(("a", 0, 1, [1, -1]), ("a", 0, 2, [2]))
    for make in (heldout.other_images, heldout.other_cameras):
        with pytest.raises(SourceError, match="No protocol: nobody known"):
            make(nobody)
    photos = partition(("", -1, 0, [1]), ("", -1, 0, [1]))
    del photos["images"][1]["time"]
    with pytest.raises(SourceError, match="1.jpg has no frame rate"):
        heldout.later_or_elsewhere(photos, Gap.parse("1s"))


def test_a_protocol_too_large_to_write(monkeypatch):
    monkeypatch.setattr(heldout, "MOST_ENTRIES", 5)
    with pytest.raises(SourceError, match="would list 9 images for 4 queries"):
        heldout.other_cameras(VIDEO)
