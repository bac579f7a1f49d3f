"""Linking boxes of neighbouring frames, and how right it is."""

import itertools
import math

import numpy as np
import pytest

from spnet_d2.data.tracklets import LinkRules, link_boxes, tracklet_quality


def walk(start, step, frames, size=(20, 50)):
    """Boxes of somebody who walks evenly."""
    return [
        np.array([start + step * i, 10, start + step * i + size[0], 10 + size[1]], float)
        for i in range(frames)
    ]


def none(boxes):
    return [np.zeros((len(found), 0)) for found in boxes]


def test_two_people_walk_past_each_other():
    left, right = walk(0, 8, 20), walk(160, -8, 20)
    boxes = [np.array(pair) for pair in zip(left, right)]
    looks = [np.eye(2) for _ in boxes]
    numbers = link_boxes(boxes, looks)
    assert {tuple(found.tolist()) for found in numbers} == {(0, 1)}
    # Their order in a frame says nothing.
    turned = [b[::-1] if i % 2 else b for i, b in enumerate(boxes)]
    vectors = [v[::-1] if i % 2 else v for i, v in enumerate(looks)]
    numbers = link_boxes(turned, vectors)
    assert [found.tolist() for found in numbers[:4]] == [[0, 1], [1, 0], [0, 1], [1, 0]]


def test_a_fast_walker_is_expected_where_they_go():
    # Two steps apart, half of a box: too far without the motion of before.
    steps = [0, 5, 12, 21, 32, 45, 58, 71]
    boxes = [np.array([[x, 0, x + 20, 50]], float) for x in steps]
    assert len(np.unique(np.concatenate(link_boxes(boxes, none(boxes))))) == 1


def test_a_missed_frame_and_a_long_absence():
    path = walk(0, 1, 12)
    boxes = [np.array([box]) for box in path]
    boxes[4] = np.zeros((0, 4))
    assert len(np.unique(np.concatenate(link_boxes(boxes, none(boxes))))) == 1
    boxes[5] = boxes[6] = np.zeros((0, 4))
    numbers = link_boxes(boxes, none(boxes))
    assert np.concatenate(numbers).tolist() == [0] * 4 + [1] * 5
    numbers = link_boxes(boxes, none(boxes), LinkRules(max_gap=4))
    assert set(np.concatenate(numbers).tolist()) == {0}


def test_another_look_at_the_same_place_is_another_person():
    boxes = [np.array([[0, 0, 20, 50]], float)] * 4
    looks = [np.array([[1.0, 0.0]])] * 2 + [np.array([[0.0, 1.0]])] * 2
    assert np.concatenate(link_boxes(boxes, looks)).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("frames", [0, 1, 3])
def test_nobody(frames):
    boxes = [np.zeros((0, 4))] * frames
    assert [found.tolist() for found in link_boxes(boxes, none(boxes))] == [[]] * frames


def test_the_assignment_is_the_best_of_all():
    rng = np.random.default_rng(0)
    base = rng.uniform(0, 40, (4, 2))
    first = np.concatenate([base, base + 60], axis=1)
    second = first[rng.permutation(4)] + rng.uniform(-8, 8, (4, 1))
    looks = [rng.normal(size=(4, 3)), rng.normal(size=(4, 3))]
    rules = LinkRules(min_iou=0, min_similarity=-1)
    before, after = link_boxes([first, second], looks, rules)
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in looks]

    def gain(i, j):
        a, b = first[i], second[j]
        overlap = np.prod(np.maximum(0, np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])))
        return overlap / (7200 - overlap) + unit[0][i] @ unit[1][j]

    best = max(itertools.permutations(range(4)), key=lambda p: sum(gain(i, p[i]) for i in range(4)))
    assert [int(np.flatnonzero(after == before[i])[0]) for i in range(4)] == list(best)


def test_quality_against_a_loop():
    rng = np.random.default_rng(0)
    tracklets, people = rng.integers(0, 9, 60), rng.integers(0, 5, 60)
    found = tracklet_quality(tracklets, people)
    pairs = list(itertools.combinations(range(60), 2))
    together = [p for p in pairs if tracklets[p[0]] == tracklets[p[1]]]
    same = [p for p in pairs if people[p[0]] == people[p[1]]]
    right = len(set(together) & set(same))
    assert found.pair_precision == pytest.approx(right / len(together))
    assert found.pair_recall == pytest.approx(right / len(same))
    pure = sum(np.bincount(people[tracklets == t]).max() for t in np.unique(tracklets))
    assert found.purity == pytest.approx(pure / 60)
    assert (found.boxes, found.tracklets, found.people) == (60, 9, 5)


def test_quality_of_nothing():
    nothing = tracklet_quality(np.zeros(0, int), np.zeros(0, int))
    assert math.isnan(nothing.purity) and nothing.boxes == 0


def test_reach_links_boxes_that_do_not_overlap():
    """A walker moves by 0.8 of their height a frame; somebody else of other looks stands near."""
    walker = [np.array([[80.0 * i, 0, 80.0 * i + 30, 100]]) for i in range(4)]
    other = np.array([[100.0, 10, 130, 110]])
    boxes = [np.concatenate([box, other]) for box in walker]
    looks = [np.array([[1.0, 0], [0, 1]])] * 4
    apart = link_boxes(boxes, looks, LinkRules(0.1, 0.6, 2, 0.0))
    assert len(np.unique(np.concatenate(apart)[::2])) == 4
    linked = link_boxes(boxes, looks, LinkRules(0.1, 0.6, 2, 1.0))
    assert [frame.tolist() for frame in linked] == [[0, 1]] * 4
    # Who stands still and looks alike, but is farther than that, is somebody else.
    far = link_boxes([walker[0], walker[2]], [looks[0][:1]] * 2, LinkRules(0.1, 0.6, 2, 1.0))
    assert far[1].tolist() == [1]
