"""Curves against slow, literal ones."""

import numpy as np
import pytest

from spnet_d2.visualization.curves import (
    cumulative_matches,
    gallery_sizes,
    precision_at_recalls,
    representative_queries,
    scores_by_gallery_size,
)
from tests.oracles.evaluation import sklearn_ap


def random_ranking(rng):
    """Few different similarities, so many ties; some of the people present are never hit."""
    count = int(rng.integers(1, 30))
    similarities = rng.integers(0, 8, count) / 8
    hits = rng.choice(count, int(rng.integers(0, count + 1)), replace=False)
    return similarities, hits, max(1, len(hits) + int(rng.integers(0, 4)))


def literal_precision(similarities, hits, present, recall):
    """Walk down the similarities until enough hits are among the boxes."""
    for limit in sorted(set(similarities), reverse=True):
        above = [i for i, s in enumerate(similarities) if s >= limit]
        found = sum(i in hits for i in above)
        if found and found / present >= recall - 1e-12:
            return found / len(above)
    return 0.0


@pytest.mark.parametrize("seed", range(30))
def test_precision_at_recalls(seed):
    rng = np.random.default_rng(seed)
    similarities, hits, present = random_ranking(rng)
    recalls = np.append(rng.uniform(0.001, 1, 20), [1e-12, 1 / present, 1.0])
    curve = precision_at_recalls(similarities, hits, present, recalls)
    expected = [literal_precision(similarities, set(hits), present, r) for r in recalls]
    assert curve == pytest.approx(expected, abs=1e-12)

    # In the middles of steps that fit the number of people, the area is the query's score.
    steps = (np.arange(4 * present) + 0.5) / (4 * present)
    area = precision_at_recalls(similarities, hits, present, steps).mean()
    labels = [int(i in set(hits)) for i in range(len(similarities))]
    expected = sklearn_ap(labels, similarities.tolist()) * len(hits) / present if len(hits) else 0.0
    assert area == pytest.approx(expected, abs=1e-12)


def test_cumulative_matches():
    ranks = np.array([0, 3, -1, 0, 2, 9])
    expected = [sum(0 <= r < k for r in ranks) / len(ranks) for k in range(1, 6)]
    assert cumulative_matches(ranks, 5) == pytest.approx(expected)
    assert cumulative_matches(np.zeros(0, int), 3).tolist() == [0, 0, 0]


def test_gallery_sizes():
    assert gallery_sizes(0).tolist() == []
    assert gallery_sizes(1).tolist() == [1]
    assert gallery_sizes(20).tolist() == [1, 2, 5, 10, 20]
    assert gallery_sizes(6111).tolist()[-4:] == [1000, 2000, 5000, 6111]


@pytest.mark.parametrize("seed", range(30))
def test_scores_by_gallery_size(seed):
    rng = np.random.default_rng(seed)
    similarities, hits, present = random_ranking(rng)
    turns = rng.integers(0, 6, len(similarities))
    turns[hits] = 0  # hits are in images that show the person
    sizes = np.array([1, 2, 5])
    scores, leads = scores_by_gallery_size(similarities, hits, present, turns, sizes)
    for size, score, lead in zip(sizes, scores, leads):
        there = [i for i in range(len(similarities)) if turns[i] <= size]
        labels = [int(i in set(hits)) for i in there]
        values = [float(similarities[i]) for i in there]
        if not any(labels):
            assert score == lead == 0
            continue
        assert score == pytest.approx(sklearn_ap(labels, values) * len(hits) / present, abs=1e-12)
        assert lead == labels[values.index(max(values))]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 20])
def test_representative_queries(size, count):
    rng = np.random.default_rng(size)
    scores, among = rng.integers(0, 5, size + 3) / 4, np.arange(size + 3) >= 3
    groups = representative_queries(scores, among, count)
    assert list(groups) == ["best", "median", "worst"]
    chosen = np.concatenate(list(groups.values()))
    assert len(set(chosen)) == len(chosen) and among[chosen].all()
    assert all(len(group) <= count for group in groups.values())
    assert len(groups["best"]) == min(count, -(-size // 3))
    if count and size:
        assert scores[groups["best"]].max() == scores[among].max()
        best, median, worst = (scores[groups[name]] for name in groups)
        assert (np.diff(best) <= 0).all() and (np.diff(worst) >= 0).all()
        if size >= 3:
            assert worst[0] == scores[among].min()
            assert best.min() >= median.max() and median.min() >= worst.max()
    if size == 7 and count == 1:
        assert scores[groups["median"][0]] == np.median(scores[among])
