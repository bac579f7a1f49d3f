"""Which (query, image) pairs train in the query-centric pathway, and which anchors of each.

Every ground-truth box of the batch is a query for every image of the batch. A pair is
*positive* if the image shows the query's person. Positive pairs are *self* pairs (the query's own
image) or *other* pairs (another image of the person, e.g. another view of the same image).

Shapes: ``N`` images, ``Q`` queries of the batch, ``P`` sampled pairs, ``A`` anchors of an image,
``K`` anchors per pair.
"""

from dataclasses import dataclass, field

import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor
from torchvision.ops import generalized_box_iou

from .matching import (
    ANCHOR_MATCHER,
    BACKGROUND_IOU,
    FOREGROUND_IOU,
    ignored_boxes,
    match_boxes,
)
from .sampling import random_subset, random_subset_rows

MATCH_MODES = ("algo1", "algo2", "self", "other", "all")


@dataclass
class Queries:
    """
    Ground-truth boxes of the batch as queries, image by image.

    Attributes:
        loc: (Q, D) localisation embeddings x_q; None before boxes are embedded. All else is known
            on the host.
        boxes: (Q, 4) their boxes.
        person_ids: (Q,) what tells people apart across images.
        target_ids: (Q,) identities as the re-id loss takes them.
        image_index: (Q,) the image each comes from.
    """

    loc: Tensor | None
    boxes: Tensor
    person_ids: Tensor
    target_ids: Tensor
    image_index: Tensor


@dataclass
class Pairs:
    """
    Sampled pairs, image by image and then by query.

    Attributes:
        image: (P,) and query: (P,) what is paired.
        positive: (P,) whether the image shows the person.
        boxes: (P, 4) the person's box in the image, zeros in negative pairs.
        target_ids: (P,) that box's identity, 0 in negative pairs.
        positive_rows: (P+,) the positive pairs, found once, while pairs are on the host.
        counts: number of pairs of each image.
    """

    image: Tensor
    query: Tensor
    positive: Tensor
    boxes: Tensor
    target_ids: Tensor
    positive_rows: Tensor
    counts: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.image)


def unique_people(targets: list[Instances]) -> list[Tensor]:
    """
    Boxes whose person is in their image once.

    Someone annotated twice in one image can't be a query: it would be unclear which box to find.

    Args:
        targets: ground truth with ``gt_person_ids``.

    Returns:
        Per image, a boolean mask over its boxes.
    """
    masks = []
    for t in targets:
        _, inverse, counts = t.gt_person_ids.unique(return_inverse=True, return_counts=True)
        masks.append(counts[inverse] == 1)
    return masks


def make_queries(
    targets: list[Instances], masks: list[Tensor], loc: Tensor | None, id_field: str
) -> Queries:
    """
    Queries of a batch.

    Args:
        targets: ground truth.
        masks: of :func:`unique_people`.
        loc: (sum n_i, D) localisation embeddings of all its boxes, if they are known yet.
        id_field: the field of ``targets`` that the re-id loss takes.
    """
    mask = torch.cat(masks)
    index = [torch.full_like(t.gt_person_ids, i) for i, t in enumerate(targets)]
    return Queries(
        None if loc is None else loc[mask],
        torch.cat([t.gt_boxes.tensor for t in targets])[mask],
        torch.cat([t.gt_person_ids for t in targets])[mask],
        torch.cat([t.get(id_field) for t in targets])[mask],
        torch.cat(index)[mask],
    )


def sample_pairs(queries: Queries, num_images: int, limit: int, mode: str = "algo1") -> Pairs:
    """
    Choose the (image, query) pairs of a batch, on the host.

    ``algo1`` takes up to ``limit`` other pairs, then self pairs, then negative ones; ``algo2``
    leaves the negative ones out; ``self``, ``other`` and ``all`` take these positive pairs only.
    A kind that doesn't fit is sampled uniformly.

    Args:
        queries: people unique in their images.
        num_images: N.
        limit: most pairs of the batch.
        mode: one of ``MATCH_MODES``.
    """
    images = torch.arange(num_images, device=queries.image_index.device)
    same_person = queries.person_ids[:, None] == queries.person_ids[None]
    # Row of the person's own box in each image: people are unique there, so there's one or none.
    shown = same_person[None] & (queries.image_index[None, None] == images[:, None, None])
    positive = shown.any(dim=2)
    box_row = shown.int().argmax(dim=2) if len(same_person) else positive.long()
    own = queries.image_index[None] == images[:, None]

    kinds = {
        "algo1": (positive & ~own, own, ~positive),
        "algo2": (positive & ~own, own),
        "self": (own,),
        "other": (positive & ~own,),
        "all": (positive,),
    }[mode]
    chosen, left = [], limit
    for kind in kinds:
        chosen.append(random_subset(kind.flatten().nonzero()[:, 0], left))
        left -= len(chosen[-1])
    flat = torch.cat(chosen).sort().values
    image, query = flat // max(1, len(own[0])), flat % max(1, len(own[0]))
    positive, box_row = positive[image, query], box_row[image, query]
    return Pairs(
        image,
        query,
        positive,
        queries.boxes[box_row] * positive[:, None],
        queries.target_ids[box_row] * positive,
        positive.nonzero()[:, 0],
        counts=image.bincount(minlength=num_images).tolist(),
    )


