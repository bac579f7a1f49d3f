"""COCO's JSON, as COCO itself, CVAT and trackers' tools write it."""

import json

import pytest
from PIL import Image

from spnet_d2.data.formats.convert import Choices, SourceError, build_partition, coco
from tests.data.formats.convert.files import SHARED, image, write

PERSON = {"supercategory": "person", "id": 1, "name": "person"}
BICYCLE = {"supercategory": "vehicle", "id": 2, "name": "bicycle"}


def entry(number, image_id, bbox, category=1, **more):
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "segmentation": [[1.5, 2.5, 3, 4, 5, 6]],
        "area": bbox[2] * bbox[3],
        "bbox": bbox,
        "iscrowd": 0,
    } | more


def instances(folder, annotations, categories=(PERSON, BICYCLE), **more):
    images = []
    for number in (139, 285):
        name = f"{number:012d}.jpg"
        image(folder / "val2017" / name)
        images.append({"id": number, "file_name": name, "width": 64, "height": 48, "license": 2})
    content = {"info": {}, "licenses": [], "images": images, "annotations": annotations}
    content |= {"categories": list(categories)} | more
    return write(folder / "annotations" / "instances_val2017.json", json.dumps(content))


def test_people_crowds_and_other_classes(tmp_path):
    crowd = {"iscrowd": 1, "segmentation": {"counts": [12, 3], "size": [48, 64]}}
    instances(
        tmp_path,
        [
            entry(7, 139, [1.5, 2.25, 10, 20]),
            entry(8, 139, [30, 0, 30, 40], **crowd),
            entry(9, 285, [5, 5, 5, 5], 2),
            entry(10, 285, [5, 5, 0, 5]),
            entry(11, 285, [70, 5, 5, 5]),
        ],
    )
    source = coco.read(tmp_path)
    assert source.root == tmp_path / "val2017"
    partition, tally = build_partition(source, Choices())
    (box,) = partition["annotations"]
    assert (box["bbox"], box["person_id"], box["is_known"]) == ([1.5, 2.25, 10, 20], 1, False)
    assert partition["images"][0]["ignore_regions"] == [[30, 0, 30, 40]]
    assert partition["images"][0]["cam_id"] == -1
    assert tally.regions == {"crowd": 1}
    assert tally.dropped == {"class bicycle": 1, "empty box": 1, "outside the image": 1}
    partition, tally = build_partition(source, Choices(drop_empty=True, ignored=["bicycle"]))
    assert len(partition["images"]) == 1
    partition, _ = build_partition(source, Choices(persons=["2"]))
    assert partition["annotations"][0]["bbox"] == [5, 5, 5, 5]


def test_an_ambiguous_class_is_asked_for(tmp_path):
    names = [{"id": 3, "name": "worker"}, {"id": 4, "name": "visitor"}]
    instances(tmp_path, [entry(1, 139, [1, 1, 5, 9], 3), entry(2, 139, [1, 1, 5, 9], 4)], names)
    source = coco.read(tmp_path)
    with pytest.raises(SourceError, match=r"--person NAME_OR_ID(.|\n)*3 +worker +1 boxes"):
        build_partition(source, Choices())
    with pytest.raises(SourceError, match=r"--person nurse: there is no such class"):
        build_partition(source, Choices(persons=["nurse"]))
    partition, _ = build_partition(source, Choices(persons=["Worker", "4"]))
    assert len(partition["annotations"]) == 2
    # Each label may be a person's name.
    choices = Choices(persons=["worker", "visitor"], identity="label")
    partition, _ = build_partition(source, choices)
    assert [b["person_id"] for b in partition["annotations"]] == [1, 2]
    assert all(b["is_known"] for b in partition["annotations"])


def test_cvat_export_with_tracks(tmp_path):
    image(tmp_path / "images" / "default" / "frame_000000.PNG")
    content = {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "date_created": "", "description": ""},
        "categories": [{"id": 1, "name": "person", "supercategory": ""}],
        "images": [
            {
                "id": 1,
                "width": 64,
                "height": 48,
                "file_name": "frame_000000.PNG",
                "license": 0,
                "flickr_url": "",
                "coco_url": "",
                "date_captured": 0,
            }
        ],
        "annotations": [
            entry(1, 1, [4.0, 5.0, 10.0, 20.0])
            | {
                "segmentation": [],
                "attributes": {
                    "badge": "17",
                    "occluded": False,
                    "rotation": 90.0,
                    "track_id": 3,
                    "keyframe": True,
                },
            }
        ],
    }
    write(tmp_path / "annotations" / "instances_default.json", json.dumps(content))
    partition, _ = build_partition(coco.read(tmp_path), Choices())
    (box,) = partition["annotations"]
    assert (box["track_id"], box["is_known"]) == (3, True)
    # A quarter turn about the centre.
    assert [round(value, 6) for value in box["bbox"]] == [-1, 10, 20, 10]
    with pytest.raises(SourceError, match="--identity shoe: .*there are: .*badge"):
        build_partition(coco.read(tmp_path), Choices(identity="shoe"))


