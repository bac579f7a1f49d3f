"""Which images make up which training batch, as a pure function of (seed, iteration).

``N`` images, ``B`` slots of a batch over all ranks, ``k`` views of each image.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Slot:
    """One place in a batch: which image, the seed of its augmentation, and the epoch."""

    index: int
    seed: int
    epoch: int


def batches_per_epoch(
    num_images: int, batch_size: int, views_per_image: int = 1, world_size: int = 1
) -> int:
    """Iterations in which every image is shown ``k`` times.

    With one view the incomplete last batch is dropped, floor(N / B); with more it is kept,
    ceil(k N / B). Both are how the authors' loaders count epochs.

    Args:
        num_images: N.
        batch_size: B, over all ranks; a multiple of ``views_per_image * world_size``.
        views_per_image: k.
        world_size: number of processes.

    Raises:
        ValueError: if the numbers do not fit together.
    """
    if views_per_image < 1 or batch_size < 1 or batch_size % (views_per_image * world_size):
        raise ValueError(
            f"batch_size ({batch_size}) must be a multiple of views_per_image ({views_per_image}) "
            f"times the number of processes ({world_size})."
        )
    slots = num_images * views_per_image
    batches = slots // batch_size if views_per_image == 1 else -(-slots // batch_size)
    if batches < 1:
        raise ValueError(
            f"{num_images} training images do not fill one batch of {batch_size}. Lower batch_size "
            "(SOLVER.IMS_PER_BATCH) or check the training set (DATASETS.TRAIN)."
        )
    return batches


class EpochBatchSampler:
    """Yield this rank's batches of :class:`Slot` for ever.

    Every epoch permutes the images anew. With k views a batch is (a, a, b, b, ...): each image
    k times in a row, with different sample seeds and so independent augmentations. A sample's seed
    depends only on the seed, the epoch and the place in the epoch, so the data do not depend on
    the number of workers or ranks, and starting at ``start_iter`` continues the exact order.

    The incomplete last batch of an epoch (k > 1) is kept, as long as it is on one rank. On several
    it is filled up with first images of the same epoch until every rank has equally many.

    Args:
        num_images: N.
        batch_size: B, over all ranks; a multiple of ``views_per_image * world_size``.
        views_per_image: k.
        seed: at least 0.
        rank, world_size: which share of each batch is this process's.
        start_iter: the first iteration to yield.

    Raises:
        ValueError: if the numbers do not fit together.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        views_per_image: int = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start_iter: int = 0,
    ):
        self.batches_per_epoch = batches_per_epoch(
            num_images, batch_size, views_per_image, world_size
        )
        self.num_images = num_images
        self.batch_size = batch_size
        self.views_per_image = views_per_image
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start_iter = start_iter

    def __iter__(self) -> Iterator[list[Slot]]:
        epoch, batch = divmod(self.start_iter, self.batches_per_epoch)
        while True:
            order = self.epoch_order(epoch)
            for start in range(batch * self.batch_size, len(order), self.batch_size):
                stop = min(start + self.batch_size, len(order))
                if stop - start < self.batch_size and self.views_per_image == 1:
                    break
                share = (stop - start) // self.world_size
                first = start + self.rank * share
                yield [
                    Slot(int(order[place]), sample_seed(self.seed, epoch, place), epoch)
                    for place in range(first, first + share)
                ]
            epoch, batch = epoch + 1, 0

    def epoch_order(self, epoch: int) -> np.ndarray:
        """Dataset indices of all slots of an epoch, over all ranks."""
        order = np.random.default_rng((self.seed, epoch)).permutation(self.num_images)
        if self.views_per_image > 1:
            # B / k is a multiple of the ranks, so only the last batch can need these.
            missing = -self.num_images % self.world_size
            order = np.concatenate([order, np.resize(order, missing)])
        return np.repeat(order, self.views_per_image)


def sample_seed(seed: int, epoch: int, place: int) -> int:
    """63-bit seed of the augmentation of one slot, well spread for neighbouring arguments."""
    state = np.random.SeedSequence((seed, epoch, place)).generate_state(1, np.uint64)[0]
    return int(state) >> 1
