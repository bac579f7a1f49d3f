from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from spnet_d2.data.own_images import is_own_image, write_own_image
from spnet_d2.search import (
    ImageFolder,
    SearchInputError,
    VideoFile,
    frames,
    open_frames,
    read_frames,
)
from spnet_d2.search.frames import describe_left_out, read_image_bgr

from .scenes import RED, draw_scene, write_video


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for name, x in (("b.JPG", 40), ("a.png", 10), ("c.bmp", 70), ("ä d.png", 100)):
        ok, data = cv2.imencode(name[-4:].lower(), draw_scene({RED: (x, 20, 20, 50)}))
        (folder / name).write_bytes(data.tobytes())
    (folder / "notes.txt").write_text("no image")
    (folder / "sub.png").mkdir()
    return folder


def test_folder_is_sorted_and_filtered(folder):
    source = open_frames(folder)
    frames = list(source)
    assert len(source) == len(frames) == 4
    assert [f.file.rsplit("/")[-1] for f in frames] == ["a.png", "b.JPG", "c.bmp", "ä d.png"]
    assert [f.number for f in frames] == [0, 1, 2, 3] and frames[0].time is None
    assert frames[0].image.shape == (120, 160, 3)
    assert [f.number for f in ImageFolder(folder, every=3)] == [0, 3]
    again = read_frames([(frames[2].file, 2)])
    np.testing.assert_array_equal(again[frames[2].file, 2], frames[2].image)


def test_broken_images_are_skipped_and_counted(folder, caplog):
    (folder / "broken.png").write_bytes(b"\x89PNG no image")
    (folder / "empty.jpg").write_bytes(b"")
    source = open_frames(folder)
    for _ in range(2):  # a second pass starts counting anew
        assert len(list(source)) == 4
        assert [s.rsplit("/")[-1] for s in source.skipped] == ["broken.png", "empty.jpg"]
    assert "broken.png is not an image" in caplog.text


def test_grey_and_alpha_become_bgr(tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((4, 6), 7, np.uint8))
    cv2.imwrite(str(tmp_path / "alpha.png"), np.full((4, 6, 4), 7, np.uint8))
    for name in ("grey.png", "alpha.png"):
        image = read_image_bgr(tmp_path / name)
        assert image.shape == (4, 6, 3) and image.dtype == np.uint8


def test_video(tmp_path):
    images = [draw_scene({RED: (5 * i, 20, 20, 50)}) for i in range(12)]
    path = write_video(tmp_path / "v.avi", images, fps=4)
    source = open_frames(path, every=5)
    frames = list(source)
    assert len(source) == len(frames) == 3
    assert [f.number for f in frames] == [0, 5, 10]
    assert [f.time for f in frames] == [0.0, 1.25, 2.5]
    # JPEG frames differ a little.
    for frame in frames:
        assert np.abs(frame.image.astype(int) - images[frame.number]).mean() < 4
    again = read_frames([(path, 5), (path, 10), (path, 5)])
    assert set(again) == {(path, 5), (path, 10)}
    np.testing.assert_array_equal(again[path, 5], frames[1].image)
    with pytest.raises(SearchInputError, match="has no frame 99"):
        read_frames([(path, 99)])


def test_cut_off_video_keeps_what_is_readable(tmp_path, caplog):
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (30, 120, 160, 3), dtype=np.uint8))
    path = write_video(tmp_path / "v.avi", images)
    data = open(path, "rb").read()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    frames = list(VideoFile(tmp_path / "cut.avi"))
    assert 5 < len(frames) < 30


