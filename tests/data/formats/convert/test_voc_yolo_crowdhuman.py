"""Formats of still images without identities: PASCAL VOC, YOLO, CrowdHuman."""

import json

import pytest

from spnet_d2.data.formats.convert import (
    Choices,
    SourceError,
    build_partition,
    crowdhuman,
    voc,
    yolo,
)
from tests.data.formats.convert.files import boxes, image, write

# As VOC2007's files are written, tabs and all.
VOC = """<annotation>
	<folder>VOC2007</folder>
	<filename>{name}</filename>
	<size>
		<width>64</width>
		<height>48</height>
		<depth>3</depth>
	</size>
	<segmented>0</segmented>
	<object>
		<name>person</name>
		<pose>Left</pose>
		<truncated>1</truncated>
		<difficult>0</difficult>
		<part>
			<name>head</name>
			<bndbox>
				<xmin>12</xmin>
				<ymin>3</ymin>
				<xmax>15</xmax>
				<ymax>6</ymax>
			</bndbox>
		</part>
		<bndbox>
			<xmin>{xmin}</xmin>
			<ymin>2</ymin>
			<xmax>20</xmax>
			<ymax>31</ymax>
		</bndbox>
	</object>
	<object>
		<name>person</name>
		<difficult>1</difficult>
		<bndbox>
			<ymin>5</ymin>
			<xmin>30</xmin>
			<ymax>9</ymax>
			<xmax>34</xmax>
		</bndbox>
	</object>
	<object>
		<name>dog</name>
		<difficult>0</difficult>
		<bndbox>
			<xmin>40</xmin>
			<ymin>40</ymin>
			<xmax>45</xmax>
			<ymax>45</ymax>
		</bndbox>
	</object>
</annotation>
"""


def voc_files(folder, name="000001.jpg", xmin="11"):
    image(folder / "JPEGImages" / "000001.jpg")
    write(folder / "Annotations" / "000001.xml", VOC.format(name=name, xmin=xmin))
    return folder


def test_voc_counts_pixels_from_1(tmp_path):
    source = voc.read(voc_files(tmp_path))
    # Ten columns, 11 to 20, from the left edge of the eleventh.
    assert boxes(source)[0] == ("person", None, (10, 1, 10, 30), "")
    assert boxes(source)[1] == ("person", None, (29, 4, 5, 5), "difficult")
    partition, tally = build_partition(source, Choices())
    assert len(partition["annotations"]) == 1
    assert tally.dropped == {"class dog": 1} and tally.regions == {"difficult": 1}


@pytest.mark.parametrize("xmin", ["0", "11.5"])
def test_voc_of_tools_that_count_from_0(tmp_path, xmin):
    source = voc.read(voc_files(tmp_path, xmin=xmin))
    assert boxes(source)[0][2] == (float(xmin), 2, 20 - float(xmin), 29)
    assert "pixels counted from 0: x = xmin (--first-pixel)" in source.notes
    assert boxes(voc.read(tmp_path, first_pixel=1))[0][2][0] == float(xmin) - 1


def test_voc_names_without_suffix_and_from_another_machine(tmp_path):
    voc_files(tmp_path, name="000001")
    assert voc.read(tmp_path).images[0].file_name == "000001.jpg"
    voc_files(tmp_path, name="C:\\work\\000001.jpg")
    assert voc.read(tmp_path).images[0].file_name == "000001.jpg"


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("<xmin>11</xmin>", "", "000001.xml:24: <bndbox> lacks <xmin>"),
        ("<xmin>11</xmin>", "<xmin>eleven</xmin>", "000001.xml:25: <xmin> must be a number"),
        ("<name>dog</name>", "", "lacks <name>"),
        ("<width>64", "<width>640", "640 x 48 pixels, found 64 x 48"),
        ("</annotation>", "", r"000001.xml:\d+: is not XML"),
        ("<annotation>", '<!DOCTYPE a [<!ENTITY b "c">]><annotation>', "declares the entity b"),
    ],
)
def test_bad_voc_files_are_named(tmp_path, old, new, message):
    file = voc_files(tmp_path) / "Annotations" / "000001.xml"
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(SourceError, match=message):
        voc.read(tmp_path)


def test_a_folder_without_voc_files(tmp_path):
    write(tmp_path / "a.xml", "<html></html>")
    with pytest.raises(SourceError, match="no XML file with <annotation>"):
        voc.read(tmp_path)


def yolo_files(folder, text, names="names:\n  0: person\n  1: bicycle\n"):
    image(folder / "images" / "train" / "a.jpg")
    image(folder / "images" / "val" / "a.jpg", 100, 200)
    write(folder / "labels" / "train" / "a.txt", text)
    if names:
        write(folder / "data.yaml", f"path: ../x\ntrain: images/train\nval: images/val\n{names}")
    return folder


def test_yolo_of_ultralytics(tmp_path):
    source = yolo.read(yolo_files(tmp_path, "0 0.5 0.5 0.25 0.5\n1 0.1 0.1 0.1 0.1\n"))
    assert [i.file_name for i in source.images] == ["images/train/a.jpg", "images/val/a.jpg"]
    assert boxes(source)[0] == ("0", None, (24, 12, 16, 24), "")
    assert "1 images without a text file: taken as images of nobody" in source.notes
    partition, tally = build_partition(source, Choices())
    assert [i["height"] for i in partition["images"]] == [48, 200]
    assert tally.dropped == {"class bicycle": 1}
    # Named by the file itself; a list of names; without names the numbers.
    yolo_files(tmp_path, "0 0.5 0.5 0.25 0.5\n", "names: [person, bicycle]\n")
    assert yolo.read(tmp_path / "data.yaml").classes == {"0": "person", "1": "bicycle"}
    (tmp_path / "data.yaml").unlink()
    assert yolo.read(tmp_path).classes == {"0": "0"}


