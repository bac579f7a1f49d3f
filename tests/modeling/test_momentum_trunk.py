"""The momentum encoder of a frozen trunk: its maps are shared, the device needn't answer."""

import pytest
import torch

from spnet_d2.modeling import momentum_encoder
from tests.cuda.steps import BOX_A, BOX_B
from tests.modeling.tiny import tiny_input, tiny_model

FROZEN = (
    *("MODEL.SPNET.REID.LOSS", "momentum_queue", "MODEL.SPNET.MOMENTUM_TWIN.ENABLED", True),
    *("MODEL.SPNET.MOMENTUM_TWIN.MOMENTUM", 0.5, "MODEL.SPNET.REID.QUEUE_SIZE", 64),
    *("MODEL.SPNET.BACKBONE.FREEZE", True),
)


@pytest.fixture
def model():
    return tiny_model(*FROZEN).train()


def step(model) -> int:
    """A training step; how often the twin's trunk ran."""
    runs = []
    handle = model.twin.backbone.trunk.register_forward_hook(lambda *_: runs.append(1))
    model([tiny_input(i, BOX_A, BOX_B) for i in (0, 0)])
    handle.remove()
    return len(runs)


def test_trunks_are_compared_once(model, monkeypatch):
    compared = []
    equal = torch.equal
    monkeypatch.setattr(
        momentum_encoder.torch, "equal", lambda a, b: compared.append(1) or equal(a, b)
    )
    assert step(model) == 0 and compared
    compared.clear()
    assert step(model) == step(model) == 0 and not compared


def test_a_trunk_that_changed_is_noticed(model):
    assert step(model) == 0
    with torch.no_grad():
        next(model.backbone.trunk.parameters()).add_(1.0)
    assert step(model) == 1
    # A checkpoint with equal trunks again.
    state = model.state_dict()
    trunk = {n: x for n, x in state.items() if n.startswith("backbone.trunk.")}
    model.load_state_dict({**state, **{f"twin.{n}": x for n, x in trunk.items()}})
    assert step(model) == 0


def test_a_trunk_that_differs_still_moves_towards_the_student(model):
    twin = next(model.twin.backbone.trunk.parameters())
    student = next(model.backbone.trunk.parameters())
    with torch.no_grad():
        twin.add_(1.0)
    before = twin.clone()
    model.move_twin()
    assert torch.allclose(twin, (before + student) / 2)
