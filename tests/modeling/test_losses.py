import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from spnet_d2.modeling.losses import (
    BOX_TRANSFORM,
    anchor_loss,
    box_loss,
    class_loss,
    clip_to_images,
    giou_loss,
)


def test_focal_reference_numbers():
    logits = torch.tensor([-57.0, -2.0, 0.0, 1.5, 3.0])
    labels = torch.tensor([1, 0, 1, 1, 0])
    expected = [28.5, 0.00756510, 0.1732868, 0.01837147, 1.4520028]
    for z, y, value in zip(logits, labels, expected):
        assert anchor_loss(z[None], y[None]).mean().item() == pytest.approx(value, rel=1e-5)
    # Summed, over the three positives.
    assert anchor_loss(logits, labels).mean().item() == pytest.approx(sum(expected) / 3, rel=1e-5)


def test_ignored_anchors_do_not_count():
    logits = torch.tensor([[1.0, -3.0], [0.5, 9.0]])
    labels = torch.tensor([[1, 0], [0, -1]])
    kept = anchor_loss(logits.flatten()[:3], labels.flatten()[:3]).mean()
    assert anchor_loss(logits, labels).mean().item() == pytest.approx(kept.item())


@pytest.mark.parametrize("loss", [anchor_loss, class_loss])
def test_divisor_without_positives_is_one(loss):
    logits = torch.tensor([0.0, 0.0], requires_grad=True)
    value = loss(logits, torch.tensor([0, 0])).mean()
    expected = 2 * 0.6931472 * (0.25 if loss is anchor_loss else 1)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    value.backward()


def test_class_loss():
    logits, labels = torch.tensor([2.0, -1.0, 0.3, 7.0]), torch.tensor([1, 0, 1, -1])
    expected = F.binary_cross_entropy_with_logits(
        logits[:3], torch.tensor([1.0, 0.0, 1.0]), reduction="sum"
    )
    assert class_loss(logits, labels).mean().item() == pytest.approx(expected.item() / 2)


ANCHORS = torch.tensor([[10.0, 10, 50, 90], [0, 0, 20, 20]])
DELTAS = torch.tensor([[0.1, -0.2, 0.3, 0.4], [0, 0, 0, 5]])


def test_decoding_reference_numbers():
    expected = [
        [7.002823, -25.672989, 60.997177, 93.672989],
        [0, -615.00006, 20, 635.00006],
    ]
    found = BOX_TRANSFORM.apply_deltas(DELTAS, ANCHORS)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-3, rtol=0)


def test_box_loss_reference_numbers():
    targets = torch.tensor([[12.0, 8, 60, 100], [30, 30, 50, 60]])
    for i, expected in enumerate((0.3961518, 1.5904000)):
        index = slice(i, i + 1)
        found = box_loss(DELTAS[index], ANCHORS[index], targets[index], torch.ones(1)).mean()
        assert found.item() == pytest.approx(expected, rel=1e-5)
    mean = box_loss(DELTAS, ANCHORS, targets, torch.ones(2)).mean()
    assert mean.item() == pytest.approx((0.3961518 + 1.59040) / 2, rel=1e-5)


def test_box_loss_without_positives_keeps_its_graph():
    deltas = DELTAS.clone().requires_grad_()
    value = box_loss(deltas, ANCHORS, ANCHORS, torch.tensor([0, -1])).mean()
    value.backward()
    assert value.item() == 0
    assert deltas.grad.abs().sum() == 0


def test_clipping_takes_one_size_or_one_per_box():
    boxes = torch.tensor([[-5.0, -1, 30, 60], [2, 3, 500, 20]])
    one = clip_to_images(boxes, torch.tensor([50, 40]))
    assert one.tolist() == [[0, 0, 30, 50], [2, 3, 40, 20]]
    each = clip_to_images(boxes, torch.tensor([[50, 20], [10, 40]]))
    assert each.tolist() == [[0, 0, 20, 50], [2, 3, 40, 10]]


@pytest.mark.parametrize("loss", [anchor_loss, class_loss])
def test_ignored_logits_give_no_gradient_whatever_they_are(loss):
    logits = torch.tensor([torch.nan, torch.inf, 0.5, -0.2], requires_grad=True)
    labels = torch.tensor([-1, -1, 1, 0])
    value = loss(logits, labels).mean()
    value.backward()
    kept = logits.detach()[2:].requires_grad_()
    expected = loss(kept, labels[2:]).mean()
    expected.backward()
    assert value == expected
    assert logits.grad.tolist() == [0, 0, *kept.grad.tolist()]


def test_predictions_for_background_give_no_box_loss_whatever_they_are():
    deltas = torch.cat([DELTAS, torch.full((1, 4), torch.nan)]).requires_grad_()
    anchors = torch.cat([ANCHORS, torch.full((1, 4), torch.nan)])
    value = box_loss(deltas, anchors, anchors + 3, torch.tensor([1, 0, -1])).mean()
    value.backward()
    assert value == box_loss(DELTAS[:1], ANCHORS[:1], ANCHORS[:1] + 3, torch.ones(1)).mean()
    assert deltas.grad[0].any() and not deltas.grad[1:].any()


def test_giou_is_torchvisions():
    torch.manual_seed(0)
    boxes, targets = torch.rand(2, 500, 4).mul(60).round().unbind()
    boxes[:, 2:] += boxes[:, :2]
    targets[:, 2:] += targets[:, :2] + 1
    boxes.requires_grad_()
    found, expected = giou_loss(boxes, targets), generalized_box_iou_loss(boxes, targets)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    a, b = (torch.autograd.grad(x.sum(), boxes)[0] for x in (found, expected))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
