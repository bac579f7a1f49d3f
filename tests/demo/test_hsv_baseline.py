import json

import cv2
import numpy as np
import pytest

from spnet_d2.data.catalog import register_person_search, unregister
from spnet_d2.demo.hsv_baseline import evaluate_hsv_baseline, stripe_histogram

from ..search.scenes import BLUE, GREEN, RED, draw_scene


def test_histogram_by_hand():
    # Upper half red, lower half grey.
    image = np.full((20, 10, 3), 100, np.uint8)
    image[:10] = (255, 0, 0)
    h = stripe_histogram(image, (0, 0, 10, 20), stripes=2, bins=(4, 2, 2))
    assert h.shape == (32,) and np.linalg.norm(h) == pytest.approx(1)
    top, bottom = h.reshape(2, 4, 2, 2)
    assert top[0, 1, 1] == pytest.approx(0.5**0.5)  # hue 0, full saturation, full value
    assert bottom[0, 0, 0] == pytest.approx(0.5**0.5)  # no saturation, value 100 of 255


def test_similarity_is_mean_bhattacharyya_coefficient():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 40, 3), dtype=np.uint8)
    a, b = (stripe_histogram(image, box, 6) for box in ((0, 0, 20, 60), (20, 0, 40, 60)))
    p, q = (6 * (v.reshape(6, -1).astype(float) ** 2) for v in (a, b))
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    assert float(a @ b) == pytest.approx(np.sqrt(p * q).sum(1).mean(), rel=1e-5)


@pytest.mark.parametrize("box", [(3, 4, 3.2, 4.1), (-9, -9, 0, 0), (50, 50, 60, 60), (0, 0, 10, 2)])
def test_tiny_and_outside_boxes(box):
    image = np.full((20, 10, 3), 100, np.uint8)
    h = stripe_histogram(image, box)
    assert np.isfinite(h).all() and np.linalg.norm(h) == pytest.approx(1)


def test_evaluation_of_separable_people(tmp_path):
    """Three people of different colours in three frames: the baseline finds all of them."""
    colors = [RED, GREEN, BLUE]
    images, annotations = [], []
    for i in range(3):
        boxes = [(10 + 50 * ((i + k) % 3), 30, 20, 60) for k in range(3)]
        cv2.imwrite(str(tmp_path / f"{i}.png"), draw_scene(dict(zip(colors, boxes))))
        images.append({"id": i, "file_name": f"{i}.png", "width": 160, "height": 120, "cam_id": 1})
        for k, box in enumerate(boxes):
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": i,
                    "bbox": list(map(float, box)),
                    "category_id": 1,
                    "iscrowd": 0,
                    "person_id": k,
                    "is_known": True,
                    "iou_thresh": 0.5,
                }
            )
    (tmp_path / "test.json").write_text(
        json.dumps(
            {
                "images": images,
                "annotations": annotations,
                "categories": [{"id": 1, "name": "person"}],
            }
        )
    )
    (tmp_path / "all3.json").write_text(
        json.dumps({"images": [0, 1, 2], "queries": list(range(9))})
    )
    name = "hsv_baseline_test"
    register_person_search(name, tmp_path / "test.json", tmp_path, tmp_path / "all3.json")
    try:
        assert evaluate_hsv_baseline(name) == {"all3": {"mAP": 1.0, "top1": 1.0}}
    finally:
        unregister(name)
