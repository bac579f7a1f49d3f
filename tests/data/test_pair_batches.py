"""Batches of pairs of images that share a person."""

from collections import Counter

import numpy as np
import pytest

from spnet_d2.data.pair_batches import PairBatchSampler, cover_with_pairs, deal_out_pairs


def dicts_of(people):
    """Dataset dicts with the given known identities; -1 is somebody unknown."""
    return [{"annotations": [{"identity": i} for i in identities]} for identities in people]


def pairs_of(sampler):
    return [
        [tuple(slot.index for slot in batch[i : i + 2]) for i in range(0, len(batch), 2)]
        for batch in sampler
    ]


@pytest.fixture(params=range(4))
def people(request):
    """Identities of 60 images: nobody, someone alone, couples, chains and a crowd."""
    rng = np.random.default_rng(request.param)
    found = [[], [-1], [0], [1], [1, -1], [2, 2], [2]]
    found += [[3 + i, 4 + i] for i in range(7)]
    found += [rng.integers(20, 30, rng.integers(1, 4)).tolist() for _ in range(46)]
    order = rng.permutation(len(found))
    return [found[i] for i in order]


def component_of(people):
    """Number of each image's component, by spreading labels until nothing changes."""
    labels = list(range(len(people)))
    while True:
        before = list(labels)
        for i, a in enumerate(people):
            for j, b in enumerate(people):
                if {x for x in a if x >= 0} & set(b):
                    labels[i] = labels[j] = min(labels[i], labels[j])
        if labels == before:
            return labels


def known(people):
    return [[i for i in identities if i >= 0] for identities in people]


def test_pairs_cover_everything_and_share_a_person(people):
    components = cover_with_pairs(known(people), np.random.default_rng(0))
    labels = component_of(people)
    sizes = Counter(labels)
    seen = Counter()
    for pairs in components:
        assert len({labels[i] for pair in pairs for i in pair}) == 1
        covered = set()
        for a, b in pairs:
            # A greedy cover: no pair without an image that had no partner yet.
            assert not {a, b} <= covered
            covered |= {a, b}
            if sizes[labels[a]] == 1:
                assert a == b and len(pairs) == 1
            else:
                assert a != b and set(known(people)[a]) & set(known(people)[b])
        seen.update(covered)
    assert sorted(seen) == list(range(len(people)))
    # Of 60 images 3 are alone; half as many pairs as images would be perfect.
    assert sum(map(len, components)) <= 0.62 * len(people)


def test_couples_are_their_one_edge():
    found = cover_with_pairs([[0], [1], [0], [1]], np.random.default_rng(0))
    assert sorted(tuple(sorted(pair)) for pairs in found for pair in pairs) == [(0, 2), (1, 3)]


def test_batches_are_whole_and_mixed():
    """Three components of 4 pairs in 4 batches of 3 pairs: one of each in every batch."""
    components = [[(10 * c + i, 10 * c + i + 5) for i in range(4)] for c in range(3)]
    for seed in range(10):
        batches = deal_out_pairs(components, 3, np.random.default_rng(seed))
        assert [sorted(a // 10 for a, _ in batch) for batch in batches] == [[0, 1, 2]] * 4


def test_self_pairs_are_dropped_first():
    components = [[(0, 1), (2, 1), (3, 4)], [(5, 5)], [(6, 6)], [(7, 8)]]
    dropped = Counter()
    for seed in range(60):
        for size in (4, 5):
            batches = deal_out_pairs(components, size, np.random.default_rng(seed))
            assert [len(batch) for batch in batches] == [size]
            kept = {pair for batch in batches for pair in batch}
            dropped.update((size, pair) for part in components for pair in set(part) - kept)
    assert set(dropped) == {(4, (5, 5)), (4, (6, 6)), (5, (5, 5)), (5, (6, 6))}
    only_couples = [[(0, 1)], [(2, 3)], [(4, 5)]]
    kept = {
        tuple(
            sorted(p for b in deal_out_pairs(only_couples, 2, np.random.default_rng(s)) for p in b)
        )
        for s in range(60)
    }
    assert len(kept) == 3


def test_sampler(people):
    sampler = PairBatchSampler(dicts_of(people), 6, seed=2)
    assert len(sampler) >= 9 and all(len(batch) == 6 for batch in sampler)
    assert pairs_of(sampler) == pairs_of(PairBatchSampler(dicts_of(people), 6, seed=2))
    for other in ({"seed": 3}, {"seed": 2, "epoch": 1}):
        assert pairs_of(sampler) != pairs_of(PairBatchSampler(dicts_of(people), 6, **other))
    slots = [slot for batch in sampler for slot in batch]
    assert len({slot.seed for slot in slots}) == len(slots)
    shares = [
        list(PairBatchSampler(dicts_of(people), 6, seed=2, rank=rank, world_size=2))
        for rank in range(2)
    ]
    assert shares[0] == list(sampler)[::2] and shares[1] == list(sampler)[1::2]


def test_numbers_that_do_not_fit():
    for size in (0, 5):
        with pytest.raises(ValueError, match=f"even size of 2 or more, found {size}"):
            PairBatchSampler(dicts_of([[0], [0]]), size)
    # Fewer images than a batch takes are one.
    (batch,) = PairBatchSampler(dicts_of([[0], [0]]), 6)
    assert {slot.index for slot in batch} == {0, 1}
    with pytest.raises(ValueError, match="need images, found none"):
        PairBatchSampler([], 6)
