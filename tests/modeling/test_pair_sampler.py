"""Pairs and their anchors against the authors' numbers and literal oracles."""

import math

import pytest
import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from torchvision.ops import generalized_box_iou

from spnet_d2.modeling import pair_sampler, swap_path
from spnet_d2.modeling.pair_sampler import (
    Pairs,
    Queries,
    label_pairs,
    limit_per_pair,
    make_queries,
    sample_pairs,
    select_anchors,
    unique_people,
)
from spnet_d2.modeling.swap_path import query_distances
from spnet_d2.testing import deterministic_sampling


def queries_of(people):
    """Queries whose boxes tell them apart; ``people``: person ids per image."""
    rows = [(i, p) for i, ids in enumerate(people) for p in ids]
    n = len(rows)
    boxes = torch.arange(n).float()[:, None] * 10 + torch.tensor([0.0, 0, 5, 8])
    person = torch.tensor([p for _, p in rows], dtype=torch.int64)
    image = torch.tensor([i for i, _ in rows], dtype=torch.int64)
    return Queries(torch.zeros(n, 3), boxes, person, person + 100, image)


PEOPLE = [[5, 9], [5, 9], [3], [3, 7], []]


def kinds_of(pairs, queries):
    own = queries.image_index[pairs.query] == pairs.image
    return {
        "other": int((pairs.positive & ~own).sum()),
        "self": int(own.sum()),
        "negative": int((~pairs.positive).sum()),
    }


@pytest.mark.parametrize(
    ("mode", "limit", "expected"),
    [
        ("algo1", 100, (6, 7, 22)),
        ("algo1", 14, (6, 7, 1)),
        ("algo1", 10, (6, 4, 0)),
        ("algo1", 4, (4, 0, 0)),
        ("algo2", 100, (6, 7, 0)),
        ("self", 5, (0, 5, 0)),
        ("other", 100, (6, 0, 0)),
        ("all", 9, None),
    ],
)
def test_kinds_of_pairs(mode, limit, expected):
    queries = queries_of(PEOPLE)
    pairs = sample_pairs(queries, len(PEOPLE), limit, mode)
    found = kinds_of(pairs, queries)
    if expected:
        assert tuple(found.values()) == expected
    else:
        assert found["negative"] == 0
        assert len(pairs) == limit
    order = (pairs.image * 100 + pairs.query).tolist()
    assert order == sorted(set(order))


def test_pairs_carry_the_persons_box_in_that_image():
    queries = queries_of(PEOPLE)
    pairs = sample_pairs(queries, len(PEOPLE), 100)
    for image, query, positive, box, target in zip(
        pairs.image, pairs.query, pairs.positive, pairs.boxes, pairs.target_ids
    ):
        person = queries.person_ids[query]
        here = (queries.image_index == image) & (queries.person_ids == person)
        assert positive == here.any()
        if positive:
            assert torch.equal(box, queries.boxes[here][0])
            assert target == person + 100
        else:
            assert not box.any()
            assert target == 0


def test_no_people_no_pairs():
    assert len(sample_pairs(queries_of([[], []]), 2, 32)) == 0


def test_people_twice_in_an_image_are_no_queries():
    targets = []
    for ids in ([1, 1, 2, 3, 3, 3], [1, 2], []):
        n = len(ids)
        targets.append(
            Instances(
                (9, 9),
                gt_boxes=Boxes(torch.rand(n, 4)),
                gt_person_ids=torch.tensor(ids, dtype=torch.int64),
            )
        )
    masks = unique_people(targets)
    assert [m.tolist() for m in masks] == [
        [False, False, True, False, False, False],
        [True] * 2,
        [],
    ]
    queries = make_queries(targets, masks, torch.arange(8.0)[:, None], "gt_person_ids")
    assert queries.person_ids.tolist() == [2, 1, 2]
    assert queries.image_index.tolist() == [0, 1, 1]
    assert queries.loc[:, 0].tolist() == [2, 6, 7]


def test_selection_reference_numbers(monkeypatch):
    """K = 4 of A = 12 anchors; the generalised IoUs are given instead of boxes."""
    q = torch.tensor([[math.cos(i + j) for j in range(3)] for i in range(3)])
    a = torch.tensor(
        [
            [[math.sin(0.7 * n + 1.3 * i + 0.5 * j) for j in range(3)] for i in range(12)]
            for n in range(2)
        ]
    )
    pairs = Pairs(
        image=torch.tensor([0, 0, 0, 1, 1]),
        query=torch.tensor([0, 1, 2, 0, 1]),
        positive=torch.tensor([True, False, True, False, True]),
        positive_rows=torch.tensor([0, 2, 4]),
        boxes=torch.zeros(5, 4),
        target_ids=torch.zeros(5, dtype=torch.int64),
    )
    giou = torch.tensor(
        [[math.sin(1.1 * i + 2 * k + n) for i in range(12)] for n, k in ((0, 0), (0, 2), (1, 1))]
    )
    monkeypatch.setattr(pair_sampler, "generalized_box_iou", lambda *_: giou)
    norms = torch.cat([query_distances(q[k][None], a[n]) for n, k in zip(pairs.image, pairs.query)])
    found = select_anchors(pairs, norms, torch.zeros(12, 4), 4, largest=False)
    expected = [[7, 1, 2, 6], [7, 2, 3, 8], [9, 4, 3, 8], [6, 11, 1, 10], [10, 4, 2, 6]]
    assert found.tolist() == expected


