"""The blocked scan against a sum per row."""

import numpy as np
import pytest

from spnet_d2.gallery import exact, scan
from spnet_d2.gallery.people import unit_vectors


@pytest.mark.parametrize("dimension", [1, 3, 128, 2048])
@pytest.mark.parametrize("topk", [1, 10, 1000])
def test_blocks_rank_as_rows_do(dimension, topk, monkeypatch):
    monkeypatch.setattr(scan, "_BLOCK", 4 * dimension * 7)
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
