"""Recomputed activations: the same losses, gradients and statistics from fewer stored tensors."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from spnet_d2.modeling import backbone
from spnet_d2.modeling.activation_checkpointing import checkpoint_blocks, find_blocks
from spnet_d2.modeling.backbone import create_trunk

from .tiny import tiny_input, tiny_model

BOX_A, BOX_B = (10, 12, 44, 80), (60, 5, 100, 90)
KEY = "MODEL.SPNET.ACTIVATION_CHECKPOINTING"


def step(model):
    """Losses of a step and the bytes that its forward pass stores."""
    stored = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = model([tiny_input(0, BOX_A, BOX_B), tiny_input(1, BOX_A)])
    sum(losses.values()).backward()
    return losses, sum(stored.values())


@pytest.mark.parametrize(
    "overrides",
    [
        ("MODEL.SPNET.BACKBONE.NAME", "test_convnext"),
        ("MODEL.SPNET.BACKBONE.NAME", "test_resnet", "MODEL.SPNET.NUM_CASCADES", 1),
        ("MODEL.SPNET.BACKBONE.NAME", "test_efficientnet"),
        ("MODEL.SPNET.BACKBONE.NAME", "test_resnet", "MODEL.SPNET.BACKBONE.FREEZE_BN", True),
        (
            *("MODEL.SPNET.PATHWAY", "QC", "MODEL.SPNET.REID.LOSS", "momentum_queue"),
            *("MODEL.SPNET.MOMENTUM_TWIN.ENABLED", True, "MODEL.SPNET.LWF.ENABLED", True),
            *("MODEL.SPNET.BACKBONE.NAME", "test_resnet"),
        ),
    ],
    ids=["convnext", "resnet", "efficientnet", "frozen-batch-norms", "pre-training"],
)
def test_equals_stored_activations(overrides, monkeypatch):
    monkeypatch.setitem(backbone.DROP_PATH_RATES, "test_", 0.5)
    plain = tiny_model(*overrides)
    checkpointed = tiny_model(*overrides, KEY, True)
    assert list(plain.state_dict()) == list(checkpointed.state_dict())
    (expected, stored), (found, stored_less) = step(plain), step(checkpointed)
    for name in expected:
        assert_close(found[name], expected[name], rtol=1e-6, atol=0)
    assert stored_less < 0.8 * stored
    for (name, p), q in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None:
            assert_close(q.grad, p.grad, rtol=1e-6, atol=1e-6 * p.grad.abs().max().item())
    # Running statistics and counters saw the batch once; memories are filled alike.
    for (name, b), c in zip(plain.named_buffers(), checkpointed.buffers(), strict=True):
        assert_close(c, b, rtol=1e-6, atol=1e-7, msg=name)


def test_inference_and_no_grad_recompute_nothing(monkeypatch):
    from spnet_d2.modeling import activation_checkpointing

    def refuse(*args, **kwargs):
        raise AssertionError("nothing to recompute")

    monkeypatch.setattr(activation_checkpointing, "checkpoint", refuse)
    model = tiny_model(KEY, True)
    with torch.no_grad():
        model([tiny_input(0, BOX_A)])
        model.eval()([tiny_input(0, BOX_A)])


def test_roi_stage_copies_are_checkpointed_too_and_by_themselves():
    """A copy's blocks recompute themselves, not the trunk's blocks they were copied from."""
    model = tiny_model(KEY, True)
    stage = model.roi_heads.reid_embedder.copy.stage
    copies = find_blocks(stage)
    assert copies and all(type(b).__name__.startswith("Checkpointed") for b in copies)
    assert not set(copies) & set(find_blocks(model.backbone.trunk))
    x = torch.randn(2, 48, 6, 6, requires_grad=True)
    stage(x).sum().backward()
    assert all(p.grad is not None for p in stage.parameters())
    assert all(p.grad is None for p in model.backbone.trunk.parameters())


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("convnext_tiny", 18), ("resnet50", 16), ("swin_tiny_patch4_window7_224", 12)],
)
def test_blocks_are_the_residual_ones(name, blocks):
    with torch.device("meta"):
        trunk = create_trunk(name, "")
    found = [type(b).__name__ for b in find_blocks(trunk)]
    kinds = {kind: found.count(kind) for kind in set(found)}
    assert max(kinds.values()) == blocks
    # Beside them at most a stem or a down-sampling step.
    assert sum(kinds.values()) - blocks <= 4


def test_trunk_without_blocks():
    with pytest.raises(ValueError, match="No blocks to checkpoint in Sequential"):
        checkpoint_blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))


def test_deep_copies_share_the_class():
    trunk = create_trunk("test_convnext", "")
    checkpoint_blocks(trunk)
    again = copy.deepcopy(trunk)
    assert [type(b) for b in find_blocks(again)] == [type(b) for b in find_blocks(trunk)]
