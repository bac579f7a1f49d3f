"""The account of a training step against tensors that are really kept."""

import pytest
import torch
from torch import nn

from spnet_d2.analysis import Account, account_step, fit_accounts
from spnet_d2.analysis.memory import SavedStorages
from spnet_d2.data.synthetic import make_batch
from tests.modeling.tiny import tiny_model


def kept_bytes(run):
    """Bytes of all tensors saved by ``run``, which are kept."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t), lambda t: t):
        result = run()
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    return storages, result


def test_a_linear_layer_saves_its_input_and_a_relu_its_output():
    layer, x = nn.Linear(10, 20), torch.zeros(7, 10)
    saved = SavedStorages({layer.weight.untyped_storage().data_ptr()})
    with saved.counted():
        y = layer(x).relu()
        assert saved.bytes == (70 + 140) * 4
        z = y.view(-1) * y.view(-1)
        # The same storage again, as a view.
        assert saved.bytes == (70 + 140) * 4
    with pytest.raises(RuntimeError, match="counted, not kept"):
        z.sum().backward()
    del y, z
    assert saved.bytes == 0


def test_storages_that_are_freed_in_between_are_counted_apart():
    x = torch.ones(1000, requires_grad=True)
    saved = SavedStorages({x.untyped_storage().data_ptr()})
    with saved.counted():
        y = x
        for _ in range(6):
            y = (y * 2).exp()
    # exp saves what it returns; "* 2" saves nothing.
    assert saved.bytes == 6 * 4000


@pytest.mark.parametrize("amp", [False, True])
def test_equals_what_is_kept(amp):
    boxes, side = 3, 96
    model = tiny_model("MODEL.SPNET.NUM_CASCADES", 1)
    batch = make_batch(2, side, boxes, 5)
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    model.roi_heads.reid_iou_thresh = -1.0
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        storages, losses = kept_bytes(lambda: model(batch))
    expected = sum(size for key, size in storages.items() if key not in known)

    torch.manual_seed(0)
    account = account_step(model, 2, side, boxes, amp)
    # What is saved for results that no loss needs is freed before the forward pass ends.
    assert 0.97 * expected < account.activations <= expected
    trained = sum(p.numel() for p in model.parameters())
    assert account.weights == account.gradients == 4 * trained
    assert account.frozen == 0
    assert (account.images, account.pixels) == (2, side * side)


def test_frozen_weights_have_no_gradients():
    plain = account_step(tiny_model(), 2, 64)
    frozen = account_step(tiny_model("MODEL.SPNET.BACKBONE.FREEZE", True), 2, 64)
    assert frozen.frozen > 0
    assert frozen.weights + frozen.frozen == plain.weights
    assert frozen.activations < plain.activations


def account(images, side, activations):
    return Account(images, side * side, activations, 1, 0, 0, 1)


def test_fit_finds_its_own_numbers():
    accounts = [account(n, s, 1e6 + n * (2e5 + 70 * s * s)) for n in (1, 2) for s in (64, 128)]
    fit = fit_accounts(accounts)
    assert (fit.constant, fit.per_image, fit.per_pixel) == pytest.approx((1e6, 2e5, 70), rel=1e-6)
    assert fit.error < 1e-9
    assert fit(8, 1024) == pytest.approx(1e6 + 8 * (2e5 + 70 * 1024**2), rel=1e-6)


def test_fit_takes_two_of_each():
    with pytest.raises(ValueError, match="two batch sizes and two image sizes"):
        fit_accounts([account(1, 64, 1e6), account(1, 96, 2e6)])


def test_extrapolation_of_a_real_model():
    """From two batches and two sizes to a third of each, within a few per cent."""
    model = tiny_model("MODEL.SPNET.NUM_CASCADES", 1)
    fit = fit_accounts([account_step(model, n, s) for n in (1, 2) for s in (128, 192)])
    found = account_step(model, 4, 320).activations
    assert fit(4, 320) == pytest.approx(found, rel=0.05)
