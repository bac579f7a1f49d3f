"""3 x 3 convolutions in tiles give what PyTorch's convolution gives, forward and backward."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spnet_d2.modeling.winograd import (
    Conv3x3,
    _Winograd,
    convolve,
    pays,
    transform_filters,
    use_fast_convolutions,
)

# Heights and widths that tiles divide, or not, in one strip or in several.
SIZES = [(4, 4), (1, 1), (5, 7), (24, 40), (33, 66), (2, 130), (97, 3)]


def inputs(size, images=2, channels=(64, 72)):
    x = torch.randn(images, channels[0], *size).to(memory_format=torch.channels_last)
    weight, bias = torch.randn(channels[1], channels[0], 3, 3) * 0.05, torch.randn(channels[1])
    return [t.requires_grad_() for t in (x, weight, bias)]


def close(found, expected):
    """Within rounding of sums of so many terms, relative to the largest."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("size", SIZES)
def test_values_and_gradients_are_a_convolutions(size):
    x, weight, bias = inputs(size)
    (y,) = _Winograd.apply(transform_filters(weight), bias, x)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    close(y, expected)
    assert y.is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(y)
    found = torch.autograd.grad(y, (x, weight, bias), grad)
    for a, b in zip(found, torch.autograd.grad(expected, (x, weight, bias), grad.double())):
        close(a, b)


def test_only_gradients_that_are_needed_are_computed():
    x, weight, bias = inputs((24, 40))
    grad = torch.randn(2, 72, 24, 40)
    expected = F.conv2d(x, weight, bias, padding=1)
    for wanted in ((x,), (weight,), (bias,)):
        for t in (x, weight, bias):
            t.requires_grad_(any(t is w for w in wanted))
        (found,) = torch.autograd.grad(convolve([x], weight, bias)[0], wanted, grad)
        close(found, torch.autograd.grad(expected, wanted, grad, retain_graph=True)[0])


def test_filters_shared_by_maps_add_up_their_gradients():
    x, weight, bias = inputs((24, 40))
    maps = [x, x.detach()[:, :, :12, :20].contiguous(memory_format=torch.channels_last), x[:1]]
    assert all(pays(m, weight) for m in (maps[0], maps[2])) and not pays(maps[1][:1], weight)
    found = torch.autograd.grad(sum(y.square().sum() for y in convolve(maps, weight, bias)), weight)
    plain = [F.conv2d(m, weight, bias, padding=1) for m in maps]
    close(found[0], torch.autograd.grad(sum(y.square().sum() for y in plain), weight)[0])


def test_other_precisions_layouts_and_tracing_keep_pytorchs_convolution():
    with torch.no_grad():
        x, weight, _ = (t.detach() for t in inputs((24, 40)))
        assert pays(x, weight)
        assert not pays(x.double(), weight.double())
        assert not pays(x.bfloat16(), weight.bfloat16())
        assert not pays(x.contiguous(), weight)
        assert not pays(x[:, :16], weight[:, :16])
        assert not pays(x.to("meta"), weight.to("meta"))
        with torch.autocast("cpu", torch.bfloat16):
            assert not pays(x, weight)
        traced = torch.jit.trace(lambda x: convolve([x], weight, weight[:, 0, 0, 0])[0], x)
    assert "aten::_convolution" in str(traced.graph)


def test_only_plain_3x3_convolutions_change_and_keep_their_weights():
    plain = nn.Conv2d(64, 64, 3, padding=1)
    others = [
        nn.Conv2d(64, 64, 1),
        nn.Conv2d(64, 64, 3),
        nn.Conv2d(64, 64, 3, padding=1, stride=2),
        nn.Conv2d(64, 64, 3, padding=1, groups=2),
        nn.Conv2d(64, 64, 3, padding=1, bias=False),
        nn.Conv2d(64, 64, 3, padding=1, dilation=2),
        nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect"),
    ]
    model = nn.Sequential(plain, *others)
    state = model.state_dict()
    use_fast_convolutions(model)
    assert type(plain) is Conv3x3 and all(type(m) is nn.Conv2d for m in others)
    assert model.state_dict().keys() == state.keys()
    x = torch.randn(1, 64, 24, 40).to(memory_format=torch.channels_last)
    close(plain(x), F.conv2d(x, plain.weight, plain.bias, padding=1))
