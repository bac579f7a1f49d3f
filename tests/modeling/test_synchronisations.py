"""How often a training step and inference wait for the GPU, counted by operator on a CPU."""

from dataclasses import replace

import pytest
import torch
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage

from spnet_d2.modeling.device_copies import move, to_device
from spnet_d2.modeling.targets import Targets

from .synchronisations import Synchronisations
from .tiny import DIM, tiny_input, tiny_model

BOX_A, BOX_B, BOX_C = (10, 12, 44, 80), (60, 5, 100, 90), (30, 30, 70, 95)
PRETRAINING = (
    *("MODEL.SPNET.QC.ANCHORS_PER_PAIR", 8, "MODEL.SPNET.QC.PAIRS_PER_BATCH", 12),
    *("MODEL.SPNET.PATHWAY", "QC", "MODEL.SPNET.REID.LOSS", "momentum_queue"),
    *("MODEL.SPNET.REID.QUEUE_SIZE", 32, "MODEL.SPNET.MOMENTUM_TWIN.ENABLED", True),
)
CASCADES = (
    *("MODEL.SPNET.NUM_CASCADES", 2, "MODEL.SPNET.SEPARATE_HEADS", True),
    *("MODEL.SPNET.REID_DIM", 32),
)
# Before: 180, 174 and 307 of these inputs.
TRAINING = {
    "object-centric": ((), 3),
    "query-centric": (PRETRAINING, 3),
    "cascades": (CASCADES, 5),
    "query-centric cascades": ((*PRETRAINING, *CASCADES), 3),
    "conservative pairs": (PRETRAINING, 3),
    "nt_xent": (
        (
            *("MODEL.SPNET.REID.LOSS", "nt_xent", "MODEL.SPNET.SMALL_DATA.BOX_JITTER", 0.1),
            *("MODEL.SPNET.PATHWAY", "QC"),
        ),
        3,
    ),
}
IGNORING = ("cascades", "query-centric cascades", "conservative pairs")


def batch(**extra) -> list[dict]:
    """Eight images of different sizes, one of them without people."""
    people = [(BOX_A, BOX_B), (BOX_B,), (), (BOX_A, BOX_B, BOX_C)] * 2
    sizes = [(96, 128), (100, 120)] * 4
    return [tiny_input(i, *p, size=size, **extra) for i, (p, size) in enumerate(zip(people, sizes))]


@pytest.mark.parametrize("case", TRAINING)
def test_training_step(case):
    overrides, limit = TRAINING[case]
    model = tiny_model(*overrides)
    if case == "conservative pairs":
        sampling = model.proposal_generator.sampling
        model.proposal_generator.sampling = replace(sampling, match_conservative=True)
    regions = Boxes(torch.tensor([[0.0, 0, 50, 50]]))
    inputs = batch(ignore_boxes=regions) if case in IGNORING else batch()
    for x in inputs[::2]:
        x["instances"].gt_identities[:1] = -1
    # Anchors of these sizes are kept.
    model(inputs)
    seen = Synchronisations(model)
    with seen.watch():
        losses = model(inputs)
        sum(losses.values()).backward()
    assert seen.total <= limit, seen.counts
    # Images and ground truth, and what goes where in the memory.
    assert seen.uploads <= 2
    assert seen.operators > 1000


def test_step_on_inputs_that_are_on_the_device():
    """Images are taken as they are. Ground truth, which the host needs, is copied back."""
    model = tiny_model()
    inputs = batch()
    model(inputs)
    seen = Synchronisations(model)
    for x in inputs:
        x["image"] = seen.put(x["image"].clone())
    with seen.watch():
        model(inputs)
    assert seen.total <= 4, seen.counts


@pytest.mark.parametrize(
    ("overrides", "limit"), [((), 2), (CASCADES, 4)], ids=["one round", "cascades"]
)
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_inference(overrides, limit, kind):
    model = tiny_model(*overrides).eval()
    x = tiny_input(0, BOX_A, BOX_B)
    x["image"] = x["image"].to(kind)
    with torch.no_grad():
        model([x])
        seen = Synchronisations(model)
        with seen.watch():
            (output,) = model([x])
    assert len(output["instances"]) and len(output["gt_embeddings"]["reid"]) == 2
    assert seen.total <= limit, seen.counts
    assert seen.uploads == 1


