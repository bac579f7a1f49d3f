"""CVAT's XML 1.1 for images and for video."""

# Lines as long as in the real files.
# ruff: noqa: E501

import cv2
import numpy as np
import pytest

from spnet_d2.data.formats.convert import Choices, SourceError, build_partition, cvat
from tests.data.formats.convert.files import boxes, image, write

META = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <id>7</id>
      <name>hall north</name>
      <size>{size}</size>
      <mode>{mode}</mode>
      <overlap>0</overlap>
      <bugtracker></bugtracker>
      <created>2024-03-01 10:00:00.000000+00:00</created>
      <updated>2024-03-02 10:00:00.000000+00:00</updated>
      <subset>default</subset>
      <start_frame>{start}</start_frame>
      <stop_frame>{stop}</stop_frame>
      <frame_filter>{filter}</frame_filter>
      <labels>
        <label>
          <name>person</name>
          <color>#ff0000</color>
          <type>any</type>
          <attributes>
          </attributes>
        </label>
      </labels>
      {size_in_task}
    </task>
    <dumped>2024-03-02 10:01:00.000000+00:00</dumped>
  </meta>
"""
ORIGINAL_SIZE = "<original_size><width>64</width><height>48</height></original_size>"
BOX = (
    '<box frame="{0}" keyframe="{1}" outside="{2}" occluded="0" xtl="{3:.2f}" ytl="4.00" '
    'xbr="{4:.2f}" ybr="34.00" z_order="0"{5}>\n    </box>'
)


def meta(mode, size=3, start=0, stop=2, filter_="", with_size=True):
    original = ORIGINAL_SIZE if with_size else ""
    return META.format(
        mode=mode, size=size, start=start, stop=stop, filter=filter_, size_in_task=original
    )


def box(frame, x, keyframe=1, outside=0, more=""):
    return BOX.format(frame, keyframe, outside, x, x + 10, more)


def track(number, *shapes, label="person"):
    inside = "\n    ".join(shapes)
    return f'<track id="{number}" label="{label}" source="manual">\n    {inside}\n  </track>\n'


def video_task(folder, *tracks, frames=(0, 1, 2), name="annotations.xml", **more):
    for frame in frames:
        image(folder / "images" / f"frame_{frame:06d}.PNG")
    more = {"size": len(frames), "start": frames[0], "stop": frames[-1]} | more
    text = meta("interpolation", **more) + "".join(tracks) + "</annotations>\n"
    return write(folder / name, text)


def places(source):
    """x of each track's boxes by frame."""
    return {
        i.frame: {b.track: round(b.bbox[0], 3) for b in i.boxes} for i in source.images if i.boxes
    }


def test_tracks_of_a_video(tmp_path):
    video_task(
        tmp_path,
        track(0, box(0, 10), box(1, 12, keyframe=0), box(2, 14, outside=1)),
        track(1, box(1, 30), box(2, 32)),
        track(2, box(1, 50), box(2, 50, outside=1)),
        track(3, '<polygon frame="0" points="1,1;2,2;3,1"></polygon>', label="bag"),
    )
    source = cvat.read(tmp_path)
    # A rectangle of one frame alone says nothing of who it is.
    assert places(source) == {0: {"0": 10}, 1: {"0": 12, "1": 30, None: 50}, 2: {"1": 32}}
    assert source.dropped == {"polygon, no rectangle": 1}
    partition, _ = build_partition(source, Choices())
    assert [b["person_id"] for b in partition["annotations"]] == [1, 1, 2, 3, 2]
    assert partition["images"][1] == {
        "id": 1,
        "file_name": "frame_000001.PNG",
        "width": 64,
        "height": 48,
        "cam_id": 0,
        "sequence": "hall north",
        "frame": 1,
    }


def test_key_frames_only_are_interpolated(tmp_path):
    frames = tuple(range(10, 31, 5))
    tracks = track(0, box(10, 10), box(25, 40), box(30, 40, outside=1)), track(1, box(10, 0))
    video_task(tmp_path, *tracks, frames=frames, filter_="step=5")
    source = cvat.read(tmp_path)
    assert [i.frame for i in source.images] == [10, 15, 20, 25, 30]
    assert places(source) == {10: {"0": 10, None: 0}, 15: {"0": 20}, 20: {"0": 30}, 25: {"0": 40}}


def test_rotation_is_about_the_centre(tmp_path):
    video_task(tmp_path, track(0, box(0, 20, more=' rotation="90.00"')))
    source = cvat.read(tmp_path)
    assert boxes(source)[0][2] == (10, 14, 30, 10)
    assert "rotated rectangles became the upright boxes around them" in source.notes


