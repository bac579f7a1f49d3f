"""Random subsets, in the one place that the deterministic mode of tests can switch off."""

import torch
from torch import Tensor

# Set by `spnet_d2.testing.deterministic_sampling` only.
_first_in_order = False


def random_subset(indices: Tensor, count: int) -> Tensor:
    """
    Draw ``count`` of ``indices`` uniformly without replacement.

    Args:
        indices: (n,) candidates.
        count: how many to draw; all are returned, in order, when ``count >= n``.

    Returns:
        (min(n, count),) the drawn candidates, in random order.
    """
    if count >= len(indices):
        return indices
    if _first_in_order:
        return indices[:count]
    return indices[torch.randperm(len(indices), device=indices.device)[:count]]


def sample_labels(labels: Tensor, count: int, positive_fraction: float = 0.5) -> Tensor:
    """
    Sample positives and negatives of one image, as Faster R-CNN does.

    Args:
        labels: (M,) 1 foreground, 0 background, -1 ignored.
        count: K, samples wanted; fewer come back when the negatives run out.
        positive_fraction: at most ``int(K * positive_fraction)`` positives.

    Returns:
        (<= K,) int64 indices into ``labels``, ascending.
    """
    positives = random_subset((labels == 1).nonzero()[:, 0], int(count * positive_fraction))
    negatives = random_subset((labels == 0).nonzero()[:, 0], count - len(positives))
    return torch.cat([positives, negatives]).sort().values
