"""Times are the container's. The files are written here, byte by byte where OpenCV can't."""

import struct

import cv2
import numpy as np
import pytest

from spnet_d2.data.video_reader import UnreadableVideoError, VideoReader

TIMES = [0, 100, 200, 300, 400, 1000, 1100, 2000, 3500, 5000, 6000, 7000]


def jpegs(number):
    images = [np.full((48, 64, 3), 20 * i, np.uint8) for i in range(number)]
    return [cv2.imencode(".jpg", image)[1].tobytes() for image in images]


def element(name: str, content: bytes) -> bytes:
    """An EBML element: name, length in eight bytes, content."""
    return bytes.fromhex(name) + b"\x01" + len(content).to_bytes(7, "big") + content


def integer(name: str, value: int) -> bytes:
    return element(name, value.to_bytes(4, "big"))


def write_mkv(path, times, duration=None):
    """Matroska of JPEG frames at the given milliseconds."""
    head = element("1A45DFA3", element("4282", b"matroska") + integer("4287", 4))
    info = integer("2AD7B1", 1_000_000)
    if duration is not None:
        info += element("4489", struct.pack(">d", duration))
    frame_image = element("E0", integer("B0", 64) + integer("BA", 48))
    track = integer("D7", 1) + integer("73C5", 1) + integer("83", 1) + element("86", b"V_MJPEG")
    tracks = element("1654AE6B", element("AE", track + frame_image))
    clusters = b"".join(
        element(
            "1F43B675",
            integer("E7", time) + element("A3", b"\x81" + struct.pack(">hB", 0, 0x80) + jpeg),
        )
        for time, jpeg in zip(times, jpegs(len(times)))
    )
    content = element("1549A966", info) + tracks + clusters
    path.write_bytes(head + element("18538067", content))
    return path


def write_avi(path, number, fps=5):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, (64, 48))
    # Noise, which takes more of the file than its head.
    for image in np.random.default_rng(0).integers(0, 256, (number, 48, 64, 3), dtype=np.uint8):
        writer.write(image)
    writer.release()
    return path


def test_variable_frame_rate(tmp_path):
    reader = VideoReader(write_mkv(tmp_path / "v.mkv", TIMES, duration=7100))
    frames = list(reader.frames())
    assert [round(1000 * frame.time) for frame in frames] == TIMES
    assert [frame.number for frame in frames] == list(range(12))
    # Number and end are made of the duration, so neither tells of damage.
    assert reader.num_frames == 0 and reader.problem == ""
    some = list(reader.frames(lambda number: number % 5 == 1))
    assert [(f.number, round(1000 * f.time)) for f in some] == [(1, 100), (6, 1100), (11, 7000)]
    np.testing.assert_allclose(some[1].image, 120, atol=6)


def test_constant_frame_rate(tmp_path):
    reader = VideoReader(write_avi(tmp_path / "v.avi", 12))
    assert reader.num_frames == 12
    assert [frame.time for frame in reader.frames()] == pytest.approx([i / 5 for i in range(12)])
    assert reader.problem == ""


def test_files_without_times(tmp_path):
    """FFmpeg makes up 25 frames a second."""
    (tmp_path / "v.mjpeg").write_bytes(b"".join(jpegs(6)))
    reader = VideoReader(tmp_path / "v.mjpeg")
    frames = list(reader.frames())
    assert len(frames) == 6 and [frame.time for frame in frames] == [None] * 6
    assert reader.num_frames == 0 and reader.problem == ""


def test_damage_is_told(tmp_path):
    data = write_mkv(tmp_path / "v.mkv", TIMES, duration=7100).read_bytes()
    (tmp_path / "v.mkv").write_bytes(data[: len(data) // 2])
    reader = VideoReader(tmp_path / "v.mkv")
    assert 2 < len(list(reader.frames())) < 9
    assert "of the 7.1 s that its header announces" in reader.problem

    data = write_avi(tmp_path / "v.avi", 30).read_bytes()
    (tmp_path / "v.avi").write_bytes(data[: len(data) // 2])
    reader = VideoReader(tmp_path / "v.avi")
    found = len(list(reader.frames()))
    assert 0 < found < 30
    assert f"read {found} of the 30 frames that its header announces" in reader.problem


def test_what_is_no_video(tmp_path):
    with pytest.raises(FileNotFoundError, match="No video at"):
        VideoReader(tmp_path / "missing.avi")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UnreadableVideoError, match=r"can't read .*text\.mp4 as a video"):
        VideoReader(tmp_path / "text.mp4")
