import cv2
import numpy as np
import pytest

from spnet_d2.search import ImageFolder, SearchInputError, VideoFile, open_frames, read_frames
from spnet_d2.search.frames import read_picture

from .scenes import RED, draw_scene, write_video


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for name, x in (("b.JPG", 40), ("a.png", 10), ("c.bmp", 70), ("ä d.png", 100)):
        ok, data = cv2.imencode(name[-4:].lower(), draw_scene({RED: (x, 20, 20, 50)}))
        (folder / name).write_bytes(data.tobytes())
    (folder / "notes.txt").write_text("no picture")
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


def test_broken_pictures_are_skipped_and_counted(folder, caplog):
    (folder / "broken.png").write_bytes(b"\x89PNG no picture")
    (folder / "empty.jpg").write_bytes(b"")
    source = open_frames(folder)
    for _ in range(2):  # a second pass starts counting anew
        assert len(list(source)) == 4
        assert [s.rsplit("/")[-1] for s in source.skipped] == ["broken.png", "empty.jpg"]
    assert "broken.png is not a picture" in caplog.text


def test_grey_and_alpha_become_bgr(tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((4, 6), 7, np.uint8))
    cv2.imwrite(str(tmp_path / "alpha.png"), np.full((4, 6, 4), 7, np.uint8))
    for name in ("grey.png", "alpha.png"):
        image = read_picture(tmp_path / name)
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
        (tmp_path / "empty", "No pictures in .*empty"),
        (tmp_path / "text.mp4", "nor a video"),
        (folder / "a.png", "is a single picture"),
    ):
        with pytest.raises(SearchInputError, match=message):
            open_frames(path)
    with pytest.raises(SearchInputError, match="n >= 1, got 0"):
        open_frames(folder, every=0)
    with pytest.raises(SearchInputError, match="No picture at"):
        read_picture(tmp_path / "missing.png")
    with pytest.raises(SearchInputError, match="No picture at"):
        read_picture(folder)
    with pytest.raises(SearchInputError, match="No video at"):
        VideoFile(tmp_path / "missing.avi")
