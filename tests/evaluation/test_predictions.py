import zipfile

import numpy as np
import pytest

from spnet_d2.evaluation import Predictions


def some_predictions(**changes):
    rng = np.random.default_rng(0)
    arrays = {
        "image_ids": np.array([3, 3, 8]),
        "boxes": rng.uniform(0, 9, (3, 4)).astype(np.float32),
        "scores": np.array([0.9, 0.5, 0.7], np.float32),
        "embeddings": rng.standard_normal((3, 5)).astype(np.float16),
        "gt_annotation_ids": np.array([11, 7]),
        "gt_embeddings": rng.standard_normal((2, 5)).astype(np.float32),
    }
    return Predictions(**(arrays | changes))


def assert_equal(a, b):
    assert a.made_by == b.made_by
    for name, left in a.arrays().items():
        right = getattr(b, name)
        if left is None:
            assert right is None
        else:
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("queries", [None, np.array([7, 11, 7])])
def test_file_gives_back_what_was_saved(tmp_path, mmap, queries):
    predictions = some_predictions(query_annotation_ids=queries, made_by="0123456789abcdef")
    path = tmp_path / "new folder" / "predictions.npz"
    predictions.save(path)
    loaded = Predictions.load(path, mmap)
    assert_equal(predictions, loaded)
    assert isinstance(loaded.embeddings, np.memmap) == mmap
    assert loaded.is_query_centric == (queries is not None)
    assert [p.name for p in path.parent.iterdir()] == ["predictions.npz"]


def test_no_detections_and_compressed_and_extra_arrays(tmp_path):
    predictions = some_predictions(
        image_ids=np.zeros(0, int),
        boxes=np.zeros((0, 4)),
        scores=np.zeros(0),
        embeddings=np.zeros((0, 0), np.float32),
    )
    path = tmp_path / "p.npz"
    predictions.save(path)
    assert_equal(predictions, Predictions.load(path))
    arrays = {name: array for name, array in predictions.arrays().items() if array is not None}
    np.savez_compressed(path, **arrays, comment=np.array("another model"))
    assert_equal(predictions, Predictions.load(path))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"image_ids": np.zeros(3)}, r"image_ids must be \(N,\) integers, found float64 \(3,\)"),
        ({"scores": None}, "scores must be .* found NoneType"),
        ({"boxes": np.zeros((3, 5))}, r"boxes must be \(N, 4\), found \(3, 5\)"),
        ({"scores": np.zeros(2)}, "equally long, found .*'scores': 2"),
        ({"query_annotation_ids": np.zeros(1, int)}, "equally long"),
        ({"gt_embeddings": np.zeros((2, 6))}, "same size D, found 5 and 6"),
        ({"gt_embeddings": np.zeros((1, 5))}, "2 gt_annotation_ids but 1 gt_embeddings"),
        ({"gt_annotation_ids": np.array([7, 7])}, "gt_annotation_ids must be unique"),
        ({"embeddings": np.zeros((3, 5), object)}, "embeddings must be .* found object"),
    ],
)
def test_arrays_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        some_predictions(**changes)


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(FileNotFoundError, match="No predictions file at .*nowhere.npz"):
        Predictions.load(tmp_path / "nowhere.npz")
    path = tmp_path / "p.npz"
    np.savez(path, boxes=np.zeros((0, 4)))
    with pytest.raises(ValueError, match="it lacks image_ids, scores, embeddings"):
        Predictions.load(path)
    path.write_bytes(b"not an archive")
    with pytest.raises(
        ValueError, match="cannot be used as predictions: .* an .npz file with image_ids"
    ):
        Predictions.load(path)
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(
        ValueError, match="cannot be used as predictions: .* an .npz file with image_ids"
    ):
        Predictions.load(tmp_path / "single.npy")
    some_predictions().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        ValueError, match="cannot be used as predictions: .* an .npz file with image_ids"
    ):
        Predictions.load(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_any_damage_to_a_file_is_one_kind_of_error(tmp_path, save):
    """zipfile, zlib and numpy report damage in a dozen ways, or not at all in plain numbers."""
    whole, path = tmp_path / "whole.npz", tmp_path / "damaged.npz"
    save(whole, **{k: v for k, v in vars(some_predictions()).items() if v is not None})
    content, rng = whole.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), rng.choice([1, 5, 50])):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            Predictions.load(path)
        except ValueError as error:
            assert str(error).startswith(f"{path} cannot be used as predictions: ")
            refused += 1
    assert refused > 200


def test_what_is_no_archive_is_not_taken_for_pickles(tmp_path):
    path = tmp_path / "test.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match="it is no archive of arrays"):
        Predictions.load(path)


def test_an_array_cut_short_is_not_filled_up_from_the_next_one(tmp_path):
    whole, cut = tmp_path / "whole.npz", tmp_path / "cut.npz"
    some_predictions().save(whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(cut, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content[:-8] if name == "embeddings.npy" else content)
    with pytest.raises(ValueError, match="8 bytes at the end of embeddings are missing"):
        Predictions.load(cut)


def test_the_model_is_named_by_one_text(tmp_path):
    some_predictions().save(tmp_path / "p.npz")
    assert Predictions.load(tmp_path / "p.npz").made_by == ""
    arrays = {k: v for k, v in some_predictions().arrays().items() if v is not None}
    for wrong in (np.array(["a", "b"]), np.array(3)):
        np.savez(tmp_path / "p.npz", **arrays, made_by=wrong)
        with pytest.raises(ValueError, match="made_by must be one text, found"):
            Predictions.load(tmp_path / "p.npz")
