"""Random subsets, in the one place that the deterministic mode of tests can switch off.

Sizes that depend on what is drawn make the host wait for the GPU; only :func:`sample_labels` does.
"""

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


# Of the samples of an image, at most this share is foreground.
_POSITIVE_FRACTION = 0.5


def sample_labels(
    labels: Tensor, count: int, positive_fraction: float = _POSITIVE_FRACTION
) -> tuple[Tensor, Tensor]:
    """
    Sample positives and negatives of every image, as Faster R-CNN does.

    Args:
        labels: (N, M) 1 foreground, 0 background, -1 ignored.
        count: K, samples wanted of an image; fewer come back when the negatives run out.
        positive_fraction: at most ``int(K * positive_fraction)`` positives.

    Returns:
        The image of every sample, ascending, and its index into the image's labels, ascending
        within each: (<= N K,) int64 both.
    """
    size = labels.shape[1]
    order = _priorities(labels)
    positives, drawn = _draw(order, labels == 1, int(count * positive_fraction))
    negatives, more = _draw(order, labels == 0, count)
    left = count - drawn.sum(dim=1, keepdim=True)
    more &= torch.arange(more.shape[1], device=labels.device) < left
    chosen = torch.cat([positives, negatives], dim=1)
    chosen = chosen.masked_fill(~torch.cat([drawn, more], dim=1), size).sort(dim=1).values
    image, place = (chosen < size).nonzero(as_tuple=True)
    return image, chosen[image, place]


def num_sampled_positives(labels: Tensor, count: int) -> Tensor:
    """How many positives :func:`sample_labels` takes of all images, whichever they are."""
    most = int(count * _POSITIVE_FRACTION)
    return (labels == 1).sum(dim=1).clamp(max=most).sum()


def _priorities(labels: Tensor) -> Tensor:
    """Who comes first among the candidates (N, M) of an image: the largest number, 0 or more."""
    if not _first_in_order:
        return torch.rand(labels.shape, device=labels.device)
    size = labels.shape[1]
    return torch.arange(size, 0, -1.0, device=labels.device).expand(labels.shape)


def _draw(order: Tensor, candidates: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices (N, k) of the first candidates of every row, and which of them are candidates."""
    best = order.masked_fill(~candidates, -1.0).topk(min(count, order.shape[1]), dim=1)
    return best.indices, best.values >= 0


def random_subset_rows(candidates: Tensor, groups: Tensor, count: int) -> Tensor:
    """
    Draw up to ``count`` candidates of every group, uniformly without replacement.

    Args:
        candidates: (n,) boolean.
        groups: (n,) ascending group of each.

    Returns:
        Boolean (n,): the candidates drawn.
    """
    n = len(groups)
    order = torch.arange(n, device=groups.device)
    if not _first_in_order:
        order = torch.randperm(n, device=groups.device)
    # In drawing order, then by group: the number of candidates before it in its group is its rank.
    order = order[groups[order].argsort(stable=True)]
    ordered = candidates[order].long()
    before = ordered.cumsum(0) - ordered
    rank = before - before[torch.searchsorted(groups, groups)]
    drawn = (ordered == 1) & (rank < count)
    return torch.zeros_like(candidates).index_copy(0, order, drawn)
