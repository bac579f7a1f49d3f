import math

import pytest
import torch

from spnet_d2.modeling.fixed_norm import NormLogits, SafeBatchNorm1d, chi_moments, offset_norm


def test_reference_numbers():
    mean, std = chi_moments(128)
    assert mean == pytest.approx(11.291633201545192, rel=1e-12)
    assert std == pytest.approx(0.7064132230941562, rel=1e-9)
    z = NormLogits(128)(torch.tensor([0.0, 5.0, 10.0, 12.0, 52.0]))
    expected = [15.98446, 8.906448, 1.828439, -1.002765, -57.62684]
    assert z.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dim", [2, 64, 128])
def test_equals_formula(dim):
    """The paper's -beta (w / sqrt(alpha) - 1), with Gamma itself."""
    alpha = 2 * (math.gamma((dim + 1) / 2) / math.gamma(dim / 2)) ** 2
    beta = math.sqrt(alpha / (dim - alpha))
    w = torch.linspace(0, 30, 50, dtype=torch.float64)
    expected = -beta * (w / math.sqrt(alpha) - 1)
    torch.testing.assert_close(NormLogits(dim)(w).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dim", [343, 344, 2048])
def test_large_sizes_where_gamma_overflows(dim):
    mean, std = chi_moments(dim)
    # sqrt(d - 1/2) and 1/sqrt(2) to first order.
    assert mean == pytest.approx(math.sqrt(dim - 0.5), rel=1e-6)
    assert std == pytest.approx(math.sqrt(0.5), rel=1e-2)


def test_moments_are_those_of_normal_vectors():
    norms = torch.randn(20000, 32, generator=torch.Generator().manual_seed(0)).norm(dim=1)
    mean, std = chi_moments(32)
    assert norms.mean().item() == pytest.approx(mean, rel=2e-3)
    assert norms.std().item() == pytest.approx(std, rel=2e-2)


@pytest.mark.parametrize("kind", ["fixed_norm", "noscale", "batch_norm"])
def test_positive_norm_flips_the_sign(kind):
    w = torch.tensor([[1.0, 2.0], [5.0, 9.0]])
    negative, positive = NormLogits(8, kind)(w), NormLogits(8, kind, positive=True)(w)
    torch.testing.assert_close(positive, -negative)
    assert negative.shape == w.shape
    assert negative[0, 0] > negative[1, 1]


def test_batch_norm_logits_use_one_channel():
    logits = NormLogits(8, "batch_norm")
    z = logits(torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(z, torch.tensor([1.2247, 0.0, -1.2247]), atol=1e-3, rtol=0)


def test_unknown_kind():
    with pytest.raises(ValueError, match="fixed_norm"):
        NormLogits(8, "norm")


def test_norm_is_float32_and_has_a_gradient_at_zero():
    offsets = torch.zeros(2, 4, dtype=torch.float16, requires_grad=True)
    w = offset_norm(offsets)
    assert w.dtype == torch.float32
    w.sum().backward()
    assert torch.isfinite(offsets.grad).all()


def test_safe_batch_norm_reference_numbers():
    norm = SafeBatchNorm1d(2, affine=False).train()
    out = norm(torch.tensor([[1.0, 2.0]]))
    torch.testing.assert_close(out, torch.tensor([[0.999995, 1.99999]]), atol=1e-6, rtol=0)
    assert norm.num_batches_tracked == 1
    assert norm.running_mean.tolist() == [0, 0]
    assert norm(torch.zeros(0, 2)).shape == (0, 2)
    assert norm.num_batches_tracked == 2
    out = norm(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    expected = torch.tensor([[-0.999995, -0.9999987], [0.999995, 0.9999987]])
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(norm.running_mean, torch.tensor([0.2, 0.4]))
    torch.testing.assert_close(norm.running_var, torch.tensor([1.1, 1.7]))
    assert norm.num_batches_tracked == 3
