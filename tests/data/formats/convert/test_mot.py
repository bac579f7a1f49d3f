"""MOTChallenge's layout, as the benchmark, CVAT and DanceTrack write it."""

import json
import shutil
from collections import defaultdict

import pytest

from spnet_d2.data.formats.convert import Choices, SourceError, build_partition, mot
from tests.data.formats.convert.files import SHARED, boxes, image, write

SEQINFO = """[Sequence]
name={name}
imDir=img1
frameRate=30
seqLength={length}
imWidth=64
imHeight=48
imExt=.jpg
"""
# MOT17-02's first lines are of this form: a static person, then pedestrians.
GT = """1,1,10,4,9.5,20,0,7,1
1,2,30,6,12,30,1,1,0.86014
2,2,31,6,12,30,1,1,0.2
2,3,40,6,12,30,0,1,0.5
2,4,40,20,6,6,0,3,1
3,5,1,2,3,4,0,11,0.3
"""


def sequence(folder, gt=GT, length=3, suffix=".jpg", first="000001"):
    for frame in range(length):
        image(folder / "img1" / f"{int(first) + frame:0{len(first)}d}{suffix}")
    write(folder / "seqinfo.ini", SEQINFO.format(name=folder.name, length=length))
    write(folder / "gt" / "gt.txt", gt)
    return folder


def test_classes_flags_and_visibility(tmp_path):
    sequence(tmp_path / "MOT17-02-FRCNN")
    source = mot.read(tmp_path)
    assert [i.file_name for i in source.images] == [
        f"MOT17-02-FRCNN/img1/00000{n}.jpg" for n in (1, 2, 3)
    ]
    assert source.fps == {"MOT17-02-FRCNN": 30}
    partition, tally = build_partition(source, Choices())
    assert [(b["image_id"], b["track_id"], b["bbox"]) for b in partition["annotations"]] == [
        (0, 2, [30, 6, 12, 30]),
        (1, 2, [31, 6, 12, 30]),
    ]
    assert partition["images"][0]["ignore_regions"] == [[10, 4, 9.5, 20]]
    assert partition["images"][1]["time"] == round(2 / 30, 6)
    assert tally.regions == {"class static person": 1, "flag 0 (not to be considered)": 1}
    assert tally.dropped == {"class car": 1, "class occluder full": 1}
    # Less visible people are ignored on demand.
    partition, tally = build_partition(source, Choices(min_visibility=0.4))
    assert len(partition["annotations"]) == 1
    assert tally.regions["less than 0.4 visible (--min-visibility)"] == 1
    # A static person is a person where one says so.
    partition, _ = build_partition(source, Choices(persons=["pedestrian", "7"]))
    assert [b["track_id"] for b in partition["annotations"]] == [1, 2, 2]


def test_ten_columns_hold_places_in_the_world(tmp_path):
    gt = "1,1,19,8,14,26,1,-1,-1,-1\n2,1,20,8,14,26,0,1.8,2.5,0\n"
    source = mot.read(sequence(tmp_path / "TUD", gt, 2))
    assert boxes(source) == [("1", "1", (19, 8, 14, 26), "")]
    assert boxes(source, 1)[0][3] == "flag 0 (not to be considered)"


def test_each_sequence_is_a_camera_with_people_of_its_own(tmp_path):
    for name in ("b", "a"):
        sequence(tmp_path / name, "1,1,10,4,9,20,1,1,1\n2,1,10,4,9,20,1,1,1\n", 2)
    source = mot.read(tmp_path)
    partition, _ = build_partition(source, Choices())
    assert [b["person_id"] for b in partition["annotations"]] == [1, 1, 2, 2]
    assert [i["cam_id"] for i in partition["images"]] == [0, 0, 1, 1]
    partition, _ = build_partition(source, Choices(shared_ids=True, step=2))
    assert [b["person_id"] for b in partition["annotations"]] == [1, 1]
    assert [i["frame"] for i in partition["images"]] == [1, 1]
    assert {i.sequence for i in mot.read(tmp_path, sequences=["b"]).images} == {"b"}
    with pytest.raises(SourceError, match="no sequence c; there are: a, b"):
        mot.read(tmp_path, sequences=["c"])


def test_a_video_given_once_for_each_detector_is_read_once(tmp_path):
    for detector in ("DPM", "FRCNN", "SDP"):
        sequence(tmp_path / f"MOT17-04-{detector}")
    source = mot.read(tmp_path)
    assert {i.sequence for i in source.images} == {"MOT17-04-DPM"}
    assert sum("left out" in note for note in source.notes) == 2


def test_cvat_export_with_its_own_labels(tmp_path):
    """No seqinfo.ini, nine columns, classes by labels.txt, images called frame_000000."""
    for frame in (0, 5):
        image(tmp_path / "img1" / f"frame_{frame:06d}.PNG")
    write(tmp_path / "gt" / "labels.txt", "car\nperson\n")
    gt = "1,1,10.5,4.25,9,20,1,2,1.0\n2,1,11,4,9,20,1,2,1.0\n2,2,1,1,5,5,1,1,1.0\n"
    write(tmp_path / "gt" / "gt.txt", gt)
    source = mot.read(tmp_path)
    assert source.classes == {"1": "car", "2": "person"}
    assert [(i.frame, i.file_name[-16:]) for i in source.images] == [
        (1, "frame_000000.PNG"),
        (2, "frame_000005.PNG"),
    ]
    partition, tally = build_partition(source, Choices())
    assert [b["bbox"][0] for b in partition["annotations"]] == [10.5, 11]
    assert tally.dropped == {"class car": 1}


