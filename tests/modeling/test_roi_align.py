"""RoIAlign by weighted sums of rows against torchvision's."""

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import roi_align

from spnet_d2.modeling.box_embedder import RoiMap, pool_rois
from spnet_d2.modeling.roi_align import align, pays

BOXES = {
    "inside": (20.0, 30.0, 120.0, 200.0),
    "half outside": (-60.0, -45.5, 60.0, 90.0),
    "beyond the far corner": (230.0, 180.0, 420.0, 333.0),
    "far away": (5000.0, 5000.0, 5100.0, 5200.0),
    "empty": (50.0, 60.0, 50.0, 60.0),
    "upside down": (90.0, 90.0, 40.0, 20.0),
    "on the border": (0.0, 0.0, 256.0, 200.0),
    "one pixel left of the map": (-8.0, -8.0, 104.0, 104.0),
}


def smooth_map(channels: int = 5) -> torch.Tensor:
    """(2, channels, 25, 32), channels last."""
    torch.manual_seed(0)
    values = torch.randn(2, channels, 25, 32)
    return values.contiguous(memory_format=torch.channels_last)


def rois_of(boxes) -> torch.Tensor:
    rows = [(image, *box) for image in (0, 1) for box in boxes]
    return torch.tensor(rows)


@pytest.mark.parametrize("name", BOXES)
def test_values_and_gradient_are_torchvisions(name):
    values, rois = smooth_map(), rois_of([BOXES[name]])
    ours, theirs = (values.clone(memory_format=f).requires_grad_() for f in _FORMATS)
    assert pays(ours) and not pays(theirs)
    found = align(ours, rois, 14, 1 / 8)
    expected = roi_align(theirs, rois, 14, 1 / 8, 2, aligned=False)
    assert_close(found, expected, rtol=0, atol=2e-6)
    weights = torch.randn(found.shape)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=2e-5)


_FORMATS = (torch.preserve_format, torch.contiguous_format)


def test_large_maps_and_no_boxes():
    values = torch.rand(1, 3, 108, 188).contiguous(memory_format=torch.channels_last)
    rois = torch.rand(50, 5) * torch.tensor([0, 1400, 800, 100, 300])
    rois[:, 3:] += rois[:, 1:3]
    expected = roi_align(values, rois, 14, 1 / 8, 2, aligned=False)
    assert_close(align(values, rois, 14, 1 / 8), expected, rtol=0, atol=1e-5)
    assert align(values, rois[:0], 14, 1 / 8).shape == (0, 3, 14, 14)


def test_boxes_that_are_not_finite_give_nan_and_leave_others_alone():
    rois = rois_of([BOXES["inside"], (torch.nan, 0.0, 10.0, 10.0), (0.0, 0.0, torch.inf, 9.0)])
    p3 = RoiMap.of(smooth_map())
    pooled = pool_rois(p3, rois)
    broken = ~rois.isfinite().all(dim=1)
    assert pooled[broken].isnan().all() and pooled[~broken].isfinite().all()
    assert_close(pooled[~broken], pool_rois(p3, rois[~broken]), rtol=0, atol=0)


def test_maps_in_the_other_layout_keep_torchvisions_numbers():
    values, rois = smooth_map().contiguous(), rois_of(BOXES.values())
    expected = roi_align(values, rois, 14, 1 / 8, 2, aligned=False)
    assert torch.equal(pool_rois(values, rois), expected)
