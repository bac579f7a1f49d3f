"""Bridges that start as least-squares maps from matched boxes to their queries."""

import numpy as np
import pytest
import torch

from spnet_d2.modeling.bridge_start import AffineFit, bridges_at_zero, fit_bridges, matched_pairs
from tests.modeling.tiny import tiny_input, tiny_model


def batch(seed: int) -> list[dict]:
    """Three images: two people, nobody, one."""
    left, right = (10.0 + seed, 20, 32 + seed, 70), (70, 12.0 - seed, 96, 64 - seed)
    return [tiny_input(seed, left, right), tiny_input(seed + 9), tiny_input(seed + 5, right)]


def test_affine_fit_is_numpys():
    rng = np.random.default_rng(0)
    x_a = rng.normal(3.0, 2.0, (400, 6))
    x_q = x_a @ rng.normal(size=(6, 6)) + rng.normal(size=6) + rng.normal(0, 0.1, (400, 6))
    fit = AffineFit(6)
    for part in np.split(np.arange(400), [100, 101]):
        fit.add(torch.tensor(x_a[part]).float(), torch.tensor(x_q[part]).float())
    weight, bias = fit.solve()
    with_ones = np.c_[x_a, np.ones(400)]
    expected = np.linalg.lstsq(with_ones, x_q, rcond=None)[0]
    assert fit.count == 400
    np.testing.assert_allclose(weight.numpy(), expected[:6].T, atol=2e-3)
    np.testing.assert_allclose(bias.numpy(), expected[6], atol=1e-2)


def test_fewer_pairs_than_numbers():
    """The ridge keeps what no pair says at zero, and the pairs are met."""
    fit = AffineFit(8)
    x_a, x_q = torch.randn(3, 8), torch.randn(3, 8)
    fit.add(x_a, x_q)
    weight, bias = fit.solve()
    assert weight.abs().max() < 10
    torch.testing.assert_close(x_a @ weight.T + bias, x_q, atol=0.02, rtol=0)


@pytest.mark.parametrize("cascades", [0, 2])
def test_fitted_bridges_predict_queries(cascades):
    model = tiny_model("MODEL.SPNET.NUM_CASCADES", cascades)
    assert bridges_at_zero(model) == list(range(cascades + 1))
    batches = [batch(seed) for seed in range(4)]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    counts = fit_bridges(model, batches)
    assert len(counts) == cascades + 1 and len(set(counts.values())) == 1 and counts[0] > 30
    assert not bridges_at_zero(model) and model.training
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {k for k in before if ".bridge." in k}
    model.eval()
    pairs = [matched_pairs(model, b) for b in batches]
    paths = [model.proposal_generator.swap_path, *model.roi_heads.swap_paths]
    for path, stage in zip(paths, zip(*pairs)):
        x_a, x_q = (torch.cat(column) for column in zip(*stage))
        left = path.object_centric(x_a) + x_a - x_q
        spread = (x_q - x_q.mean(dim=0)).square().mean()
        # Of what the mean query leaves: random trunks say little, but more than nothing.
        assert left.square().mean() < 0.9 * spread


def test_batches_without_people():
    model = tiny_model()
    empty = [{**x, "instances": x["instances"][:0]} for x in batch(0)]
    assert fit_bridges(model, [empty]) == {0: 0}
    assert bridges_at_zero(model) == [0]


def test_bridges_that_a_checkpoint_brought_stay():
    """An object-centric checkpoint that gets new stages: those alone are fitted."""
    model = tiny_model("MODEL.SPNET.NUM_CASCADES", 2)
    paths = [model.proposal_generator.swap_path, *model.roi_heads.swap_paths]
    with torch.no_grad():
        for path in (paths[0], paths[2]):
            path.bridge.weight.normal_()
            path.bridge.bias.normal_()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert list(fit_bridges(model, [batch(0)])) == [1]
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"roi_heads.swap_paths.0.bridge.weight", "roi_heads.swap_paths.0.bridge.bias"}
