"""Augmentations against metrics measured on the authors' pipeline (R = 512, image 640 x 480)."""

import numpy as np
import pytest
from detectron2.config import get_cfg

from spnet_d2.config import add_spnet_config
from spnet_d2.data.geometry import clip_with_visibility
from spnet_d2.data.transforms import (
    bbox_safe_crop,
    build_augmentation,
    focused_crop,
    focused_crop_of_known,
    window_size,
)

SIZE = (480, 640)
ALONE = np.array([[270, 140, 370, 340]], float)
THREE = np.array([[270, 140, 370, 340], [20, 150, 80, 310], [560, 300, 600, 400]], float)


def augmentation(name, **keys):
    cfg = get_cfg()
    add_spnet_config(cfg)
    cfg.INPUT.AUG_TRAIN = name
    for key, value in keys.items():
        cfg.INPUT[key] = value
    return build_augmentation(cfg, is_train=True)


def views(aug, boxes, number, known=None):
    rng = np.random.default_rng(0)
    known = np.ones(len(boxes), bool) if known is None else np.array(known)
    return [aug(SIZE, boxes, known, rng) for _ in range(number)]


RFC, RSC = {"RSC_PROB": 0.0}, {"RSC_PROB": float("inf")}
# name, odds, boxes, then mean and 5 / 50 / 95 % of the first box's output width and height.
ORACLES = [
    ("rrc2", RFC, ALONE, 187.5, (187.5, 187.5, 187.5), 375.0, (375, 375, 375)),
    ("rrc2", RSC, ALONE, 130, (73, 113, 252), 229, (143, 209, 384)),
    ("rrc2", RSC, THREE, 73.9, (65, 74, 84), 206, (142, 196, 304)),
    ("rrc_scale", RFC, ALONE, 219, (158, 226, 256), 437, (315, 451, 512)),
    ("rrc_scale", RSC, ALONE, 121, (56, 102, 247), 206, (115, 189, 358)),
]


@pytest.mark.parametrize("name, odds, boxes, width, widths, height, heights", ORACLES)
def test_monte_carlo(name, odds, boxes, width, widths, height, heights):
    sizes = []
    for view in views(augmentation(name, **odds), boxes, 3000):
        moved, keep = clip_with_visibility(view.apply_boxes(boxes), view.output, 0.4)
        assert keep[0] and (odds is RFC or keep.all())
        sizes.append(moved[0, 2:] - moved[0, :2])
    sizes = np.array(sizes)
    np.testing.assert_allclose(sizes.mean(axis=0), (width, height), rtol=0.03)
    # Tails are noisier than means.
    percentiles = np.percentile(sizes, (5, 50, 95), axis=0).T
    np.testing.assert_allclose(percentiles, (widths, heights), rtol=0.08)


@pytest.mark.parametrize(
    "size, expected",
    [
        ((480, 640), (900, 1200)),
        ((1080, 1920), (844, 1500)),
        ((576, 720), (900, 1125)),
        ((576, 768), (900, 1200)),
        # 1.5 * 5/3 = 2.5 and 3 * 1.5 = 4.5 fall on the even neighbour.
        ((900, 1), (1500, 2)),
        ((1000, 3), (1500, 4)),
    ],
)
def test_window_size(size, expected):
    assert window_size(size, 900, 1500) == expected


@pytest.mark.parametrize(
    "name, crop_size, canvas", [("rrc2", 512, 1536), ("rrc2", 1024, 3072), ("rrc_scale", 512, 2048)]
)
def test_canvas_and_output(name, crop_size, canvas):
    for view in views(augmentation(name, CROP_SIZE=crop_size), THREE, 50):
        assert view.canvas == (canvas, canvas) and view.output == (crop_size, crop_size)
        x, y, w, h = view.crop
        assert x >= 0 and y >= 0 and w >= 1 and h >= 1 and x + w <= canvas and y + h <= canvas


@pytest.mark.parametrize("scale", [(1.5, 3.0), (0.5, 2.0)])
def test_scale_range(scale):
    sampled = views(augmentation("rrc_scale", SCALE_RANGE=scale), ALONE, 2000)
    factors = np.array([view.resized for view in sampled]) / SIZE
    # int() cuts up to a pixel off.
    assert factors.min() >= scale[0] - 1 / 480 and factors.max() <= scale[1]
    assert np.ptp(factors[:, 0]) > 0.99 * (scale[1] - scale[0])
    np.testing.assert_allclose(factors.mean(), np.mean(scale), rtol=0.02)
    heights, widths = np.array([view.resized for view in sampled]).T
    assert np.abs(heights / 480 - widths / 640).max() < 1 / 480