def random_pairs(seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(60, 2, generator=generator) * 80
    anchors = torch.cat([corner, corner + 10 + torch.rand(60, 2, generator=generator) * 30], 1)
    people = [[0, 1, 2], [1, 2], [0, 3]]
    queries = queries_of(people)
    rows = torch.randint(0, 60, (len(queries.boxes),), generator=generator)
    queries.boxes = anchors[rows] + torch.rand(len(rows), 4, generator=generator)
    pairs = sample_pairs(queries, 3, 15)
    norms = torch.rand(len(pairs), 60, generator=generator)
    return anchors, queries, pairs, norms


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("largest", [False, True])
def test_selection_equals_slow_oracle(seed, largest):
    anchors, _, pairs, norms = random_pairs(seed)
    found = select_anchors(pairs, norms, anchors, 8, largest)
    for p in range(len(pairs)):
        near = norms[p].argsort(descending=largest)[:8].tolist()
        if pairs.positive[p]:
            giou = generalized_box_iou(pairs.boxes[p][None], anchors)[0]
            top = giou.argsort(descending=True)[:4].tolist()
            near = top + sorted(set(near) - set(top))[:4]
        assert found[p].tolist() == near


@pytest.mark.parametrize("conservative", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_labels_equal_slow_oracle(seed, conservative):
    anchors, queries, pairs, _ = random_pairs(seed)
    targets = [
        Instances((99, 99), gt_boxes=Boxes(queries.boxes[queries.image_index == i]))
        for i in range(3)
    ]
    found = label_pairs(pairs, anchors, targets, conservative)
    for p in range(len(pairs)):
        gt = targets[pairs.image[p]].gt_boxes
        everyone = pairwise_iou(gt, Boxes(anchors))
        best = everyone.max(dim=1, keepdim=True).values
        matched = ((everyone >= 0.5) | (everyone == best)).any(0).tolist()
        own = pairwise_iou(Boxes(pairs.boxes[p][None]), Boxes(anchors))[0]
        for m, iou in enumerate(own.tolist()):
            expected = 0
            if pairs.positive[p]:
                if iou >= 0.5 or iou == own.max():
                    expected = 1
                elif iou >= 0.4:
                    expected = -1
            if conservative and expected != 1 and matched[m]:
                expected = -1
            assert found[p, m] == expected


def test_fewer_anchors_than_wanted():
    anchors, _, pairs, norms = random_pairs(0)
    found = select_anchors(pairs, norms[:, :5], anchors[:5], 64, largest=False)
    assert found.shape == (len(pairs), 5)
    assert all(sorted(row) == list(range(5)) for row in found.tolist())


def test_limit_per_pair():
    chosen = torch.tensor([1, 1, 1, 0, 1, 1, 0, 1], dtype=torch.bool)
    pair = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2])
    with deterministic_sampling():
        kept = limit_per_pair(chosen, pair, 2)
    assert kept.int().tolist() == [1, 1, 0, 0, 0, 1, 0, 1]
    torch.manual_seed(0)
    seen = {tuple(limit_per_pair(chosen, pair, 2).tolist()) for _ in range(100)}
    assert len(seen) == 6
    assert all(sum(kept[:5]) == 2 and kept[5] and kept[7] for kept in seen)


def test_distances_are_exact_and_differentiable_at_zero():
    torch.manual_seed(0)
    x_a = torch.randn(50, 128) * 4
    x_q = x_a[:3].clone().requires_grad_()
    found = query_distances(x_q, x_a)
    expected = (x_q[:, None] - x_a).norm(dim=2)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert torch.isfinite(x_q.grad).all()


def test_distances_of_inference_are_those_of_training():
    """A matrix product there; in training by parts on GPUs. Gradients are cdist's."""
    torch.manual_seed(0)
    x_q, x_a = torch.randn(5, 16, requires_grad=True), torch.randn(40, 16, requires_grad=True)
    expected = torch.cdist(x_q, x_a, compute_mode="donot_use_mm_for_euclid_dist")
    found, weights = query_distances(x_q, x_a), torch.randn(5, 40)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((w * weights).sum(), (x_q, x_a)) for w in (found, expected)]
    torch.testing.assert_close(*gradients)
    with torch.no_grad():
        torch.testing.assert_close(query_distances(x_q, x_a), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(swap_path._exact_distances(x_q, x_a), expected)
