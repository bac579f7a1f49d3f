"""The blocked scan against a sum per row."""

import numpy as np
import pytest

from spnet_d2.gallery import exact, scan
from spnet_d2.gallery.people import unit_vectors


@pytest.fixture(params=["streamed", "widened"])
def product(request, monkeypatch):
    """Both ways of multiplying."""
    if request.param == "widened":
        monkeypatch.setattr(scan, "numkong", None)
    elif scan.numkong is None:
        pytest.skip("numkong is not installed")
    return request.param


@pytest.mark.parametrize("dimension", [1, 3, 128, 2048])
@pytest.mark.parametrize("topk", [1, 10, 1000])
def test_blocks_rank_as_rows_do(dimension, topk, product, monkeypatch):
    monkeypatch.setattr(scan, "_BLOCK", 4 * dimension * 7)
    monkeypatch.setattr(scan, "_STREAMED", 2 * dimension * 7)
    random = np.random.default_rng(dimension)
    # A third are near-duplicates, which float32 products of blocks confuse.
    rows = random.standard_normal((300, dimension))
    rows[100:200] = rows[:1] + 1e-4 * random.standard_normal((100, dimension))
    half = unit_vectors(rows).astype(np.float16)
    query = unit_vectors(rows[:1])[0]
    ids = random.permutation(300)
    blocks = [(ids[i : i + 50], half[i : i + 50]) for i in range(0, 300, 50)]
    (hits,) = scan.scan(blocks, query[None], topk)

    slow = [np.float32((row.astype(np.float64) * query).sum()) for row in half]
    order = sorted(range(300), key=lambda i: (-slow[i], ids[i]))[:topk]
    assert hits.ids.tolist() == ids[order].tolist()
    assert hits.similarities.tolist() == [slow[i] for i in order]


@pytest.mark.parametrize("dimension", [1, 3, 128, 2048])
def test_rough_similarities_are_off_by_their_error_at_most(dimension, product):
    random = np.random.default_rng(dimension)
    # Embeddings of large and of tiny numbers, for which float16 has fewer digits.
    rows = random.standard_normal((200, dimension)) * 10.0 ** random.uniform(
        -9, 0, (200, dimension)
    )
    half = unit_vectors(rows).astype(np.float16)
    queries = unit_vectors(rows[:3])
    rough = scan._product(queries)
    assert type(rough).__name__ == f"_{product.capitalize()}"
    exact = half.astype(np.float64) @ queries.T.astype(np.float64)
    assert np.abs(rough(half) - exact).max() <= rough.error


def test_many_queries_rank_as_each_alone():
    """More than are multiplied as they are read."""
    random = np.random.default_rng(0)
    half = unit_vectors(random.standard_normal((500, 16))).astype(np.float16)
    queries = unit_vectors(random.standard_normal((scan._MOST_STREAMED + 1, 16)))
    blocks = [(np.arange(500), half)]
    for query, together in zip(queries, scan.scan(blocks, queries, 20)):
        (alone,) = scan.scan(blocks, query[None], 20)
        assert alone.ids.tolist() == together.ids.tolist()
        assert alone.similarities.tolist() == together.similarities.tolist()


def test_float16_is_widened_exactly(monkeypatch):
    """Every float16 number, with and without OpenCV's function."""
    numbers = np.arange(2**16, dtype=np.uint16).view(np.float16)
    half = numbers[np.isfinite(numbers)].reshape(-1, 2)
    expected = half.astype(np.float32)
    out = np.empty_like(expected)
    assert np.array_equal(scan.widened(half, out), expected)
    monkeypatch.delattr(scan.cv2, "convertFp16", raising=False)
    out[:] = 0
    assert np.array_equal(scan.widened(half, out), expected)


def test_the_number_of_threads_changes_nothing(tmp_path, monkeypatch):
    from .conftest import SETTINGS
    from .people import made_up

    store = exact.ExactStore.create(tmp_path / "gallery", SETTINGS)
    store.add(made_up(500))
    monkeypatch.setattr(exact, "_CHUNK", 2 * 16 * 30)
    found = []
    for cores in (1, 2, 5):
        monkeypatch.setattr(exact, "_cores", lambda cores=cores: cores)
        found.append(store.search(np.ones((2, 16)) + [[0], [1]] * np.arange(16), 25))
    for hits in found[1:]:
        for one, first in zip(hits, found[0]):
            assert one.ids.tolist() == first.ids.tolist()
            assert one.similarities.tolist() == first.similarities.tolist()
    store.close()