def test_frames_out_of_the_video_itself(tmp_path):
    from spnet_d2.data.formats.convert.output import _extract

    video = tmp_path / "hall.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for frame in range(4):
        writer.write(np.full((48, 64, 3), 60 * frame, np.uint8))
    writer.release()
    file = write(tmp_path / "x" / "annotations.xml", meta("interpolation", stop=3, size=4))
    file.write_text(file.read_text() + track(0, box(0, 10), box(3, 40)) + "</annotations>")
    source = cvat.read(file, video)
    partition, _ = build_partition(source, Choices(step=2))
    assert [(i["file_name"], i["time"]) for i in partition["images"]] == [
        ("frame_000000.jpg", 0),
        ("frame_000002.jpg", 0.2),
    ]
    assert [b["bbox"][0] for b in partition["annotations"]] == [10, 30]
    names = {image["frame"]: image["file_name"] for image in partition["images"]}
    _extract(video, names, tmp_path)
    shades = [cv2.imread(str(tmp_path / "images" / name)).mean() for name in names.values()]
    assert abs(shades[0]) < 3 and abs(shades[1] - 120) < 3
    with pytest.raises(SourceError, match="only 1 of the 2 frames"):
        _extract(video, {0: "a.jpg", 9: "b.jpg"}, tmp_path)
    file.write_text(file.read_text().replace("<stop_frame>3", "<stop_frame>30"))
    with pytest.raises(SourceError, match="belongs to another video"):
        cvat.read(file, video)


IMAGES = """  <image id="0" name="cam1/a.jpg" width="64" height="48">
    <box label="person" source="manual" occluded="0" xtl="1.50" ytl="2.00" xbr="11.50" ybr="32.00" z_order="0">
      <attribute name="badge">17</attribute>
    </box>
    <mask label="person" source="manual" occluded="0" rle="3, 5" left="0" top="0" width="2" height="4" z_order="0">
    </mask>
    <tag label="night" source="manual">
    </tag>
  </image>
  <image id="1" name="b.jpg" width="64" height="48">
    <box label="person" source="file" occluded="1" xtl="0.00" ytl="0.00" xbr="5.00" ybr="9.00" z_order="0">
      <attribute name="badge"></attribute>
    </box>
  </image>
</annotations>
"""


def test_images_and_attributes(tmp_path):
    image(tmp_path / "images" / "cam1" / "a.jpg")
    image(tmp_path / "images" / "b.jpg")
    write(tmp_path / "annotations.xml", meta("annotation") + IMAGES)
    source = cvat.read(tmp_path)
    assert boxes(source) == [("person", None, (1.5, 2, 10, 30), "")]
    assert source.dropped == {"mask, no rectangle": 1}
    partition, _ = build_partition(source, Choices(identity="badge"))
    assert [b["is_known"] for b in partition["annotations"]] == [True, False]
    assert [i["cam_id"] for i in partition["images"]] == [-1, -1]


def test_several_tasks_are_several_sequences(tmp_path):
    for name in ("north", "south"):
        video_task(tmp_path / name, track(0, box(0, 10), box(1, 12), box(2, 14)))
    source = cvat.read(tmp_path)
    assert [i.file_name for i in source.images][::3] == [
        "north/images/frame_000000.PNG",
        "south/images/frame_000000.PNG",
    ]
    partition, _ = build_partition(source, Choices())
    assert [b["person_id"] for b in partition["annotations"]] == [1, 1, 1, 2, 2, 2]
    partition, _ = build_partition(source, Choices(shared_ids=True))
    assert {b["person_id"] for b in partition["annotations"]} == {1}


@pytest.mark.parametrize(
    "old, new, message",
    [
        (' xtl="10.00"', "", r"annotations.xml:32: <box> lacks the attribute xtl"),
        (' xtl="10.00"', ' xtl="a"', r"annotations.xml:32: xtl of <box> must be a number"),
        ('<track id="0"', "<track", r"annotations.xml:31: <track> lacks the attribute id"),
        ("<start_frame>0</start_frame>", "", "lacks <start_frame>"),
        ("<width>64", "<width>65", "65 x 48 pixels, found 64 x 48"),
        ("</annotations>", "", "is not XML"),
    ],
)
def test_bad_files_are_named(tmp_path, old, new, message):
    file = video_task(tmp_path, track(0, box(0, 10), box(1, 12)))
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(SourceError, match=message):
        cvat.read(tmp_path)


def test_missing_frames_and_projects(tmp_path):
    file = video_task(tmp_path, track(0, box(0, 10), box(1, 12)))
    (tmp_path / "images" / "frame_000001.PNG").unlink()
    with pytest.raises(SourceError, match="no image 'frame_000001'"):
        cvat.read(tmp_path)
    source = cvat.read(tmp_path, skip_bad=True)
    assert source.dropped == {"in a frame without image": 1}
    file.write_text(file.read_text().replace("task>", "project>"))
    with pytest.raises(SourceError, match="export each task by itself"):
        cvat.read(tmp_path)
    with pytest.raises(SourceError, match="unpack the export"):
        cvat.read(tmp_path / "images")
