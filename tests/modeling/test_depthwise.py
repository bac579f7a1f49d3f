"""The weights' gradient of depthwise convolutions against PyTorch's."""

import pytest
import torch
from torch import nn

from spnet_d2.modeling import depthwise
from spnet_d2.modeling.depthwise import DepthwiseConv, use_fast_depthwise, weight_gradient


def pair(channels=6, **options):
    """PyTorch's convolution in double precision, and the same one."""
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, channels, 7, padding=3, groups=channels, **options)
    fast = nn.Conv2d(channels, channels, 7, padding=3, groups=channels, **options)
    fast.load_state_dict(plain.state_dict())
    use_fast_depthwise(fast)
    return plain.double(), fast


def close(found, expected):
    assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("size", [(1, 1), (7, 7), (16, 5), (17, 40), (3, 90), (48, 33)])
@pytest.mark.parametrize("numbers", [1 << 18, 700])
def test_gradients_are_a_convolutions(monkeypatch, size, layout, numbers):
    monkeypatch.setattr(depthwise, "_NUMBERS", numbers)
    plain, fast = pair()
    assert type(fast) is DepthwiseConv
    x = torch.randn(3, 6, *size).contiguous(memory_format=layout).requires_grad_()
    y, expected = fast(x), plain(x.double())
    close(y, expected)
    grad = torch.randn_like(y)
    found = torch.autograd.grad(y, (x, fast.weight, fast.bias), grad)
    wanted = torch.autograd.grad(expected, (x, plain.weight, plain.bias), grad.double())
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        close(a, b)


def test_outputs_are_pytorchs_exactly():
    plain, fast = pair(bias=False)
    x = torch.randn(2, 6, 20, 30)
    assert torch.equal(fast(x), plain.float()(x))


def test_only_gradients_that_are_needed(monkeypatch):
    plain, fast = pair()
    x = torch.randn(2, 6, 9, 9)
    fast(x).sum().backward()
    plain(x.double()).sum().backward()
    close(fast.weight.grad, plain.weight.grad)
    assert x.grad is None
    # A frozen convolution keeps PyTorch's.
    monkeypatch.setattr(depthwise, "weight_gradient", None)
    fast.weight.requires_grad_(False)
    x.requires_grad_()
    fast(x).sum().backward()
    assert x.grad is not None


def test_no_images():
    x = torch.zeros(0, 6, 8, 8)
    assert torch.equal(weight_gradient(x, x), torch.zeros(6, 1, 7, 7))


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 1},
        {"groups": 8, "stride": 2},
        {"groups": 8, "dilation": 2},
        {"groups": 8, "padding": 0},
        {"groups": 8, "padding_mode": "reflect"},
    ],
)
def test_other_convolutions_stay_as_they_are(options):
    conv = nn.Conv2d(8, 8, 7, **{"padding": 3, **options})
    use_fast_depthwise(conv)
    assert type(conv) is nn.Conv2d