def test_search():
    model = tiny_model("MODEL.SPNET.PATHWAY", "QC").eval()
    x = tiny_input(0)
    x_q = torch.randn(5, DIM, generator=torch.Generator().manual_seed(0)) * 0.5
    x["queries"] = {"reid": x_q, "loc": x_q}
    with torch.no_grad():
        model([x])
        seen = Synchronisations(model)
        with seen.watch():
            (output,) = model([x])
            assert sum(map(len, output["query_instances"])) > 0
    assert seen.total <= 4, seen.counts
    assert seen.uploads == 1


def test_instrument():
    """It counts what it is there for: of the device, and not of the host."""
    model = torch.nn.Linear(3, 3, bias=False)
    host = torch.randn(3, 3)
    seen = Synchronisations(model)
    with seen.watch():
        assert host[host > 0].sum().item() >= 0
        assert host.nonzero().tolist()
    assert seen.total == 0
    with seen.watch():
        y = model.weight * 2
        y[y > 0].sum().backward()
        y.detach()[0, 0].item()
        y.nonzero()
        y[0].tolist()
        host.to(torch.device("cpu")) + y
        torch.tensor([1.0], device="cpu")
        y.new_tensor([1.0])
        if (y > 0).any():
            y.unique()
    # Forward and backward.
    assert seen.counts["index by mask"] == 2
    assert seen.counts["_local_scalar_dense"] == 2
    assert seen.counts["copy to the device"] == 1
    names = {"nonzero", "tolist", "tensor of a host's value", "new_tensor", "_unique2"}
    assert all(seen.counts[name] == 1 for name in names)
    with seen.watch(), pytest.raises(AssertionError, match="on the host"):
        torch.ones(3, 3) + model.weight


def test_copies_are_one_and_give_back_types_and_shapes():
    tensors = [
        torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8),
        torch.tensor([[1.5, 2.5]]),
        torch.zeros(0, 4),
        torch.tensor([True, False, True]),
        torch.tensor(3),
        torch.arange(12).view(3, 4).T,
    ]
    seen = Synchronisations(torch.nn.Linear(1, 1))
    with seen.watch():
        there = seen.put(torch.ones(2))
        found = to_device([*tensors, there], torch.device("cpu"))
        assert all(map(seen.on_device, found))
    assert seen.uploads == 1 and seen.total == 0
    assert found[-1] is there
    for one, other in zip(found, tensors):
        assert one.dtype == other.dtype and torch.equal(one, other)


def test_what_is_there_is_not_copied():
    targets = Targets.collect([torch.ones(2, 4)], [torch.arange(2)], [(9, 9)], [torch.zeros(0, 4)])
    moved, same, nothing = move((targets, [targets.rois], None), torch.device("cpu"))
    assert moved.rois is same[0] is targets.rois and nothing is None
    assert moved.counts == [2]


def recorded(model, inputs: list[dict], iteration: int) -> dict[str, float]:
    with EventStorage(start_iter=iteration) as storage:
        model(inputs)
    return {name: value for name, (value, _) in storage.latest().items()}


def test_numbers_of_a_step_are_recorded_now_and_then():
    """Those that the GPU counts would wait for it in every step."""
    model, inputs = tiny_model(), batch()
    assert recorded(model, inputs, 3) == {}
    found = recorded(model, inputs, 19)
    assert found.keys() == {
        *("spnet/num_pos_anchors", "spnet/num_neg_anchors", "spnet/num_reid_boxes"),
        *("spnet/num_lut_rows", "spnet/num_queue_rows"),
    }
    # Each of 8 images has 12 people together; 5 identities, of which 3 are in the batch.
    assert found["spnet/num_lut_rows"] == 3 and found["spnet/num_queue_rows"] == 0
    assert 12 / 8 <= found["spnet/num_pos_anchors"] < found["spnet/num_neg_anchors"]


def test_numbers_of_pairs_are_recorded():
    model, inputs = tiny_model(*PRETRAINING), batch()
    found = recorded(model, inputs, 39)
    kinds = [found[f"spnet/num_pairs_{kind}"] for kind in ("other", "self", "negative")]
    assert sum(kinds) == 12 and kinds[0] == 12
    # Persons 0, 1 and 2 of these images.
    assert found["spnet/num_queue_rows"] == 3
    assert "spnet/num_lut_rows" not in found