def test_clear_errors(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    for path, message in (
        (tmp_path / "missing", "No gallery at"),
        (tmp_path / "empty", "No images in .*empty"),
        (tmp_path / "text.mp4", "nor a video"),
        (folder / "a.png", "is a single image"),
    ):
        with pytest.raises(SearchInputError, match=message):
            open_frames(path)
    with pytest.raises(SearchInputError, match="n >= 1, got 0"):
        open_frames(folder, every=0)
    with pytest.raises(SearchInputError, match="No image at"):
        read_image_bgr(tmp_path / "missing.png")
    with pytest.raises(SearchInputError, match="No image at"):
        read_image_bgr(folder)
    with pytest.raises(SearchInputError, match="No video at"):
        VideoFile(tmp_path / "missing.avi")


def names(source):
    return [f.file.rsplit("/")[-1] for f in source]


def test_natural_order(tmp_path):
    for number in (10, 2, 1, 100):
        cv2.imwrite(str(tmp_path / f"frame{number}.png"), draw_scene({}))
    source = open_frames(tmp_path)
    assert names(source) == ["frame1.png", "frame2.png", "frame10.png", "frame100.png"]
    assert names(open_frames(tmp_path, every=3)) == ["frame1.png", "frame100.png"]


def test_every_suffix_that_can_be_decoded(tmp_path):
    data = cv2.imencode(".jpg", draw_scene({}))[1].tobytes()
    for name in ("a.jpg", "b.JPE", "c.jfif"):
        (tmp_path / name).write_bytes(data)
    cv2.imwrite(str(tmp_path / "d.jp2"), draw_scene({}))
    Image.fromarray(draw_scene({})).save(tmp_path / "e.GIF")
    source = open_frames(tmp_path)
    assert names(source) == ["a.jpg", "b.JPE", "c.jfif", "d.jp2", "e.GIF"]
    assert source.left_out == {} and source.skipped == []


@pytest.mark.parametrize("name", ["search.png", "preview.jpg"])
def test_own_images_are_known_and_readable(tmp_path, name):
    scene = draw_scene({RED: (20, 30, 20, 50)})
    write_own_image(tmp_path / name, scene)
    assert is_own_image(tmp_path / name)
    assert np.abs(read_image_bgr(tmp_path / name).astype(int) - scene).mean() < 2
    cv2.imwrite(str(tmp_path / f"other_{name}"), scene)
    assert not is_own_image(tmp_path / f"other_{name}")


def test_what_is_left_out_is_told(folder):
    (folder / "more.txt").write_text("")
    (folder / "v.mp4").write_text("")
    (folder / "gone.jpg").symlink_to(folder / "unmounted" / "gone.jpg")
    write_own_image(folder / "search.png", draw_scene({}))
    (folder / "moved elsewhere.png").write_bytes((folder / "search.png").read_bytes())
    source = ImageFolder(folder, exclude=[folder / "a.png"])
    assert names(source) == ["b.JPG", "c.bmp", "ä d.png"]
    assert source.left_out == {
        "dangling links": 1,
        "images drawn by these tools": 3,
        "other files (.txt)": 2,
        "sub-folders": 1,
        "videos (.mp4)": 1,
    }
    assert describe_left_out(source.left_out) == (
        "1 dangling link, 3 images drawn by these tools, 2 other files (.txt), 1 sub-folder, "
        "1 video (.mp4)"
    )


def test_folders_without_images_say_what_is_there(tmp_path):
    (tmp_path / "day1").mkdir()
    with pytest.raises(SearchInputError, match="1 sub-folder. Sub-folders are not searched: give"):
        open_frames(tmp_path)
    (tmp_path / "v.mp4").write_text("")
    with pytest.raises(SearchInputError, match="Videos in a folder are not searched"):
        open_frames(tmp_path)


@pytest.mark.parametrize("address", ["rtsp://10.0.0.1/stream", "http://camera/video.mjpg"])
def test_streams_are_not_supported(address):
    for path in (address, Path(address)):
        with pytest.raises(SearchInputError, match="is a stream .* not supported: record it"):
            open_frames(path)


def test_frames_that_are_done_are_not_read_again(folder, tmp_path):
    assert [f.number for f in ImageFolder(folder).frames(done={0, 2})] == [1, 3]
    path = write_video(tmp_path / "v.avi", [draw_scene({})] * 6)
    assert [f.number for f in VideoFile(path, every=2).frames(done={2})] == [0, 4]


def test_one_file_is_read_once_for_several_matches(folder, monkeypatch):
    read = []
    monkeypatch.setattr(frames, "read_image_bgr", lambda path: read.append(path) or draw_scene({}))
    wanted = [(str(folder / "a.png"), 0)] * 3 + [(str(folder / "b.JPG"), 1)]
    assert len(read_frames(wanted)) == 2 and len(read) == 2


def test_damaged_jpeg_is_skipped(tmp_path):
    pytest.importorskip("simplejpeg", reason="simplejpeg is not installed (extra jpeg)")
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    data = bytearray(cv2.imencode(".jpg", image)[1].tobytes())
    (tmp_path / "a.jpg").write_bytes(data)
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(range(1, 201)) * 2
    (tmp_path / "b.jpg").write_bytes(data)
    source = ImageFolder(tmp_path)
    assert names(source) == ["a.jpg"] and len(source.skipped) == 1
