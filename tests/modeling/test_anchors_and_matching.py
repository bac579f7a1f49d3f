import pytest
import torch
from detectron2.structures import Boxes, pairwise_iou

from spnet_d2.modeling.matching import (
    ANCHOR_MATCHER,
    CASCADE_MATCHER,
    gather_samples,
    match_boxes,
    match_refined,
)
from spnet_d2.modeling.proposal_generator import AnchorEmbedder, grid_anchors
from spnet_d2.modeling.sampling import random_subset, sample_labels
from spnet_d2.modeling.swap_path import SwapPath
from spnet_d2.modeling.targets import Targets
from spnet_d2.testing import deterministic_sampling


def pyramid(height, width, channels=1):
    """Maps of an FPN whose p6 and p7 round up."""
    sizes = [(height // s, width // s) for s in (8, 16, 32)]
    for _ in range(2):
        sizes.append(tuple(-(-s // 2) for s in sizes[-1]))
    return [torch.zeros(1, channels, *size) for size in sizes]


def test_cell_anchors_are_rounded_and_ratio_major():
    anchors = grid_anchors((512, 512), pyramid(512, 512))
    assert len(anchors) == 49104
    first = [(23, 11), (28, 14), (35, 18), (16, 16), (20, 20), (25, 25), (11, 23), (14, 28)]
    expected = torch.tensor([[-x, -y, x, y] for x, y in (*first, (18, 35))]).float()
    assert torch.equal(anchors[:9], expected)
    last_level = anchors[-9:] - anchors[-9:].view(9, 2, 2).mean(1).repeat(1, 2)
    extents = [(362, 181), (456, 228), (574, 287), (256, 256), (322, 322)]
    assert last_level[:5, 2:].tolist() == [list(map(float, e)) for e in extents]
    # The second cell of the first row is 8 pixels to the right.
    assert torch.equal(anchors[9:18], expected + torch.tensor([8.0, 0, 8, 0]))


@pytest.mark.parametrize(
    ("size", "count", "last"),
    [((928, 1504), 261711, (1088, 238, 1662, 1386)), ((1024, 1024), 196416, None)],
)
def test_strides_follow_the_padded_size(size, count, last):
    anchors = grid_anchors(size, pyramid(*size))
    assert len(anchors) == count
    if last:
        assert anchors[-1].tolist() == list(map(float, last))


def test_coarse_strides_are_anisotropic():
    features = pyramid(320, 448)
    assert features[-1].shape[-2:] == (3, 4)
    cells = grid_anchors((320, 448), features)[-12 * 9 :].view(3, 4, 9, 4)
    step_y = (cells[1, 0] - cells[0, 0])[0].tolist()
    step_x = (cells[0, 1] - cells[0, 0])[0].tolist()
    assert (step_y, step_x) == ([0, 106, 0, 106], [112, 0, 112, 0])


def test_embedding_channels_are_anchor_major_in_anchor_order():
    embedder = AnchorEmbedder(2, 3, bias=-1.0)
    features = [torch.randn(2, 2, 4, 5), torch.randn(2, 2, 2, 3)]
    x_a = embedder(features)
    assert x_a.shape == (2, (20 + 6) * 9, 3)
    raw = embedder.conv(features[0])
    row, column, cell = 2, 3, 4
    torch.testing.assert_close(
        x_a[1, (row * 5 + column) * 9 + cell], raw[1, cell * 3 : cell * 3 + 3, row, column]
    )


def slow_match(iou, high, low, low_quality):
    """Column by column, then each box's best columns again."""
    best = [max(range(len(iou)), key=lambda g: iou[g][m].item()) for m in range(iou.shape[1])]
    labels = []
    for m, g in enumerate(best):
        value = iou[g][m]
        labels.append(1 if value >= high else 0 if value < low else -1)
    if low_quality:
        for g in range(len(iou)):
            for m in range(iou.shape[1]):
                if iou[g][m] == iou[g].max():
                    labels[m] = 1
    return labels, [b if label == 1 else 0 for b, label in zip(best, labels)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("matcher", [ANCHOR_MATCHER, CASCADE_MATCHER])
def test_matching_equals_slow_oracle(seed, matcher):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(40, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 20 + torch.rand(40, 2, generator=generator) * 30], 1)
    gt, boxes = boxes[:4].round(), boxes[4:].round()
    labels, matched = match_boxes(boxes, gt, matcher)
    high, low = (0.5, 0.4) if matcher is ANCHOR_MATCHER else (0.5, 0.5)
    expected = slow_match(pairwise_iou(Boxes(gt), Boxes(boxes)), high, low, low == 0.4)
    assert (labels.tolist(), matched.tolist()) == expected


def test_image_without_people_is_background():
    labels, matched = match_boxes(torch.rand(5, 4), torch.zeros(0, 4), ANCHOR_MATCHER)
    assert labels.tolist() == [0] * 5
    assert matched.tolist() == [0] * 5


def test_ignore_regions_take_background_out_of_training_only():
    gt = torch.tensor([[0.0, 0, 10, 10]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [50, 50, 90, 60], [80, 0, 90, 9]])
    ignore = Boxes(torch.tensor([[40.0, 40, 62, 62], [0, 0, 20, 20]]))
    labels, _ = match_boxes(boxes, gt, ANCHOR_MATCHER, ignore)
    assert labels.tolist() == [1, -1, 0, 0]


def targets_of(*images, size=(9, 9), ignore=None):
    """Ground truth of (boxes, ids) of each image."""
    boxes = [torch.tensor(b, dtype=torch.float32).reshape(-1, 4) for b, _ in images]
    ids = [torch.tensor(i, dtype=torch.int64) for _, i in images]
    return Targets.collect(boxes, ids, [size] * len(images), ignore or [None] * len(images))


def test_samples_carry_box_zero_unless_foreground():
    boxes = torch.arange(12.0).view(3, 4)
    targets = targets_of(([[1] * 4, [1] * 4], [7, 8]), ([], []))
    labels, matched = torch.tensor([[1, 0, -1], [0, 0, 0]]), torch.tensor([[1, 0, 0], [0, 0, 0]])
    image, chosen = torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1])
    rows = targets.rows[image, matched[image, chosen]]
    samples = gather_samples(boxes[chosen], image, labels[image, chosen], rows, targets, 2)
    assert samples.image_index.tolist() == [0, 0, 1]
    assert samples.target_ids.tolist() == [8, 7, 0]
    assert samples.target_boxes.tolist() == [[1] * 4, [1] * 4, [0] * 4]
    assert torch.equal(samples.boxes, boxes[[0, 2, 1]])


@pytest.mark.parametrize("seed", range(5))
def test_refined_boxes_are_matched_as_image_by_image(seed):
    """Whole batches, with an image without people, and ignore regions in some."""
    generator = torch.Generator().manual_seed(seed)

    def random_boxes(n):
        corner = torch.rand(n, 2, generator=generator) * 60
        return torch.cat([corner, corner + 20 + torch.rand(n, 2, generator=generator) * 30], 1)

    gt = [random_boxes(n) for n in (3, 0, 1)]
    ignore = [None, random_boxes(2) + 10, random_boxes(1)]
    ids = [torch.arange(len(b)) for b in gt]
    targets = Targets.collect(gt, ids, [(99, 99)] * 3, ignore)
    boxes = [torch.cat([b + 2, random_boxes(30)]) for b in gt]
    image = torch.cat([torch.full((len(b),), i) for i, b in enumerate(boxes)])
    labels, rows = match_refined(torch.cat(boxes), image, targets)
    regions = [None if r is None else Boxes(r) for r in ignore]
    expected = [match_boxes(b, g, CASCADE_MATCHER, r) for b, g, r in zip(boxes, gt, regions)]
    assert labels.tolist() == torch.cat([label for label, _ in expected]).tolist()
    starts = (0, 4, 3)  # Of an image without people: the empty box behind the others.
    assert rows.tolist() == torch.cat([m + s for (_, m), s in zip(expected, starts)]).tolist()
    assert {-1, 0, 1} == set(labels.tolist())


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"), [(3, 100, (3, 13)), (50, 100, (8, 8)), (50, 4, (8, 4))]
)
def test_sampling_counts(positives, negatives, expected):
    labels = torch.tensor([1] * positives + [0] * negatives + [-1] * 7)
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    image, index = sample_labels(labels[None], 16)
    assert not image.any()
    assert torch.equal(index, index.sort().values)
    assert len(index.unique()) == len(index)
    assert ((labels[index] == 1).sum(), (labels[index] == 0).sum()) == expected


def test_random_subsets_cover_all_and_can_be_made_deterministic():
    torch.manual_seed(0)
    indices = torch.arange(5)
    seen = {tuple(random_subset(indices, 2).sort().values.tolist()) for _ in range(300)}
    assert len(seen) == 10
    with deterministic_sampling():
        assert random_subset(indices, 2).tolist() == [0, 1]
    assert random_subset(indices, 9).tolist() == [0, 1, 2, 3, 4]


def test_every_image_gets_samples_of_its_own():
    torch.manual_seed(0)
    labels = torch.tensor([[1, 0, -1, 0, 1, 1], [-1] * 6, [0] * 6, [1, -1, -1, -1, -1, 0]])
    seen = set()
    for _ in range(200):
        image, index = sample_labels(labels, 4)
        assert image.tolist() == [0] * 4 + [2] * 4 + [3] * 2
        assert all(torch.equal(i, i.sort().values) for i in index.split([4, 4, 2]))
        assert index[-2:].tolist() == [0, 5]
        seen.add(tuple(index[:4].tolist()))
    # Two of three positives, and both negatives.
    assert seen == {(0, 1, 3, 4), (0, 1, 3, 5), (1, 3, 4, 5)}
    with deterministic_sampling():
        assert sample_labels(labels, 4)[1].tolist() == [0, 1, 3, 4, 0, 1, 2, 3, 0, 5]


def test_bridge_folded_into_the_anchor_convolution():
    torch.manual_seed(0)
    embedder, path = AnchorEmbedder(6, 16, bias=-0.5), SwapPath(16)
    features = [torch.randn(2, 6, 5, 7), torch.randn(2, 6, 3, 4)]
    for x in (embedder, path):
        x.double()
        for p in x.parameters():
            torch.nn.init.normal_(p)
    features = [f.double().requires_grad_() for f in features]
    expected = path.object_centric(embedder(features))
    folded = embedder(features, path.affine())
    assert folded.shape == expected.shape == (2, 9 * (35 + 12), 16)
    torch.testing.assert_close(folded, expected)
    assert not torch.allclose(embedder(features), expected, atol=0.1)
    # Training needs the gradients of both factors of the folded weight.
    inputs, weights = [*features, *embedder.parameters(), *path.parameters()], torch.randn(16)
    torch.testing.assert_close(
        torch.autograd.grad((folded.square() * weights).sum(), inputs),
        torch.autograd.grad((expected.square() * weights).sum(), inputs),
    )


def test_anchors_are_made_once_for_a_size():
    with torch.inference_mode():
        first = grid_anchors((96, 160), pyramid(96, 160))
    assert grid_anchors((96, 160), pyramid(96, 160)) is first
    assert len(grid_anchors((128, 160), pyramid(128, 160))) > len(first)
    # Also for training, where graphs keep them.
    (first * torch.ones(4, requires_grad=True)).sum().backward()


def test_folded_weights_are_kept_at_inference_until_they_change():
    torch.manual_seed(0)
    embedder, path = AnchorEmbedder(6, 16, bias=-0.5).eval(), SwapPath(16).eval()
    features = [torch.randn(1, 6, 5, 7)]
    folds = []
    fold = embedder.folded
    embedder.folded = lambda affine: folds.append(1) or fold(affine)

    def check():
        with torch.no_grad():
            expected = path.object_centric(embedder(features))
            torch.testing.assert_close(embedder(features, path), expected)
            embedder(features, path)

    check()
    assert len(folds) == 1
    with torch.no_grad():
        path.bridge.weight.normal_()
    check()
    embedder.load_state_dict({k: 2 * v for k, v in embedder.state_dict().items()})
    check()
    embedder.conv.bias.data = torch.ones(9 * 16)
    check()
    assert len(folds) == 4
    embedder.train()
    embedder(features, path).sum().backward()
    assert path.bridge.weight.grad is not None and len(folds) == 5
