"""Batches as a function of seed and iteration."""

from itertools import islice

import numpy as np
import pytest

from spnet_d2.data.samplers import EpochBatchSampler, batches_per_epoch, sample_seed


def batches(number, *args, **kwargs):
    return list(islice(EpochBatchSampler(*args, **kwargs), number))


@pytest.mark.parametrize(
    "images, views, expected",
    [(11206, 1, 1400), (5704, 1, 713), (11206, 2, 2802), (5704, 2, 1426), (64115, 2, 16029)],
)
def test_epoch_lengths_of_the_papers_runs(images, views, expected):
    """CUHK-SYSU, PRW and COCOPersons in batches of 8; two views: ceil(N / 4)."""
    assert batches_per_epoch(images, 8, views) == expected
    assert EpochBatchSampler(images, 8, views).batches_per_epoch == expected


def test_one_view_drops_the_last_batch():
    found = batches(4, 11, 4)
    for epoch in (found[:2], found[2:]):
        indices = [slot.index for batch in epoch for slot in batch]
        assert len(indices) == 8 == len(set(indices)) and set(indices) <= set(range(11))


def test_two_views_come_in_a_row_with_own_seeds():
    """(a, a, b, b, c, c, d, d), and the short last batch is kept."""
    found = batches(3, 10, 8, views_per_image=2)
    assert [len(batch) for batch in found] == [8, 8, 4]
    indices = [slot.index for batch in found for slot in batch]
    assert indices[::2] == indices[1::2] and sorted(indices[::2]) == list(range(10))
    seeds = [slot.seed for batch in found for slot in batch]
    assert len(set(seeds)) == 20


def test_slots_know_their_epoch():
    """Of 3 batches each, also after a resume in the middle of one."""
    found = batches(7, 10, 8, views_per_image=2)
    assert [{slot.epoch for slot in batch} for batch in found] == [{0}] * 3 + [{1}] * 3 + [{2}]
    resumed = batches(1, 10, 8, views_per_image=2, start_iter=5)
    assert {slot.epoch for slot in resumed[0]} == {1}


@pytest.mark.parametrize("images, size, views, ranks", [(10, 8, 2, 2), (7, 12, 3, 2), (9, 8, 2, 4)])
def test_every_epoch_shows_each_image_k_times_over_all_ranks(images, size, views, ranks):
    """Views of an image are never split between ranks; only filling up repeats images."""
    per_epoch = batches_per_epoch(images, size, views)
    parts = [
        batches(per_epoch, images, size, views, rank=r, world_size=ranks) for r in range(ranks)
    ]
    counts = np.zeros(images, int)
    for part in parts:
        for batch in part:
            indices = [slot.index for slot in batch]
            assert indices == [i for i in indices[::views] for _ in range(views)]
            np.add.at(counts, indices, 1)
    extra = counts.sum() - views * images
    assert counts.min() == views and extra == views * (-images % ranks)


def test_epochs_and_seeds_differ():
    sampler = EpochBatchSampler(50, 50)
    orders = [tuple(sampler.epoch_order(epoch)) for epoch in range(3)]
    orders.append(tuple(EpochBatchSampler(50, 50, seed=1).epoch_order(0)))
    assert len(set(orders)) == 4
    assert len({slot.seed for batch in batches(3, 50, 50) for slot in batch}) == 150


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("start", [0, 1, 2, 3, 7])
def test_resuming_continues_the_order(views, start):
    whole = batches(12, 10, 4, views, seed=5)
    assert batches(12 - start, 10, 4, views, seed=5, start_iter=start) == whole[start:]


@pytest.mark.parametrize("views", [1, 2])
def test_ranks_share_every_batch(views):
    whole = batches(6, 12, 8, views, seed=5)
    parts = [batches(6, 12, 8, views, seed=5, rank=rank, world_size=2) for rank in range(2)]
    assert [first + second for first, second in zip(*parts)] == whole


def test_ranks_of_a_short_last_batch_are_even():
    """9 images, 4 a batch, 4 ranks: the last batch holds 1 image, filled up by 3 others."""
    parts = [batches(3, 9, 8, 2, rank=rank, world_size=4) for rank in range(4)]
    assert [[len(batch) for batch in part] for part in parts] == [[2, 2, 2]] * 4
    order = EpochBatchSampler(9, 8, 2, world_size=4).epoch_order(0)
    assert len(order) == 24 and set(order[:18]) == set(range(9))
    np.testing.assert_array_equal(order[18:], order[:6])
    single_image = EpochBatchSampler(1, 8, 2, world_size=4).epoch_order(0)
    assert single_image.tolist() == [0] * 8


def test_sample_seeds_are_spread():
    seeds = {sample_seed(s, e, p) for s in range(3) for e in range(3) for p in range(100)}
    assert len(seeds) == 900 and all(0 <= seed < 2**63 for seed in seeds)
    draws = [np.random.default_rng(sample_seed(0, 0, place)).random() for place in range(2000)]
    assert abs(np.mean(draws) - 0.5) < 0.02 and abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 0.06


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_images": 10, "batch_size": 5, "views_per_image": 2}, "views_per_image"),
        ({"num_images": 10, "batch_size": 4, "views_per_image": 0}, "views_per_image"),
        ({"num_images": 10, "batch_size": 0}, "batch_size"),
        ({"num_images": 10, "batch_size": 4, "views_per_image": 2, "world_size": 4}, "processes"),
        ({"num_images": 3, "batch_size": 4}, "do not fill one batch"),
        ({"num_images": 0, "batch_size": 4, "views_per_image": 2}, "0 training images"),
    ],
)
def test_numbers_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        EpochBatchSampler(**arguments)
