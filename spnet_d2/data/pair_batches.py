"""Batches of pairs of images that share a known person, for the losses on a test set.

Query-centric losses ask for a person in another image; a random batch of a test set would seldom
hold one twice. ``N`` images, ``B`` places in a batch.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from spnet_d2.data.samplers import Slot, sample_seed

Pair = tuple[int, int]


class PairBatchSampler:
    """Yield this rank's batches of :class:`~spnet_d2.data.samplers.Slot`, one pass.

    Images that share a known person, directly or through others, form a component. One without
    others is paired with itself. In the others every image is paired with one it shares a person
    with, if possible with one that has no partner yet, so that about N / 2 pairs cover all. Pairs
    too many for whole batches are dropped, self-pairs first. Pairs of a component go to different
    batches, as far as there are enough.

    Args:
        dicts: as ``load_person_search_json`` gives them.
        batch_size: B, images; even. Less where there are fewer pairs than a batch takes.
        seed, epoch: what order and choice of partners depend on.
        rank, world_size: this process takes every ``world_size``-th batch.

    Raises:
        ValueError: if ``batch_size`` is odd, or there are no images.
    """

    def __init__(
        self,
        dicts: Sequence[dict[str, Any]],
        batch_size: int,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        if batch_size < 2 or batch_size % 2:
            raise ValueError(
                f"Batches of pairs need an even size of 2 or more, found {batch_size}."
            )
        rng = np.random.default_rng((seed, epoch))
        pairs = cover_with_pairs(_people(dicts), rng)
        if not pairs:
            raise ValueError("Losses on a test set need images, found none.")
        batches = deal_out_pairs(pairs, min(batch_size // 2, sum(map(len, pairs))), rng)
        place = 0
        self.batches: list[list[Slot]] = []
        for batch in batches:
            indices = [index for pair in batch for index in pair]
            places = range(place, place + len(indices))
            self.batches.append(
                [Slot(i, sample_seed(seed, epoch, p), epoch) for i, p in zip(indices, places)]
            )
            place += len(indices)
        self.batches = self.batches[rank::world_size]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Slot]]:
        return iter(self.batches)


def _people(dicts: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Known identities of each image."""
    return [
        [entry["identity"] for entry in image["annotations"] if entry["identity"] >= 0]
        for image in dicts
    ]


def cover_with_pairs(people: Sequence[Sequence[int]], rng: np.random.Generator) -> list[list[Pair]]:
    """Pairs that cover all images, by component.

    Args:
        people: known identities, from 0, of each image.
        rng: all randomness comes from here.

    Returns:
        One list of index pairs for each component, in random order.
    """
    shown_in = defaultdict(list)
    for index, identities in enumerate(people):
        for identity in set(identities):
            shown_in[identity].append(index)
    images = {identity: np.array(indices) for identity, indices in shown_in.items()}
    labels = _components(people)
    covered = np.zeros(len(people), bool)
    components: dict[int, list[Pair]] = defaultdict(list)
    for index in rng.permutation(len(people)).tolist():
        if covered[index]:
            continue
        others = [images[identity] for identity in set(people[index])]
        partners = np.unique(np.concatenate(others)) if others else np.array([index])
        # Without anybody to share, alone with itself.
        partners = partners[partners != index] if len(partners) > 1 else partners
        free = partners[~covered[partners]]
        partner = int(rng.choice(free if len(free) else partners))
        covered[[index, partner]] = True
        components[int(labels[index])].append((index, partner))
    return list(components.values())


def _components(people: Sequence[Sequence[int]]) -> np.ndarray:
    """(N,) component of each image in the graph of images and the people in them."""
    total = len(people)
    edges = [
        (i, total + identity) for i, identities in enumerate(people) for identity in identities
    ]
    rows, columns = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    size = max(total, int(columns.max(initial=-1)) + 1)
    graph = coo_array((np.ones(len(edges)), (rows, columns)), shape=(size, size))
    return connected_components(graph, directed=False)[1][:total]


def deal_out_pairs(
    components: Sequence[Sequence[Pair]], per_batch: int, rng: np.random.Generator
) -> list[list[Pair]]:
    """Whole batches of pairs, those of a component in different ones where possible.

    Args:
        components: pairs by component, in random order.
        per_batch: pairs of a batch.
        rng: chooses what is dropped, and the order of the batches.
    """
    order = rng.permutation(len(components))
    # A component's pairs lie side by side, so dealing them in turn gives each to another batch.
    pairs = [pair for number in order for pair in components[number]]
    surplus = len(pairs) % per_batch
    shuffled = rng.permutation(len(pairs))
    alone = np.array([a == b for a, b in pairs], dtype=bool)
    self_pairs_last = shuffled[np.argsort(alone[shuffled], kind="stable")]
    kept = np.sort(self_pairs_last[: len(pairs) - surplus])
    number = len(kept) // per_batch
    batches = [[pairs[i] for i in kept[first::number]] for first in range(number)]
    return [batches[i] for i in rng.permutation(number)]
