import tracemalloc

import cv2
import numpy as np
import pytest

from spnet_d2.search import Frame, Gallery, ImageFolder, SearchInputError, VideoFile

from .scenes import BLUE, RED, draw_scene, make_predictor, write_video


class Scenes:
    """A source of frames in memory."""

    name = "scenes"

    def __init__(self, images):
        self.images = images
        self.skipped = []

    def __len__(self):
        return len(self.images)

    def __iter__(self):
        for number, image in enumerate(self.images):
            yield Frame(number, "scenes.avi", number / 2, image)


SCENES = [
    draw_scene({RED: (20, 30, 20, 50), BLUE: (100, 40, 24, 60)}),
    draw_scene({}),
    draw_scene({BLUE: (30, 40, 24, 60)}),
]


def test_build_save_load(tmp_path):
    gallery = Gallery.build(make_predictor(), Scenes(SCENES), progress=False)
    assert len(gallery) == 3 and gallery.num_frames == 3
    assert gallery.frame_index.tolist() == [0, 0, 2]
    assert gallery.frame_times.tolist() == [0.0, 0.5, 1.0]
    assert gallery.boxes.dtype == gallery.scores.dtype == gallery.embeddings.dtype == np.float32
    assert gallery.embeddings.shape == (3, 3)

    gallery.save(tmp_path / "sub" / "gallery.npz")
    loaded = Gallery.load(tmp_path / "sub" / "gallery.npz")
    assert loaded.source == "scenes" and loaded.fingerprint == make_predictor().fingerprint
    for name in ("frame_numbers", "frame_files", "frame_times", "frame_index", "skipped"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(gallery, name))
    for name in ("boxes", "scores", "embeddings"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(gallery, name))


def test_min_score():
    surest = Gallery.build(make_predictor(), Scenes(SCENES), min_score=0.85, progress=False)
    everyone = Gallery.build(make_predictor(), Scenes(SCENES), progress=False)
    assert surest.frame_index.tolist() == everyone.above(0.85).frame_index.tolist() == [0, 2]
    np.testing.assert_array_equal(surest.boxes, everyone.above(0.85).boxes)


def test_nobody_found(tmp_path):
    gallery = Gallery.build(make_predictor(), Scenes([draw_scene({})] * 2), progress=False)
    gallery.save(tmp_path / "g.npz")
    gallery = Gallery.load(tmp_path / "g.npz")
    assert len(gallery) == 0 and gallery.num_frames == 2
    assert gallery.boxes.shape == (0, 4) and gallery.embeddings.shape == (0, 3)


def test_only_broken_pictures(tmp_path):
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(SearchInputError, match="Not one frame of"):
        Gallery.build(make_predictor(), ImageFolder(tmp_path), progress=False)


def test_skipped_pictures_are_reported(tmp_path, caplog):
    (tmp_path / "frames").mkdir()
    cv2.imwrite(str(tmp_path / "frames" / "b.png"), SCENES[0])
    (tmp_path / "frames" / "a.png").write_bytes(b"broken")
    gallery = Gallery.build(make_predictor(), ImageFolder(tmp_path / "frames"), progress=False)
    assert len(gallery) == 2 and gallery.frame_numbers.tolist() == [1]
    assert [s.rsplit("/")[-1] for s in gallery.skipped] == ["a.png"]
    assert "1 of 2 pictures could not be read" in caplog.text


def test_frames_are_not_kept(tmp_path):
    path = write_video(tmp_path / "v.avi", [SCENES[0]] * 60)
    frame_bytes = SCENES[0].nbytes
    predictor = make_predictor()
    tracemalloc.start()
    try:
        gallery = Gallery.build(predictor, VideoFile(path), progress=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert gallery.num_frames == 60
    assert peak < 30 * frame_bytes


def test_load_errors(tmp_path):
    with pytest.raises(SearchInputError, match="No gallery file at"):
        Gallery.load(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("text")
    np.savez(tmp_path / "other.npz", boxes=np.zeros((1, 4)))
    with open(tmp_path / "array.npz", "wb") as file:
        np.save(file, np.zeros(3))
    for name in ("text.npz", "other.npz", "array.npz"):
        with pytest.raises(SearchInputError, match="not a gallery"):
            Gallery.load(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("scores", lambda scores: scores[:-1]),
        ("scores", lambda scores: scores[0]),
        ("boxes", lambda boxes: boxes[:, :3]),
        ("embeddings", lambda embeddings: embeddings.astype(str)),
        ("embeddings", lambda embeddings: embeddings.ravel()),
        ("frame_index", lambda index: index + 99),
        ("frame_index", lambda index: index - 1),
        ("frame_index", lambda index: index.astype(float)),
        ("frame_times", lambda times: times[:-1]),
        ("source", lambda source: np.array([str(source)])),
    ],
)
def test_parts_that_do_not_fit_together(tmp_path, name, change):
    Gallery.build(make_predictor(), Scenes(SCENES), progress=False).save(tmp_path / "g.npz")
    arrays = dict(np.load(tmp_path / "g.npz"))
    arrays[name] = change(arrays[name])
    np.savez(tmp_path / "changed.npz", **arrays)
    with pytest.raises(SearchInputError, match="changed.npz is not a gallery"):
        Gallery.load(tmp_path / "changed.npz")
