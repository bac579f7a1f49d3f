import os
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


def test_scene_embeddings_are_kept(tmp_path):
    predictor = make_predictor(scenes=True)
    gallery = Gallery.build(predictor, Scenes(SCENES), progress=False)
    gallery.save(tmp_path / "g.npz")
    loaded = Gallery.load(tmp_path / "g.npz")
    assert loaded.scene_fuser is None and loaded.scene_embeddings.shape == (3, 3)
    np.testing.assert_array_equal(loaded.scene_embeddings, gallery.scene_embeddings)
    assert loaded.every_nth(2).scene_embeddings.shape == (2, 3)
    # Blue alone is in the last scene, with others in the first; nobody is in the second.
    query = predictor.query(SCENES[2], (30, 40, 54, 100))
    likely = loaded.of_likely_scenes(query, 0.7)
    assert likely.frame_numbers.tolist() == [2] and len(likely) == 1
    assert loaded.of_likely_scenes(query, 0.0).num_frames == 3


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


def test_only_broken_images(tmp_path):
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(SearchInputError, match="Not one frame of"):
        Gallery.build(make_predictor(), ImageFolder(tmp_path), progress=False)


def test_skipped_images_are_reported(tmp_path, caplog):
    (tmp_path / "frames").mkdir()
    cv2.imwrite(str(tmp_path / "frames" / "b.png"), SCENES[0])
    (tmp_path / "frames" / "a.png").write_bytes(b"broken")
    gallery = Gallery.build(make_predictor(), ImageFolder(tmp_path / "frames"), progress=False)
    assert len(gallery) == 2 and gallery.frame_numbers.tolist() == [1]
    assert [s.rsplit("/")[-1] for s in gallery.skipped] == ["a.png"]
    assert "1 of 2 images could not be read" in caplog.text


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


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, scene in enumerate([*SCENES, SCENES[0]]):
        cv2.imwrite(str(folder / f"{i}.png"), scene)
    return folder


def build(folder, predictor=None, **kwargs):
    kwargs = {"progress": False, **kwargs}
    every = kwargs.pop("every", 1)
    return Gallery.build(predictor or make_predictor(), ImageFolder(folder, every), **kwargs)


def test_an_index_says_what_it_lacks(photos):
    gallery = build(photos, min_score=0.85, every=2)
    with pytest.raises(SearchInputError, match="people from a score of 0.85 on.*index .*photos"):
        gallery.above(0.3)
    assert len(gallery.above(0.9)) < len(gallery)
    with pytest.raises(SearchInputError, match="must be a multiple of 2, found 3"):
        gallery.every_nth(3)
    assert gallery.every_nth(2).frame_numbers.tolist() == [0, 2]


def test_every_nth_is_what_indexing_gives(photos, tmp_path):
    build(photos).save(tmp_path / "g.npz")
    thinned, made = Gallery.load(tmp_path / "g.npz").every_nth(3), build(photos, every=3)
    for name in ("frame_numbers", "frame_files", "frame_index", "boxes", "frame_stamps"):
        np.testing.assert_array_equal(getattr(thinned, name), getattr(made, name))
    assert thinned.every == made.every == 3
    thinned.save(tmp_path / "again.npz")
    assert len(Gallery.load(tmp_path / "again.npz")) == len(made)


def test_other_settings_are_named(photos):
    gallery = build(photos, make_predictor(settings={"INPUT.MIN_SIZE_TEST": 864}))
    gallery.check_settings(make_predictor(settings={"INPUT.MIN_SIZE_TEST": 864}), "g.npz")
    with pytest.raises(SearchInputError, match=r"made with INPUT.MIN_SIZE_TEST 864 \(now 288\);"):
        gallery.check_settings(make_predictor(settings={"INPUT.MIN_SIZE_TEST": 288}), "g.npz")
    with pytest.raises(SearchInputError, match=r"made with exact_8bit False \(now True\)"):
        build(photos).check_settings(make_predictor(exact_8bit=True), "g.npz")


def test_an_index_moves_with_its_images(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build("photos").save("index/g.npz")
    monkeypatch.chdir("/")
    (file, *_) = Gallery.load(tmp_path / "index" / "g.npz").frame_files
    assert file == str(photos / "0.png")
    (tmp_path / "elsewhere").mkdir()
    photos.rename(tmp_path / "elsewhere" / "photos")
    (tmp_path / "index").rename(tmp_path / "elsewhere" / "index")
    moved = Gallery.load(tmp_path / "elsewhere" / "index" / "g.npz")
    assert moved.frame_files[0] == str(tmp_path / "elsewhere" / "photos" / "0.png")
    assert moved.changed_since(0) == ""


def test_changed_and_missing_images_are_noticed(photos):
    gallery = build(photos)
    places = list(zip(gallery.frame_files.tolist(), gallery.frame_numbers.tolist()))
    (photos / "0.png").unlink()
    data = bytearray((photos / "1.png").read_bytes())
    data[-20] ^= 1  # the same size
    (photos / "1.png").write_bytes(data)
    os.utime(photos / "2.png", (1, 1))  # copied, but the same
    found = dict(gallery.read_again(places))
    assert "not there any more" in str(found[places[0]])
    assert "changed since it was indexed" in str(found[places[1]])
    np.testing.assert_array_equal(found[places[2]], SCENES[2])


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("error", [Interrupted, KeyboardInterrupt])
def test_a_stopped_index_is_gone_on_with(photos, tmp_path, error, caplog):
    class Stopping:
        def __init__(self, frames):
            self.predictor, self.left, self.seen = make_predictor(), frames, 0

        def detect(self, images, query=None):
            if self.left == 0:
                raise error
            self.left -= 1
            self.seen += 1
            return self.predictor.detect(images, query)

        def __getattr__(self, name):
            return getattr(self.predictor, name)

    kept = tmp_path / "unfinished.npz"
    with pytest.raises(error):
        build(photos, Stopping(3), unfinished=kept)
    assert "3 frames; they are kept in" in caplog.text and kept.is_file()
    second = Stopping(99)
    gallery = build(photos, second, unfinished=kept)
    assert second.seen == 1 and not kept.exists()
    whole = build(photos)
    for name in ("frame_numbers", "frame_files", "frame_index", "boxes", "scores", "embeddings"):
        np.testing.assert_array_equal(getattr(gallery, name), getattr(whole, name))

    # Begun with something else: all of it again.
    for change in ("score", "file"):
        with pytest.raises(error):
            build(photos, Stopping(2), unfinished=kept)
        if change == "file":
            cv2.imwrite(str(photos / "00.png"), SCENES[1])
        second = Stopping(99)
        score = 0.6 if change == "score" else 0.5
        build(photos, second, unfinished=kept, min_score=score)
        assert second.seen == len(list(photos.iterdir()))


def test_older_versions_are_told(photos, tmp_path):
    build(photos).save(tmp_path / "g.npz")
    arrays = dict(np.load(tmp_path / "g.npz"))
    del arrays["version"], arrays["min_score"]
    np.savez(tmp_path / "g.npz", **arrays)
    with pytest.raises(SearchInputError, match="version 1 .* reads version 2. Build it again"):
        Gallery.load(tmp_path / "g.npz")


def test_names_that_are_no_utf8(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    data = cv2.imencode(".png", SCENES[0])[1].tobytes()
    name = os.fsencode(folder) + b"/photo\xe9.png"
    with open(name, "wb") as file:
        file.write(data)
    build(folder).save(tmp_path / "g.npz")
    loaded = Gallery.load(tmp_path / "g.npz")
    assert os.fsencode(str(loaded.frame_files[0])) == name and loaded.changed_since(0) == ""
