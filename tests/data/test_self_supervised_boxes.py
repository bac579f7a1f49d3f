"""Random boxes of self-supervised pre-training."""

import copy

import numpy as np
import pytest
from detectron2.config import get_cfg
from PIL import Image

from spnet_d2.config import add_spnet_config
from spnet_d2.data.self_supervised_boxes import (
    MODES,
    DistinctivePatches,
    RandomBoxes,
    apart_boxes,
    basic_boxes,
    build_random_boxes,
    overlapping_boxes,
)

SIZE = (480, 640)


def iou(a, b):
    """One box with another, x, y, w, h; slow and plain."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inside = max(w, 0) * max(h, 0)
    return inside / (a[2] * a[3] + b[2] * b[3] - inside)


def assert_inside(boxes, size):
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] > 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= np.array(size[::-1]) + 1e-9).all()


def test_widths_and_shapes_are_uniform_in_their_logarithm():
    boxes = basic_boxes(SIZE, 20000, np.random.default_rng(0))
    assert boxes.shape == (20000, 4)
    assert_inside(boxes, SIZE)
    w, h = boxes[:, 2], boxes[:, 3]
    assert (boxes[:, 2:] == np.round(boxes[:, 2:])).all()
    assert w.min() == 9 and w.max() == 128
    # Rounding up adds half a pixel, which counts for small boxes only.
    np.testing.assert_allclose(np.median(w - 0.5), np.sqrt(8 * 128), rtol=0.03)
    large = w > 64
    np.testing.assert_allclose(large.mean(), np.log(2) / np.log(16), atol=0.01)
    ratios = np.log(w[large] / h[large])
    assert np.abs(ratios).max() <= np.log(3) + 1e-9 and abs(ratios.mean()) < 0.02
    np.testing.assert_allclose(ratios.std(), 2 * np.log(3) / np.sqrt(12), rtol=0.03)


def test_positions_are_real_and_uniform():
    boxes = basic_boxes(SIZE, 20000, np.random.default_rng(0))
    free = boxes[:, :2] / (np.array(SIZE[::-1]) - boxes[:, 2:])
    np.testing.assert_allclose(
        np.percentile(free, (10, 50, 90), axis=0).T, [[0.1, 0.5, 0.9]] * 2, atol=0.02
    )
    assert (boxes[:, 0] != np.round(boxes[:, 0])).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(30, 5), (20, 100), (100, 20), (1, 1)])
def test_small_images(mode, size):
    """Boxes are cut down to the image."""
    for seed in range(5):
        boxes = MODES[mode](size, 6, np.random.default_rng(seed))
        assert len(boxes) >= 1
        assert_inside(boxes, size)


def test_apart_boxes_hardly_overlap():
    touching = 0
    for seed in range(20):
        boxes = apart_boxes(SIZE, 20, np.random.default_rng(seed))
        assert boxes.shape == (20, 4) and (boxes == np.round(boxes)).all()
        assert_inside(boxes, SIZE)
        found = [iou(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
        assert max(found) < 0.1
        touching += sum(value > 0 for value in found)
    # They are kept from overlapping much, not from touching.
    assert touching > 20


def test_a_full_image_ends_the_search():
    boxes = apart_boxes((12, 12), 50, np.random.default_rng(0))
    assert 1 <= len(boxes) < 50


def test_every_second_box_varies_another_at_iou_06():
    kinds = np.zeros(6, int)
    for seed in range(300):
        boxes = overlapping_boxes((4000, 4000), 11, np.random.default_rng(seed))
        assert boxes.shape == (11, 4)
        assert_inside(boxes, (4000, 4000))
        for base, varied in zip(boxes[:6], boxes[6:]):
            if (varied[:2] == 0).any() or (varied[:2] + varied[2:] == 4000).any():
                continue  # clipped
            assert iou(base, varied) == pytest.approx(0.6)
            w, h = np.sign(np.round(varied[2:] - base[2:], 9)).astype(int)
            kinds[[(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1)].index((w, h))] += 1
    np.testing.assert_allclose(kinds / kinds.sum(), 1 / 6, atol=0.03)


@pytest.fixture
def record(tmp_path):
    """An image whose left half is plain and whose right half repeats one pattern."""
    pixels = np.full((96, 192, 3), 100, np.uint8)
    pixels[:, 96:] = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return {
        "file_name": str(tmp_path / "a.png"),
        "image_id": 7,
        "height": 96,
        "width": 192,
        "ignore_regions": [[0, 0, 5, 5]],
        "annotations": [{"bbox": [1, 2, 3, 4], "person_id": 0}],
    }


def test_plain_patches_and_repeated_ones():
    image = np.full((64, 128, 3), 100, np.uint8)
    image[:32, 64:] = 200
    accept = DistinctivePatches(image)
    plain, edge = np.array([0.0, 0, 40, 40]), np.array([64.0, 0, 40, 64])
    assert not accept(plain)
    assert accept(edge) and not accept(edge)
    # 32 of 64 cells differ by 100: 3200 in all.
    assert accept(np.array([44.0, 0, 40, 30]))
    # A grey range of 15 is plain, one of 16 is not.
    for step, expected in ((15, False), (16, True)):
        image = np.full((64, 64, 3), 100, np.uint8)
        image[32:] += np.uint8(step)
        assert DistinctivePatches(image)(np.array([0.0, 0, 64, 64])) is expected


def test_distinctive_boxes_avoid_the_plain_half(record):
    boxes = RandomBoxes("distinctive", 10, 1)
    plain = RandomBoxes("iou", 10, 1)
    ends = [
        [
            entry["bbox"][0] + entry["bbox"][2]
            for epoch in range(5)
            for entry in made(record, 0, epoch)["annotations"]
        ]
        for made in (boxes, plain)
    ]
    assert min(ends[0]) > 96 > min(ends[1])


@pytest.mark.parametrize("mode", MODES)
def test_annotations(record, mode):
    before = copy.deepcopy(record)
    boxes = RandomBoxes(mode, 4, num_images=50, seed=3)
    out = boxes(record, 20, 2)
    assert record == before
    assert out["image_id"] == 7 and out["ignore_regions"] == []
    numbers = [entry["person_id"] for entry in out["annotations"]]
    assert numbers == list(range((2 * 50 + 20) * 4, (2 * 50 + 20) * 4 + 4))
    for entry in out["annotations"]:
        assert entry["annotation_id"] == entry["person_id"] and entry["identity"] == -1
        assert entry["is_known"] is False and entry["category_id"] == 0
    # Both views of an image in an epoch get the same; another epoch, image or seed does not.
    assert boxes(record, 20, 2) == out
    others = [
        boxes(record, 20, 3),
        boxes(record, 21, 2),
        RandomBoxes(mode, 4, 50, 4)(record, 20, 2),
    ]
    corners = {tuple(other["annotations"][0]["bbox"]) for other in [out, *others]}
    assert len(corners) == 4


def test_numbers_are_never_used_twice(record):
    boxes = RandomBoxes("basic", 3, num_images=5)
    numbers = [
        entry["person_id"]
        for epoch in range(4)
        for index in range(5)
        for entry in boxes(record, index, epoch)["annotations"]
    ]
    assert numbers == list(range(60))


def test_settings():
    cfg = get_cfg()
    add_spnet_config(cfg)
    assert build_random_boxes(cfg, 5, 0) is None
    cfg.INPUT.SSL_BOXES = "iou"
    made = build_random_boxes(cfg, 5, 9)
    assert (made.mode, made.num_boxes, made.num_images, made.seed) == ("iou", 10, 5, 9)
    with pytest.raises(ValueError, match="'random', expected one of basic, iou, distinctive, over"):
        RandomBoxes("random", 10, 5)
    with pytest.raises(ValueError, match="1 or more, found 0"):
        RandomBoxes("basic", 0, 5)