def test_crops_and_flips_are_chosen_evenly():
    sampled = views(augmentation("rrc2"), ALONE, 4000)
    focused = np.array([view.crop[2:] == (512, 512) for view in sampled])
    flips = np.array([view.flip for view in sampled])
    assert abs(focused.mean() - 0.5) < 0.03 and abs(flips.mean() - 0.5) < 0.03
    assert abs(flips[focused].mean() - flips[~focused].mean()) < 0.05
    uneven = views(augmentation("rrc2", RSC_PROB=1 / 3), ALONE, 4000)
    assert abs(np.mean([view.crop[2:] == (512, 512) for view in uneven]) - 0.75) < 0.03


def test_training_wrs_flips_half_of_the_time():
    sampled = views(augmentation("wrs"), ALONE, 2000)
    assert {view.output for view in sampled} == {(900, 1200)}
    assert abs(np.mean([view.flip for view in sampled]) - 0.5) < 0.04
    assert not any(view.flip for view in views(augmentation("wrs", RANDOM_FLIP="none"), ALONE, 50))


def test_focused_crop_holds_the_box_everywhere():
    """All starts that hold the box occur, and no other one."""
    rng = np.random.default_rng(0)
    box = np.array([[700.5, 300.25, 900.75, 700.0]])
    crops = np.array(
        [focused_crop(box, np.array([True]), (1536, 1536), 512, rng) for _ in range(9000)]
    )
    assert (crops[:, 2:] == 512).all()
    # a = min(floor 700.5, floor(900.75 - 512)) .. b = floor 700.5, both included.
    assert set(crops[:, 0]) == set(range(388, 701))
    assert set(crops[:, 1]) == set(range(188, 301))


def test_focused_crop_at_the_canvas_border():
    rng = np.random.default_rng(0)
    for box in ([0, 0, 50, 100], [1486, 1436, 1536, 1536]):
        for _ in range(200):
            x, y, w, h = focused_crop(
                np.array([box], float), np.array([True]), (1536, 1536), 512, rng
            )
            assert 0 <= x <= 1024 and 0 <= y <= 1024 and (w, h) == (512, 512)
            assert x <= box[0] and y <= box[1] and x + w >= box[2] and y + h >= box[3]


def test_focused_crop_prefers_known_people():
    rng = np.random.default_rng(0)
    boxes = np.array([[100, 100, 110, 110], [800, 100, 810, 110], [1400, 100, 1410, 110]], float)

    def focused(known):
        crops = [
            focused_crop(boxes, np.array(known), (1536, 1536), 512, rng)[0] for _ in range(300)
        ]
        return {index for index, b in enumerate(boxes) if any(x <= b[0] <= x + 502 for x in crops)}

    assert 2 not in focused([True, False, False]) and 0 not in focused([False, False, True])
    assert focused([False, False, False]) == {0, 1, 2}


def test_large_person_enlarges_the_focused_crop():
    """A 560 x 700 px person: crop 700, resized to 512; the same on a canvas that is too narrow."""
    rng = np.random.default_rng(0)
    boxes, known = np.array([[500.0, 400, 1060, 1100]]), np.array([True])
    for _ in range(50):
        x, y, w, h = focused_crop(boxes, known, (1536, 1536), 512, rng)
        assert (w, h) == (700, 700) and y == 400 and 360 <= x <= 500
    x, y, w, h = focused_crop(np.array([[0.0, 0, 600, 1500]]), known, (1600, 1000), 512, rng)
    assert (x, w, h) == (0, 1000, 1500) and 0 <= y <= 100


