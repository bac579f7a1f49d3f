"""Boxes between the graphs: NumPy gives what the tensors of the model give."""

import numpy as np
import pytest
import torch
from torchvision.ops import nms as torch_nms

from spnet_d2.export import boxes as exported
from spnet_d2.modeling.losses import nms_per_query


def crowd(seed: int, n: int, dtype=np.float32):
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 100, (n, 2)), rng.uniform(0, 60, (n, 2))
    boxes = np.concatenate([corner, corner + size], axis=1).astype(dtype)
    # Also equal scores.
    return boxes, rng.integers(0, n, n).astype(dtype) / n


@pytest.mark.parametrize("n", [0, 1, 300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nms_is_torchvisions(n, dtype):
    boxes, scores = crowd(0, n, dtype)
    expected = torch_nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.4)
    assert exported.nms(boxes, scores, 0.4).tolist() == expected.tolist()


def test_nms_keeps_empty_boxes_and_drops_copies():
    boxes = np.array([[5, 5, 5, 5], [5, 5, 5, 5], [0, 0, 9, 9], [0, 0, 9, 9]], np.float32)
    assert exported.nms(boxes, np.float32([0.4, 0.3, 0.2, 0.1]), 0.5).tolist() == [0, 1, 2]


def test_nms_compares_in_float64_as_torchvision_does():
    """An IoU of float32's 0.4, which is more than 0.4."""
    boxes = np.array([[0, 0, 10, 10], [0, 0, 4, 10]], np.float32)
    expected = torch_nms(torch.from_numpy(boxes), torch.tensor([0.9, 0.8]), 0.4)
    assert exported.nms(boxes, np.float32([0.9, 0.8]), 0.4).tolist() == expected.tolist()


@pytest.mark.parametrize("n", [0, 1, 200])
def test_nms_per_query_is_the_models(n):
    boxes, scores = crowd(1, n)
    query = np.sort(np.random.default_rng(2).integers(0, 3, n))
    tensors = (torch.from_numpy(x) for x in (boxes, scores, query))
    kept = nms_per_query(*tensors, 0.5).numpy()
    # The model's are sorted by score alone.
    kept = kept[np.argsort(query[kept], kind="stable")]
    assert exported.nms_per_query(boxes, scores, query, 0.5).tolist() == kept.tolist()


def test_sigmoid_does_not_overflow():
    logits = np.float32([-200, -3, 0, 3, 200])
    with np.errstate(over="raise"):
        found = exported.sigmoid(logits)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, torch.from_numpy(logits).sigmoid(), rtol=1e-6)