def count_kinds(pairs: Pairs, queries: Queries) -> dict[str, int]:
    """Number of pairs of each kind, on the host."""
    own = queries.image_index[pairs.query] == pairs.image
    kinds = {"other": pairs.positive & ~own, "self": own, "negative": ~pairs.positive}
    return {kind: int(chosen.sum()) for kind, chosen in kinds.items()}


def label_pairs(
    pairs: Pairs,
    anchors: Tensor,
    targets: list[Instances],
    conservative: bool = False,
    ignore: list[Boxes | None] | None = None,
) -> Tensor:
    """
    Label all anchors of every pair.

    What ``ANCHOR_MATCHER`` gives where the person's box is the only ground truth, for all pairs
    at once. Other people's anchors are background, or ignored if ``conservative``. Anchors of
    negative pairs are background.

    Args:
        pairs: P pairs.
        anchors: (A, 4).
        targets: ground truth of the images, for ``conservative``.
        conservative: leave out anchors that are foreground of anybody else.
        ignore: per image, regions whose background trains nothing.

    Returns:
        (P, A) int8: 1, 0 or -1.
    """
    labels = torch.zeros(len(pairs), len(anchors), dtype=torch.int8, device=anchors.device)
    rows = pairs.positive_rows
    iou = pairwise_iou(Boxes(pairs.boxes[rows]), Boxes(anchors))
    if len(iou):
        foreground = (iou >= FOREGROUND_IOU) | (iou == iou.amax(dim=1, keepdim=True))
        ignored = ~foreground & (iou >= BACKGROUND_IOU)
        labels.index_copy_(0, rows, foreground.char() - ignored.char())
    regions = [Boxes(anchors[:0]) if r is None else r for r in ignore or [None] * len(targets)]
    if conservative or any(map(len, regions)):
        left_out = torch.stack([ignored_boxes(anchors, region) for region in regions])
        if conservative:
            boxes = [t.gt_boxes.tensor for t in targets]
            people = [match_boxes(anchors, b, ANCHOR_MATCHER)[0] == 1 for b in boxes]
            left_out |= torch.stack(people)
        labels.masked_fill_(left_out[pairs.image] & (labels == 0), -1)
    return labels


def select_anchors(
    pairs: Pairs, norms: Tensor, anchors: Tensor, count: int, largest: bool, by_norm: bool = True
) -> Tensor:
    """
    Choose the K anchors of every pair that train boxes and re-id.

    Negative pairs take the K anchors closest to the query: the hardest negatives. Positive ones
    take K/2 of largest generalised IoU with the person's box, and fill up from the K closest
    ones in order of *anchor index* (not distance), which the authors trained with.

    Args:
        pairs: P pairs.
        norms: (P, A) distances ``||x_q - x_a||``.
        anchors: (A, 4).
        count: K.
        largest: large norms mean person.
        by_norm: False takes the K of largest generalised IoU in every pair.

    Returns:
        (P, K) indices of anchors; fewer columns if there are fewer anchors.
    """
    count = min(count, len(anchors))
    giou = norms.new_zeros(norms.shape)
    rows = pairs.positive_rows
    giou.index_copy_(0, rows, generalized_box_iou(pairs.boxes[rows], anchors).to(giou.dtype))
    top = giou.topk(count).indices
    if not by_norm:
        return top
    near = norms.detach().topk(count, largest=largest).indices
    half = count // 2
    top = top[:, :half]
    taken = (near[:, :, None] == top[:, None]).any(dim=2)
    fill = near.masked_fill(taken, len(anchors)).sort(dim=1).values[:, : count - half]
    return torch.where(pairs.positive[:, None], torch.cat([top, fill], dim=1), near)


def limit_per_pair(chosen: Tensor, pair: Tensor, limit: int) -> Tensor:
    """
    Keep at most ``limit`` of the chosen rows of every pair, uniformly.

    Args:
        chosen: (M,) boolean.
        pair: (M,) ascending pair of each row.

    Returns:
        (M,) boolean.
    """
    return random_subset_rows(chosen, pair, limit)
