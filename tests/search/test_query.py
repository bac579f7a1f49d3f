import json

import numpy as np
import pytest

from spnet_d2.search import Gallery, SearchInputError, box_warnings, clip_query_box, search
from spnet_d2.search.query import cosine_similarities


def make_gallery(embeddings, times=True):
    n = len(embeddings)
    return Gallery(
        source="v.avi",
        frame_numbers=np.array([10, 20]),
        frame_files=np.array(["v.avi"] * 2),
        frame_times=np.array([1.0, 2.0]) if times else np.full(2, np.nan),
        frame_index=np.arange(n) * 2 // max(n, 1),
        boxes=np.arange(4 * n, dtype=np.float32).reshape(n, 4) ** 1.1,
        scores=np.linspace(0.9, 0.6, n, dtype=np.float32),
        embeddings=np.asarray(embeddings, np.float32),
    )


def test_against_slow_ranking():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(50, 8)) * rng.uniform(0.1, 10, (50, 1))
    query = rng.normal(size=8) * 5
    slow = []
    for i, e in enumerate(embeddings):
        slow.append((float(np.dot(e, query) / np.linalg.norm(e) / np.linalg.norm(query)), i))
    slow.sort(key=lambda pair: -pair[0])
    gallery = make_gallery(embeddings)
    matches = search(gallery, query, topk=12)
    assert [m.rank for m in matches] == list(range(1, 13))
    np.testing.assert_allclose(
        [m.similarity for m in matches], [s for s, _ in slow[:12]], atol=1e-6
    )
    for match, (_, i) in zip(matches, slow):
        np.testing.assert_array_equal(match.box, gallery.boxes[i])
        assert match.score == pytest.approx(gallery.scores[i])
        assert match.frame == gallery.frame_numbers[gallery.frame_index[i]]

    some = search(gallery, query, topk=100, min_similarity=0.2)
    assert len(some) == sum(s >= 0.2 for s, _ in slow)
    assert len(search(gallery, query, topk=100)) == 50
    assert search(gallery, query, min_similarity=1.1) == []
    assert search(gallery, query, topk=0) == []


def test_equal_similarities_keep_the_gallery_order():
    matches = search(make_gallery([[0, 1], [1, 0], [2, 0], [1, 0]]), np.array([3.0, 0.0]))
    assert [m.score for m in matches] == sorted((m.score for m in matches[:3]), reverse=True) + [
        pytest.approx(0.9)
    ]
    assert matches[0].similarity == 1.0


def test_any_store_that_ranks_can_be_searched():
    class Backwards:
        """A store that answers from the gallery it wraps, the least similar first."""

        def __init__(self, gallery):
            self.gallery = gallery

        def rank(self, embedding, topk, min_similarity):
            return self.gallery.rank(embedding, 100, min_similarity)[::-1][:topk]

    gallery = make_gallery([[0, 1], [1, 0], [1, 1]])
    query = np.array([1.0, 0.0])
    forwards = [match.frame for match in search(gallery, query)]
    assert [match.frame for match in search(Backwards(gallery), query)] == forwards[::-1]
    assert len(search(Backwards(gallery), query, topk=2, min_similarity=0.5)) == 2


def test_broken_embeddings_are_similar_to_nothing():
    embeddings = np.array([[0, 0], [np.nan, 1], [np.inf, 0], [1, 0]], np.float32)
    assert cosine_similarities(embeddings, np.array([1.0, 0.0])).tolist() == [0, 0, 0, 1]
    assert cosine_similarities(embeddings, np.zeros(2)).tolist() == [0, 0, 0, 0]


def test_to_json():
    (match,) = search(make_gallery([[1.0, 0.0]]), np.array([1.0, 0.1]))
    values = json.loads(json.dumps(match.to_json()))
    assert values["rank"] == 1 and values["frame"] == 10 and values["time"] == 1.0
    x, y, w, h = values["box_xywh"]
    np.testing.assert_allclose(values["box_xyxy"], [x, y, x + w, y + h], atol=0.011)
    (match,) = search(make_gallery([[1.0, 0.0]], times=False), np.array([1.0, 0.1]))
    assert match.to_json()["time"] is None


def test_empty_gallery_and_other_model():
    assert search(make_gallery(np.zeros((0, 4))), np.ones(4)) == []
    with pytest.raises(SearchInputError, match="same model"):
        search(make_gallery(np.ones((2, 4))), np.ones(3))


def test_clip_query_box():
    assert clip_query_box((10, 20, 30, 40), (100, 200)) == (10, 20, 40, 60)
    assert clip_query_box((-10, 90, 30, 40), (100, 200)) == (0, 90, 20, 100)
    for box, message in (
        ((10, 20, 0, 40), "positive width and height"),
        ((10, 20, 5, -1), "positive width and height"),
        ((10, float("nan"), 5, 5), "positive width and height"),
        ((200, 20, 30, 40), "lies inside the image of 200 x 100"),
        ((-30, 20, 30.5, 40), "lies inside the image"),
    ):
        with pytest.raises(SearchInputError, match=message):
            clip_query_box(box, (100, 200))


def test_box_warnings():
    size = (100, 200)
    assert box_warnings((10, 20, 30, 40), size) == []
    assert box_warnings((-1, 20, 30, 40), size) == []
    assert box_warnings((0, 0, 200, 50), size) == []
    # x1,y1,x2,y2 given for x,y,w,h.
    (warning,) = box_warnings((100, 20, 140, 90), size)
    assert warning.startswith("37% of the box lies outside the image of 200 x 100 pixels")
    (warning,) = box_warnings((0, 1, 199, 99), size)
    assert "as large as its image" in warning