def test_detections_are_nobody(tmp_path):
    folder = sequence(tmp_path / "MOT17-01-SDP")
    (folder / "gt" / "gt.txt").unlink()
    det = "1,-1,13,4,12.26,30.77,2.3092,-1,-1,-1\n1,-1,7,4,10,31,-0.5,-1,-1,-1\n"
    write(folder / "det" / "det.txt", det)
    with pytest.raises(SourceError, match="no gt/gt.txt.*with --detections"):
        mot.read(tmp_path)
    source = mot.read(tmp_path, detections=True, min_score=0.0)
    assert boxes(source) == [("1", None, (13, 4, 12.26, 30.77), "")]
    assert source.dropped == {"score below 0": 1}
    partition, _ = build_partition(source, Choices())
    assert [b["is_known"] for b in partition["annotations"]] == [False]


@pytest.mark.parametrize(
    "line, message",
    [
        ("1,2,30,6,12", "gt.txt:2: expected 6 to 10 values"),
        ("1,2,30,six,12,30,1,1,1", "gt.txt:2: each value must be a number, found 'six'"),
        ("1,2,30,nan,12,30,1,1,1", "gt.txt:2: each value must be finite"),
        ("0,2,30,6,12,30,1,1,1", "gt.txt:2: expected a frame from 1 on"),
        ("9,2,30,6,12,30,1,1,1", "gt.txt:2: frame 9 has no image; there are 3, 1 to 3"),
        ("1,2,30,6,12,30,1,1.5,1", "gt.txt:2: expected the number of a class"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    sequence(tmp_path, "1,1,10,4,9,20,1,1,1\n" + line + "\n")
    with pytest.raises(SourceError, match=message):
        mot.read(tmp_path)


def test_text_of_another_encoding(tmp_path):
    file = sequence(tmp_path) / "gt" / "gt.txt"
    file.write_bytes(b"1,1,10,4,9,20,1,1,1\n\xff\xfe")
    with pytest.raises(SourceError, match="gt.txt:2: is not text in UTF-8"):
        mot.read(tmp_path)
    file.write_bytes(b"\xef\xbb\xbf1,1,10,4,9,20,1,1,1\n")
    assert len(mot.read(tmp_path).images[0].boxes) == 1


def test_other_bad_input(tmp_path):
    with pytest.raises(SourceError, match="No folder at"):
        mot.read(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="no sequence found"):
        mot.read(tmp_path)
    folder = sequence(tmp_path / "a")
    write(folder / "seqinfo.ini", "name=a\n")
    with pytest.raises(SourceError, match=r"seqinfo.ini: expected \[Sequence\]"):
        mot.read(tmp_path)
    write(folder / "seqinfo.ini", SEQINFO.format(name="a", length=3).replace("64", "640"))
    with pytest.raises(SourceError, match="640 x 48 pixels, found 64 x 48"):
        mot.read(tmp_path)
    shutil.rmtree(folder / "img1")
    with pytest.raises(SourceError, match="no images in .*img1"):
        mot.read(tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real footage in ../shared/data")
@pytest.mark.parametrize("name", ["mot15", "mot17_mini"])
def test_real_sequences_come_back_as_they_are_known(tmp_path, name):
    """The benchmark's layout, made again of the footage, gives the JSON that is known of it."""
    known = json.loads((SHARED / name / "annotations.json").read_text())
    with_classes = name == "mot17_mini"
    images = {entry["id"]: entry for entry in known["images"]}
    lines = defaultdict(list)
    for entry in known["annotations"]:
        x, y, w, h = entry["bbox"]
        line = [images[entry["image_id"]]["frame"], entry["track_id"], x, y, w, h, 1]
        line += [1, entry["visibility"]] if with_classes else [-1, -1, -1]
        lines[images[entry["image_id"]]["file_name"].rsplit("_", 1)[0]].append(line)
    for entry in known["images"]:
        sequence_name, number = entry["file_name"].removesuffix(".jpg").rsplit("_", 1)
        file = tmp_path / sequence_name / "img1" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(SHARED / name / "images" / entry["file_name"])
        for region in entry.get("ignore_regions", []):
            line = [entry["frame"], 900, *region, 0]
            lines[sequence_name].append(line + ([7, 1] if with_classes else [-1, -1, -1]))
    for sequence_name, rows in lines.items():
        text = "".join(",".join(f"{v:g}" for v in row) + "\n" for row in rows)
        write(tmp_path / sequence_name / "gt" / "gt.txt", text)
    partition, _ = build_partition(mot.read(tmp_path), Choices())

    def content(part):
        of_id = {entry["id"]: entry for entry in part["images"]}
        boxes = {
            (of_id[b["image_id"]]["cam_id"], of_id[b["image_id"]]["frame"], b["track_id"]): (
                b["bbox"],
                b["iou_thresh"],
            )
            for b in part["annotations"]
        }
        regions = {
            (entry["cam_id"], entry["frame"]): (
                entry["width"],
                entry["height"],
                entry.get("ignore_regions") or [],
            )
            for entry in part["images"]
        }
        return boxes, regions, len({b["person_id"] for b in part["annotations"]})

    assert content(partition) == content(known)