def test_videos_scope_their_instances(tmp_path):
    """As MMTracking's JSON has it: videos, and instances that count within them."""
    file = instances(tmp_path, [entry(1, 139, [1, 1, 5, 9], instance_id=0)])
    content = json.loads(file.read_text())
    content["videos"] = [{"id": 1, "name": "north"}, {"id": 2, "name": "south"}]
    for number, img in enumerate(content["images"], 1):
        img |= {"video_id": number, "frame_id": 0}
    content["annotations"].append(entry(2, 285, [1, 1, 5, 9], instance_id=0))
    file.write_text(json.dumps(content))
    partition, _ = build_partition(coco.read(file), Choices())
    assert [b["person_id"] for b in partition["annotations"]] == [1, 2]
    assert [i["sequence"] for i in partition["images"]] == ["north", "south"]
    assert [i["frame"] for i in partition["images"]] == [0, 0]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.pop("images"), 'expected an object with "images"'),
        (lambda c: c["annotations"][0].update(image_id=5), "annotation 1: there is no image.*id 5"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2]), r"annotation 1: bbox must be \[x, y"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, "x"]), "annotation 1: bbox must be"),
        (lambda c: c["annotations"][0].pop("category_id"), "lacks category_id"),
        (lambda c: c["images"][0].update(width=65), "65 x 48 pixels, found 64 x 48"),
        (lambda c: c["images"][1].update(file_name="x.jpg"), "no image 'x.jpg' below"),
        (lambda c: c["images"][1].update(id=139), "two images have the id 139"),
    ],
)
def test_bad_entries_are_named(tmp_path, change, message):
    file = instances(tmp_path, [entry(1, 139, [1, 1, 5, 9])])
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(SourceError, match=message):
        coco.read(file, tmp_path / "val2017")


def test_bad_files_and_images_that_are_left_out(tmp_path):
    file = write(tmp_path / "a.json", '{"images": [],\n"annotations": [}')
    with pytest.raises(SourceError, match=r"a.json:2: is not JSON"):
        coco.read(file)
    with pytest.raises(SourceError, match="No file or folder"):
        coco.read(tmp_path / "b.json")
    file.unlink()
    file = instances(tmp_path, [entry(1, 139, [1, 1, 5, 9]), entry(2, 285, [1, 1, 5, 9])])
    (tmp_path / "val2017" / "000000000285.jpg").write_bytes(b"no image")
    with pytest.raises(SourceError, match="is not a readable image.*--skip-bad-images"):
        coco.read(file)
    source = coco.read(file, skip_bad=True)
    assert len(source.images) == 1
    assert source.dropped == {"in an image left out": 1}
    assert source.notes == ["1 images not readable, left out"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real photos in ../shared/data")
def test_real_photos_come_back_as_they_are_known(tmp_path):
    """COCO's own form of the photos, made of what is known of them, and converted again."""
    known = json.loads((SHARED / "coco_small" / "annotations.json").read_text())
    boxes = [{**box, "category_id": 1} for box in known["annotations"]]
    for img in known["images"]:
        for region in img.get("ignore_regions", []):
            boxes.append({"id": 9999 + len(boxes), "image_id": img["id"], "bbox": region})
            boxes[-1] |= {"category_id": 1, "iscrowd": 1}
    content = {"images": known["images"], "annotations": boxes, "categories": [PERSON]}
    file = write(tmp_path / "instances.json", json.dumps(content))
    source = coco.read(file, SHARED / "coco_small" / "images")
    partition, tally = build_partition(source, Choices())
    assert tally.regions == {"crowd": 18}
    found = partition["annotations"]
    assert [b["bbox"] for b in found] == [b["bbox"] for b in known["annotations"]]
    assert [i.get("ignore_regions") for i in partition["images"]] == [
        i.get("ignore_regions") for i in known["images"]
    ]
    assert [(b["is_known"], b["iou_thresh"]) for b in found] == [
        (b["is_known"], b["iou_thresh"]) for b in known["annotations"]
    ]


def test_turned_images_are_annotated_upright(tmp_path):
    """What annotation tools show, and what training reads."""
    file = instances(tmp_path, [entry(1, 139, [1, 1, 5, 40])])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (48, 64)).save(tmp_path / "val2017" / "000000000139.jpg", exif=exif)
    assert (coco.read(file).images[0].width, coco.read(file).images[0].height) == (64, 48)
    exif[0x0112] = 8
    Image.new("RGB", (64, 48)).save(tmp_path / "val2017" / "000000000139.jpg", exif=exif)
    with pytest.raises(SourceError, match="EXIF orientation is 8"):
        coco.read(file)