def test_the_older_focused_crop():
    """R x R whoever it is; only known people are looked for, otherwise it is anywhere."""
    rng = np.random.default_rng(0)
    boxes = np.array([[500.0, 400, 1060, 1100], [20, 30, 40, 60]])
    canvas, starts = (1200, 1500), {}
    for known in ((True, False), (False, True), (False, False)):
        crops = [
            focused_crop_of_known(boxes, np.array(known), canvas, 512, rng) for _ in range(4000)
        ]
        assert {crop[2:] for crop in crops} == {(512, 512)}
        starts[known] = np.array(crops)[:, :2]
    assert (starts[True, False] == (500, 400)).all()
    assert starts[False, True].min(axis=0).tolist() == [0, 0]
    assert starts[False, True].max(axis=0).tolist() == [20, 30]
    for anywhere in (
        starts[False, False],
        [
            focused_crop_of_known(np.zeros((0, 4)), np.zeros(0, bool), canvas, 512, rng)[:2]
            for _ in range(4000)
        ],
    ):
        np.testing.assert_allclose(np.mean(anywhere, axis=0), (988 / 2, 688 / 2), rtol=0.03)
        assert np.min(anywhere) == 0 and np.max(anywhere, axis=0).tolist() == [988, 688]


def test_older_crops_are_cut_from_a_smaller_canvas():
    sampled = views(augmentation("rrc", CROP_SIZE=1024), THREE, 200)
    assert {view.canvas for view in sampled} == {(1024, 1200)}
    assert {view.output for view in sampled} == {(1024, 1024)}
    focused = np.mean([view.crop[2:] == (1024, 1024) for view in sampled])
    assert abs(focused - 0.5) < 0.12


def test_images_without_boxes():
    rng = np.random.default_rng(0)
    none, known = np.zeros((0, 4)), np.zeros(0, bool)
    assert focused_crop(none, known, (1536, 1536), 512, rng) == (0, 0, 1536, 1536)
    heights = set()
    for _ in range(2000):
        x, y, w, h = bbox_safe_crop(none, (1536, 1536), 0.1, rng)
        assert w == h and 1382 <= h <= 1536 and x + w <= 1536 and y + h <= 1536
        heights.add(h)
    assert {1382, 1536} <= heights


def test_safe_crop_keeps_every_box_even_at_the_border():
    rng = np.random.default_rng(0)
    for boxes in (THREE, np.array([[0, 0, 1536, 1536.0]]), np.array([[0, 0, 1, 1.0]])):
        for erosion in (0.0, 0.1):
            for _ in range(300):
                x, y, w, h = bbox_safe_crop(boxes, (1536, 1536), erosion, rng)
                assert x >= 0 and y >= 0 and x + w <= 1536 and y + h <= 1536
                if boxes[0, 2] > 1:
                    assert clip_with_visibility(boxes - (x, y, x, y), (h, w), 0.6)[1].all()


def test_views_depend_on_the_generator_only():
    aug = augmentation("rrc2")
    known = np.ones(3, bool)
    first = [aug(SIZE, THREE, known, np.random.default_rng(seed)) for seed in range(20)]
    np.random.seed(3)
    assert first == [aug(SIZE, THREE, known, np.random.default_rng(seed)) for seed in range(20)]
    assert len(set(first)) == 20


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"AUG_TRAIN": "rrc3"}, 'INPUT.AUG_TRAIN must be "wrs", "rrc", "rrc2" or "rrc_scale"'),
        ({"RSC_PROB": -1.0}, "RSC_PROB. must be 0 or more, found -1.0"),
        ({"AUG_TRAIN": "rrc_scale", "SCALE_RANGE": (2.0, 1.0)}, "INPUT.SCALE_RANGE"),
        ({"MIN_SIZE_TRAIN": (640, 800)}, "one size"),
        ({"MIN_SIZE_TRAIN": (0,)}, "one size"),
        ({"MAX_SIZE_TEST": 0}, r"of 1 or more, found \(900, 0, 1500\)"),
        ({"CROP_SIZE": 0}, "CROP_SIZE. must be 1"),
        ({"RANDOM_FLIP": "vertical"}, "INPUT.RANDOM_FLIP"),
    ],
)
def test_bad_settings_are_named(keys, message):
    keys = dict(keys)
    with pytest.raises(ValueError, match=message):
        augmentation(keys.pop("AUG_TRAIN", "rrc2"), **keys)


def test_test_time():
    cfg = get_cfg()
    add_spnet_config(cfg)
    view = build_augmentation(cfg, is_train=False)((576, 720), None, None)
    assert view.output == (900, 1125) and not view.flip
    cfg.INPUT.AUG_TEST = "none"
    assert build_augmentation(cfg, is_train=False)((576, 720), None, None).output == (576, 720)
    cfg.INPUT.AUG_TEST = "rrc2"
    with pytest.raises(ValueError, match="INPUT.AUG_TEST"):
        build_augmentation(cfg, is_train=False)
