"""What the footage decides."""

import ast

import numpy as np
import pytest

from spnet_d2.adaptation.settings import Floor, best_floor, input_settings


def partition(height: float, size=(768, 576)) -> dict:
    return {
        "images": [{"width": size[0], "height": size[1]}] * 3,
        "annotations": [{"bbox": [0, 0, 20, h]} for h in (height - 10, height, height + 30)],
    }


@pytest.mark.parametrize(
    "height, size, expected",
    [
        (87, (768, 576), (861, 1148)),  # 1.49 times: 130 pixels
        (20, (320, 240), (480, 640)),  # not more than twice
        (400, (1920, 1080), (540, 960)),  # not less than half
        (60, (1920, 1080), (864, 1536)),  # not more than costs
        (87, (576, 768), (861, 1148)),  # upright
    ],
)
def test_input_size(height, size, expected):
    settings = input_settings(partition(height, size))
    found = dict(zip(settings[::2], settings[1::2]))
    assert (int(found["INPUT.MIN_SIZE_TEST"]), int(found["INPUT.MAX_SIZE_TEST"])) == expected
    low, high = ast.literal_eval(found["INPUT.SCALE_RANGE"])
    scale = expected[0] / min(size)
    assert low == pytest.approx(0.8 * scale, abs=2e-3)
    assert high == pytest.approx(1.33 * scale, abs=3e-3)


def slow_best_floor(scores, right, wanted):
    """Every score as a floor."""
    best = 0.0
    for floor in scores:
        kept = scores >= floor
        hits = (right & kept).sum()
        best = max(best, 2 * hits / (kept.sum() + wanted))
    return best


@pytest.mark.parametrize("seed", range(5))
def test_floor_against_trying_all(seed):
    rng = np.random.default_rng(seed)
    # With many equal scores.
    scores = rng.integers(0, 12, 40) / 12
    right = rng.random(40) < scores
    floor = best_floor(scores, right, 30)
    kept = scores >= floor.score
    assert floor.precision == pytest.approx((right & kept).sum() / kept.sum())
    assert floor.recall == pytest.approx((right & kept).sum() / 30)
    f1 = 2 * (right & kept).sum() / (kept.sum() + 30)
    assert f1 == pytest.approx(slow_best_floor(scores, right, 30))


def test_nobody_found():
    assert best_floor(np.zeros(0), np.zeros(0, bool), 3) == Floor(0.5, 0.0, 0.0)
    assert best_floor(np.ones(2), np.zeros(2, bool), 3) == Floor(0.5, 0.0, 0.0)
