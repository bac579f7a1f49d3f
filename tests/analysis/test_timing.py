"""Time goes to the part that takes it, and limits run whatever part of a model is frozen."""

import time
from contextlib import ExitStack
from unittest import mock

import pytest
import torch

from spnet_d2.analysis import Limit, PartClock, Timing, measure, numbers, parts_table
from spnet_d2.analysis.model_parts import part_functions, timed_step
from spnet_d2.data.synthetic import make_batch
from tests.modeling.tiny import tiny_model


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_nested_parts_do_not_count_twice():
    clock, timing = PartClock(torch.device("cpu")), Timing()
    with clock.running(timing), clock.part("outer"):
        burn(0.02)
        with clock.part("inner"):
            burn(0.04)
        clock.phase("backward")
        burn(0.02)
    (parts,) = timing.parts
    assert parts["forward", "outer"] == pytest.approx(0.02, abs=0.01)
    assert parts["forward", "inner"] == pytest.approx(0.04, abs=0.01)
    assert parts["backward", "outer"] == pytest.approx(0.02, abs=0.01)
    assert sum(parts.values()) == pytest.approx(timing.busy[0])


def test_a_backward_pass_belongs_to_the_part_of_its_forward_pass():
    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, seconds):
            ctx.seconds = seconds
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            burn(ctx.seconds)
            return grad, None

    clock, timing = PartClock(torch.device("cpu")), Timing()
    first, second = (clock.timed(name, Slow.apply) for name in ("first", "second"))
    x = torch.zeros(1, requires_grad=True)
    with clock.running(timing):
        y = second(first(x, 0.06), 0.03).sum()
        clock.phase("backward")
        y.backward()
    (parts,) = timing.parts
    assert parts["backward", "first"] == pytest.approx(0.06, abs=0.02)
    assert parts["backward", "second"] == pytest.approx(0.03, abs=0.02)


def test_medians_and_ratios_of_repetitions():
    base = Timing(busy=[1.0, 4.0, 2.0], wall=[1.0, 4.0, 2.0])
    # A busy moment doubles both of a turn.
    timing = Timing(busy=[2.0, 8.0, 4.0], wall=[2.0, 8.0, 5.0])
    timing.parts = [{("forward", "a"): 1.0}, {("forward", "a"): 3.0, ("forward", "b"): 5.0}, {}]
    assert timing.over(base) == 2 and timing.median == 4
    assert timing.part_medians() == {("forward", "a"): 1.0, ("forward", "b"): 0.0}
    assert numbers(timing, 10)["images_per_second"] == 2
    assert "100.0%" in parts_table("x", timing)


def test_works_are_timed_in_turn_after_the_warm_up():
    calls = []
    works = {name: lambda name=name: calls.append(name) for name in ("a", "b")}
    timings = measure(works, PartClock(torch.device("cpu")), repetitions=2, warm_up=1)
    assert calls == ["a", "b"] * 3
    assert [len(t.busy) for t in timings.values()] == [2, 2]


def test_step_names_every_part():
    model, clock, timing = tiny_model(), PartClock(torch.device("cpu")), Timing()
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with clock.running(timing):
        timed_step(model.train(), optimizer, make_batch(2, 64, 2, 5), clock)
    parts = timing.part_medians()
    learning = {"backbone", "FPN", "anchor embedding", "swap path", "RoI heads"}
    for phase in ("forward", "backward"):
        assert learning <= {part for p, part in parts if p == phase}
    assert ("optimiser", "optimiser") in parts and ("forward", "re-id loss") in parts
    assert any((p != before[name]).any() for name, p in model.named_parameters())


class Counted:
    """A function that leaves its key in ``seen`` when it is called."""

    def __init__(self, key, function, seen):
        self.key, self.function, self.seen = key, function, seen

    def __call__(self, *args, **kwargs):
        self.seen.add(self.key)
        return self.function(*args, **kwargs)


def test_every_timed_function_runs():
    """None of them was renamed, or is passed by: training, detection and search call them all."""
    queue = ["MODEL.SPNET.REID.LOSS", "momentum_queue", "MODEL.SPNET.MOMENTUM_TWIN.ENABLED", True]
    options = [*queue, "MODEL.SPNET.REID.QUEUE_SIZE", 64, "MODEL.SPNET.NUM_CASCADES", 1]
    seen, timed = set(), set()
    for pathway in ("OC", "QC"):
        model = tiny_model(
            *options, "MODEL.SPNET.PATHWAY", pathway, "MODEL.SPNET.TEST_PATHWAY", "OC"
        )
        functions = part_functions(model)
        timed |= {(part, name) for _, name, part in functions}
        with ExitStack() as stack:
            for owner, name, part in functions:
                counted = Counted((part, name), getattr(owner, name), seen)
                stack.enter_context(mock.patch.object(owner, name, counted))
            model.train()(make_batch(4, 64, 2, 5))
            # As an optimiser's step does.
            model.move_twin()
            model.eval()
            with torch.no_grad():
                x = make_batch(1, 64, 2, 5)[0]
                (found,) = model([x])
                model([x | {"queries": found["gt_embeddings"]}])
    assert seen == timed


@pytest.mark.parametrize("frozen", ["trunk", "trunk and FPN"])
def test_limit_of_a_frozen_backbone(frozen):
    model = tiny_model().train()
    model.backbone.requires_grad_(False)
    if frozen == "trunk":
        model.backbone.fpn.inner_blocks.requires_grad_(True)
    images = torch.zeros(1, 3, 64, 64)
    embedder = model.proposal_generator.anchor_embedder.conv
    Limit(model, images)()
    lateral = model.backbone.fpn.inner_blocks[0][0].weight
    assert (lateral.grad is not None) == (frozen == "trunk")
    assert embedder.weight.grad is None
    Limit(model, images, anchors=True)()
    assert embedder.weight.grad is not None
