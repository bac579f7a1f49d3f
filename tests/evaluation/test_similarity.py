"""Similarities: equal embeddings tie whatever library multiplies them, and any length will do."""

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from spnet_d2.evaluation import similarity
from spnet_d2.evaluation.gallery import GalleryBoxes
from spnet_d2.evaluation.similarity import RowKeys, cosine_source, rowwise_cosine_source, unit_rows


def boxes_of(images, query_index=None):
    count = len(images)
    return GalleryBoxes(
        images, np.zeros((count, 4)), np.ones(count), np.arange(count)[::-1], query_index
    )


@pytest.mark.parametrize("kind", ["dense", "sparse", "rowwise"])
@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_equal_embeddings_have_equal_similarities(kind, dtype, monkeypatch):
    """Sizes at which matrix products of the usual libraries differ from column to column."""
    monkeypatch.setattr(similarity, "CHUNK_ROWS", 16)
    rng = np.random.default_rng(0)
    distinct = rng.standard_normal((3, 101))
    which = rng.integers(0, 3, 150)
    embeddings = distinct[which].astype(dtype)
    queries = unit_rows(rng.standard_normal((5, 101)), np.arange(5))
    boxes = boxes_of(np.sort(rng.integers(0, 40, 150)))
    keys = RowKeys.of(embeddings)
    assert (len(np.unique(keys.keys)), keys.unusable) == (3, 0)
    if kind == "rowwise":
        source = rowwise_cosine_source(queries, np.arange(150) % 5, embeddings, boxes)
        found = list(source(lambda query: np.flatnonzero(np.arange(150) % 5 == query)))
    else:
        share = 1.0 if kind == "dense" else 0.0
        source = cosine_source(queries, embeddings, keys.keys, boxes, share)
        found = list(source(lambda query: np.arange(150)))
    for query, (pool, values) in zip(queries.astype(float), found):
        of = which[boxes.rows[pool]]
        for number in range(3):
            assert len(set(values[of == number].tolist())) == 1
            vector = distinct[number].astype(dtype).astype(float)
            exact = query @ vector / np.linalg.norm(vector)
            assert values[of == number][0] == pytest.approx(exact, abs=1e-6)


def test_small_products_take_one_thread(monkeypatch):
    """With more, each waits for the others: on a busy machine fifty times as long."""
    threads = []

    def spy(embeddings, rows):
        pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
        threads.extend(pool["num_threads"] for pool in pools)
        return unit_rows(embeddings, rows)

    monkeypatch.setattr(similarity, "unit_rows", spy)
    embeddings = np.random.default_rng(0).standard_normal((20, 4))
    keys = RowKeys.of(embeddings).keys
    source = cosine_source(
        unit_rows(embeddings, np.arange(3)), embeddings, keys, boxes_of(np.arange(20) // 3), 0.0
    )
    with threadpool_limits(2, "blas"):
        assert len(list(source(lambda query: np.arange(20)))) == 3
        assert threads and set(threads) == {1}
        assert {p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"} == {2}


@pytest.mark.parametrize("factor", [1e-300, 1e-30, 1e-12, 1.0, 1e12, 1e25, 1e250])
def test_length_of_an_embedding_means_nothing(factor):
    embeddings = np.array([[3.0, 4.0], [0.0, -2.0], [1.0, 1.0]]) * factor
    expected = [[0.6, 0.8], [0, -1], [0.5**0.5, 0.5**0.5]]
    np.testing.assert_allclose(unit_rows(embeddings, np.arange(3)), expected, atol=1e-6)
    if 1e-38 < factor < 1e38:
        embeddings = embeddings.astype(np.float32)
        before = embeddings.copy()
        np.testing.assert_allclose(unit_rows(embeddings, np.arange(3)), expected, atol=1e-6)
        np.testing.assert_array_equal(embeddings, before)


def test_rows_without_a_direction():
    embeddings = np.array([[0, 0], [np.nan, 1], [np.inf, 1], [-np.inf, np.inf], [0, 5]], np.float16)
    vectors = unit_rows(embeddings, np.array([4, 3, 2, 1, 0]))
    np.testing.assert_array_equal(vectors, [[0, 1], [0, 0], [0, 0], [0, 0], [0, 0]])
    assert RowKeys.of(embeddings).unusable == 3


def test_rows_with_the_same_hash_are_compared(monkeypatch):
    monkeypatch.setattr(similarity, "hash", lambda content: 1, raising=False)
    embeddings = np.array([[1, 2], [1, 3], [1, 2], [4, 4]], np.float32)
    assert RowKeys.of(embeddings).keys.tolist() == [0, 1, 0, 3]
