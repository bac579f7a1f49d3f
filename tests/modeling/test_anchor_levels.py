"""Offsets level by level against the joined ones."""

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from spnet_d2.modeling.anchor_levels import norms_and_rows, rows_of_levels
from spnet_d2.modeling.fixed_norm import offset_norm

SIZES = (12, 5, 1)
# Images and places of sampled anchors, at the ends of levels among them.
IMAGE = torch.tensor([0, 0, 0, 1, 1])
PLACE = torch.tensor([0, 11, 12, 16, 17])


def random_levels(dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    levels = [torch.randn(2, n, 8, generator=generator) for n in SIZES]
    levels[0][1, 3] = 0.0
    return [level.to(dtype).requires_grad_() for level in levels]


def test_rows_of_levels_are_those_of_the_joined_ones():
    levels = [torch.randn(n, 3) for n in SIZES]
    indices = torch.tensor([17, 0, 11, 12, 16, 3, 3])
    assert torch.equal(rows_of_levels(levels, indices), torch.cat(levels)[indices])
    assert rows_of_levels(levels, indices[:0]).shape == (0, 3)


@pytest.mark.parametrize("sampled", [slice(None), slice(0)], ids=["some", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_values_and_gradients_are_those_of_the_joined_offsets(dtype, sampled):
    image, place = IMAGE[sampled], PLACE[sampled]
    levels, twins = random_levels(dtype), random_levels(dtype)
    joined = torch.cat(twins, dim=1)
    expected = offset_norm(joined), joined[image, place]
    found = norms_and_rows(levels, image, place)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator) for x in expected]
    for norms, rows in (found, expected):
        ((norms * weights[0]).sum() + (rows.float() * weights[1]).sum()).backward()
    for level, twin in zip(levels, twins, strict=True):
        # The joined ones' two gradients are rounded before they are added.
        tolerance = 1e-6 if dtype == torch.float32 else 2e-2
        assert level.grad.dtype == dtype
        assert_close(level.grad, twin.grad, rtol=tolerance, atol=tolerance)
    # Of norm 0.
    assert not levels[0].grad[1, 3].any()


def test_a_gradient_that_is_not_finite_shows():
    levels = random_levels()
    norms, _ = norms_and_rows(levels, IMAGE, PLACE)
    (norms * torch.nan).sum().backward()
    assert levels[1].grad.isnan().all()


def test_no_offsets_are_joined():
    """The largest tensor that the object-centric anchors make is one level's."""

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.size = max(self.size, result.numel())
            return result

    levels = random_levels()
    with Largest() as largest:
        norms, rows = norms_and_rows(levels, IMAGE, PLACE)
        (norms.sum() + rows.sum()).backward()
    assert largest.size == levels[0].numel()
