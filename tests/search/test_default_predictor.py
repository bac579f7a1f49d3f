"""Detectron2's own DefaultPredictor with this project's configs."""

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor


@pytest.fixture(scope="module")
def weighted(trained):
    """Config that names a tiny model's weights, and the model."""
    cfg, path, model = trained
    cfg = cfg.clone()
    cfg.MODEL.WEIGHTS = path
    return cfg, model


def image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_bgr_images_reach_the_model_as_rgb(weighted):
    cfg, model = weighted
    bgr = image(96, 128)
    found = DefaultPredictor(cfg)(bgr)["instances"]
    rgb = torch.from_numpy(bgr[:, :, ::-1].transpose(2, 0, 1).copy())
    with torch.no_grad():
        (want,) = model([{"image": rgb, "height": 96, "width": 128}])
    want = want["instances"]
    assert len(found) == len(want) > 0
    # 96 x 128 is the size that the config resizes to.
    assert torch.equal(found.pred_boxes.tensor, want.pred_boxes.tensor)
    assert torch.equal(found.reid_embeddings, want.reid_embeddings)


@pytest.mark.parametrize("size", [(1, 1), (33, 65), (600, 30), (30, 600)])
def test_images_of_any_size(weighted, size):
    found = DefaultPredictor(weighted[0])(image(*size))["instances"]
    assert found.image_size == size and found.reid_embeddings.shape == (len(found), 16)
    boxes = found.pred_boxes.tensor
    assert (boxes >= 0).all() and (boxes <= torch.tensor([size[1], size[0]] * 2)).all()


def test_no_data_set_is_needed(weighted):
    cfg = weighted[0].clone()
    cfg.DATASETS.TEST = ()
    assert "instances" in DefaultPredictor(cfg)(image(40, 50))


def test_another_channel_order_is_refused(weighted):
    """It would be fed to the model as if it were RGB."""
    cfg = weighted[0].clone()
    cfg.INPUT.FORMAT = "BGR"
    with pytest.raises(ValueError, match="INPUT.FORMAT is 'BGR', expected one of RGB"):
        DefaultPredictor(cfg)
