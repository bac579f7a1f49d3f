"""MODEL.SPNET.COMPILE: the numbers and the names of eager mode."""

import pytest
import torch
from torch.testing import assert_close

from spnet_d2.modeling.compiling import compile_networks
from spnet_d2.testing import deterministic_sampling
from tests.cuda.devices import needs_gpu
from tests.cuda.steps import BOX_A, BOX_B, KINDS
from tests.modeling.tiny import tiny_input, tiny_model

FINDS = ("TEST.DETECTIONS_PER_IMAGE", 3)


def numbers(model, size=(96, 128)) -> dict:
    """Losses, gradients, and embeddings at inference."""
    batch = [tiny_input(i, BOX_A, BOX_B, size=size) for i in (0, 0)]
    with deterministic_sampling():
        losses = model.train()(batch)
        sum(losses.values()).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    with torch.no_grad():
        found = model.eval()(batch)[0]["gt_embeddings"]["reid"]
    return {"losses": losses, "gradients": gradients, "embeddings": found}


def test_names_and_numbers_are_those_of_eager_mode():
    """By what traces the modules, but generates no code."""
    eager, compiled = (tiny_model(*KINDS["large"], *FINDS) for _ in range(2))
    compile_networks(compiled, [compiled.backbone.trunk], backend="aot_eager")
    assert list(compiled.state_dict()) == list(eager.state_dict())
    assert_close(numbers(compiled), numbers(eager), rtol=1e-5, atol=1e-5)
    eager.load_state_dict(compiled.state_dict())


@needs_gpu
@pytest.mark.parametrize("kind", KINDS)
def test_generated_code_gives_the_same_numbers(kind):
    settings = ("MODEL.DEVICE", "cuda", *KINDS[kind], *FINDS)
    eager, compiled = (tiny_model(*settings, "MODEL.SPNET.COMPILE", c) for c in (False, True))
    for size in ((96, 128), (128, 96)):
        found, expected = (numbers(model, size) for model in (compiled, eager))
        assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_only_what_takes_time_is_compiled():
    model = tiny_model(*KINDS["large"], "MODEL.SPNET.COMPILE", True)
    names = [n for n, m in model.named_modules() if m._compiled_call_impl is not None]
    assert names[0] == "backbone.trunk"
    assert len(names) == 1 + 1 + len(model.roi_heads.loc_embedders)
    assert all(name.endswith("copy.stage") for name in names[1:])