def test_yolo_of_darknet_and_cvat(tmp_path):
    image(tmp_path / "obj_train_data" / "frame_000000.PNG")
    write(tmp_path / "obj_train_data" / "frame_000000.txt", "1 0.5 0.5 0.5 1.000000\n")
    write(tmp_path / "obj.names", "car\nperson\n")
    write(tmp_path / "obj.data", "classes = 2\ntrain = data/train.txt\n")
    write(tmp_path / "train.txt", "data/obj_train_data/frame_000000.PNG\n")
    partition, _ = build_partition(yolo.read(tmp_path), Choices())
    assert partition["annotations"][0]["bbox"] == [16, 0, 32, 48]


def test_yolo_polygons_and_scores(tmp_path):
    lines = "0 0.1 0.2 0.5 0.2 0.5 0.8 0.1 0.8\n0 0.5 0.5 0.5 0.5 0.93\n"
    source = yolo.read(yolo_files(tmp_path, lines))
    assert boxes(source)[0][2] == (6.4, 9.6, 25.6, 28.8)
    assert any("score or track" in note for note in source.notes)


@pytest.mark.parametrize(
    "line, message",
    [
        ("0 0.5 0.5 0.5", "a.txt:2: expected class, centre x, y, width, height, found 4"),
        ("person 0.5 0.5 0.5 0.5", "a.txt:2: expected the number of a class first"),
        ("0 32 24 10 10", "a.txt:2: expected shares of the image.*pixels"),
        ("0 0.5 x 0.5 0.5", "a.txt:2: each value must be a number"),
    ],
)
def test_bad_yolo_lines_are_named(tmp_path, line, message):
    yolo_files(tmp_path, "0 0.5 0.5 0.1 0.1\n" + line + "\n")
    with pytest.raises(SourceError, match=message):
        yolo.read(tmp_path)


def test_yolo_texts_and_images_that_do_not_meet(tmp_path):
    yolo_files(tmp_path, "0 0.5 0.5 0.1 0.1\n")
    write(tmp_path / "labels" / "train" / "b.txt", "0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(SourceError, match="b.txt: no image belongs to it"):
        yolo.read(tmp_path)
    assert any("without an image" in n for n in yolo.read(tmp_path, skip_bad=True).notes)
    (tmp_path / "labels").rename(tmp_path / "texts")
    with pytest.raises(SourceError, match="no text file belongs to an image"):
        yolo.read(tmp_path)


def person(box_id, full, visible, tag="person", **extra):
    """In the order of keys, and with the parts, of the real files."""
    return {
        "tag": tag,
        "hbox": [full[0], full[1], 3, 3],
        "head_attr": {"ignore": 0, "occ": 0, "unsure": 0} if tag == "person" else {},
        "fbox": full,
        "vbox": visible,
        "extra": {"box_id": box_id, "occ": 1} | extra,
    }


def crowdhuman_files(folder, *lines):
    image(folder / "Images" / "273271,c9db000d5146c15.jpg")
    rows = [
        {
            "ID": "273271,c9db000d5146c15",
            "gtboxes": [
                person(0, [-4, 2, 20, 30], [0, 2, 16, 15]),
                person(1, [30, 2, 10, 20], [30, 2, 10, 20]),
                person(2, [50, 2, 10, 20], [50, 2, 10, 20], ignore=1),
                person(3, [40, 30, 10, 10], [40, 30, 10, 10], tag="mask", ignore=1),
            ],
        }
    ]
    text = "\n".join([*map(json.dumps, rows), *lines]) + "\n"
    return write(folder / "annotation_val.odgt", text)


def test_crowdhuman(tmp_path):
    crowdhuman_files(tmp_path)
    source = crowdhuman.read(tmp_path)
    partition, tally = build_partition(source, Choices())
    # The full box stays as annotated, beyond the image.
    assert [b["bbox"] for b in partition["annotations"]] == [[-4, 2, 20, 30], [30, 2, 10, 20]]
    assert [b["visibility"] for b in partition["annotations"]] == [0.4, 1.0]
    assert partition["images"][0]["ignore_regions"] == [[50, 2, 10, 20], [40, 30, 10, 10]]
    assert tally.regions == {"ignore 1": 1, "class mask": 1}
    partition, _ = build_partition(source, Choices(min_visibility=0.5))
    assert len(partition["annotations"]) == 1
    visible = crowdhuman.read(tmp_path, kind="visible")
    assert boxes(visible)[0][2] == (0, 2, 16, 15)
    assert boxes(crowdhuman.read(tmp_path, kind="head"))[0][2] == (-4, 2, 3, 3)


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "val.odgt:2: expected an object"),
        ('{"ID": "a"}', "val.odgt:2: expected an object with .*gtboxes"),
        ('{"ID": "a", "gtboxes": []}', "val.odgt:2: no image 'a' below"),
        (
            '{"ID": "273271,c9db000d5146c15", "gtboxes": [{"tag": "person", "fbox": [1, 2]}]}',
            r"val.odgt:2: fbox must be \[x, y, width, height\]",
        ),
    ],
)
def test_bad_crowdhuman_lines_are_named(tmp_path, line, message):
    crowdhuman_files(tmp_path, line)
    with pytest.raises(SourceError, match=message):
        crowdhuman.read(tmp_path)
