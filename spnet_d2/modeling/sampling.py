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


def random_subset_rows(groups: Tensor, count: int) -> Tensor:
    """
    Draw up to ``count`` members of every group, uniformly without replacement.

    Args:
        groups: (n,) the group of each member.

    Returns:
        Boolean (n,): the members drawn.
    """
    n = len(groups)
    order = torch.arange(n, device=groups.device)
    if not _first_in_order:
        order = torch.randperm(n, device=groups.device)
    # Members in drawing order, then by group: a member's place in its group is its rank.
    order = order[groups[order].argsort(stable=True)]
    ordered = groups[order]
    _, counts = ordered.unique_consecutive(return_counts=True)
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    rank = torch.arange(n, device=groups.device) - starts
    drawn = torch.zeros(n, dtype=torch.bool, device=groups.device)
    drawn[order[rank < count]] = True
    return drawn
