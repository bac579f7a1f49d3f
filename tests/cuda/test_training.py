"""Training steps on GPUs; what can be is run on the CPU as well."""

import copy
import math

import pytest
import torch
from detectron2.engine import launch
from detectron2.utils import comm
from torch.testing import assert_close

from spnet_d2.engine import random_state
from spnet_d2.engine.distribute import distribute
from spnet_d2.testing import deterministic_sampling
from tests.cuda.devices import needs_gpu, needs_two_gpus, on_every_device
from tests.cuda.steps import KINDS, build, counted_synchronisations, people_batch, run
from tests.engine.processes import together
from tests.modeling.tiny import tiny_config, tiny_input

kinds = pytest.mark.parametrize("kind", KINDS)
# Times that the host may wait for the device in a step, beside the copies of the batch.
MOST_WAITS = {"OC": 12, "QC": 20, "large": 24}


def losses(result: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in result.items() if name.startswith("loss_")}


@on_every_device
@kinds
def test_steps_under_float16_with_a_scaled_loss(device, kind):
    trainer = build(device, *KINDS[kind], precision="float16")
    before = [p.detach().clone() for p in trainer.model.parameters() if p.requires_grad]
    results = run(trainer, *[people_batch()] * 4)
    for result in results:
        found = losses(result)
        found.pop("loss_scale")
        assert found and all(math.isfinite(value) for value in found.values())
        # The scale falls until the gradient fits, and never to nothing.
        assert result["loss_scale"] >= 256
    after = [p for p in trainer.model.parameters() if p.requires_grad]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.isfinite().all() for p in after)


@on_every_device
@kinds
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_batches_without_people(device, kind, precision):
    """No ground truth, so neither pairs nor rows of the re-id loss; and then some again."""
    trainer = build(device, *KINDS[kind], precision=precision)
    empty = [tiny_input(i, file_name=f"{i}.png") for i in range(2)]
    mixed = [people_batch(2)[0], empty[0]]
    for result in run(trainer, empty, mixed, people_batch()):
        assert all(math.isfinite(value) for value in losses(result).values())


@on_every_device
@kinds
def test_losses_are_those_of_the_cpu(device, kind):
    with deterministic_sampling():
        expected, found = (run(build(d, *KINDS[kind]), people_batch()) for d in ("cpu", device))
    assert_close(losses(found[0]), losses(expected[0]), rtol=1e-3, atol=1e-5)


@on_every_device
@kinds
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_resumed_training_goes_on_as_if_it_had_not_stopped(device, kind, precision):
    first, second = (build(device, *KINDS[kind], precision=precision) for _ in range(2))
    run(first, people_batch())
    state = copy.deepcopy((first.model.state_dict(), first.state_dict(), random_state.capture()))
    expected = run(first, people_batch())
    second.model.load_state_dict(state[0])
    second.load_state_dict(state[1])
    random_state.restore(state[2])
    found = run(second, people_batch())
    exact = {"rtol": 0, "atol": 0} if device == "cpu" else {"rtol": 1e-3, "atol": 1e-4}
    assert_close(losses(found[0]), losses(expected[0]), **exact)


@needs_gpu
@kinds
def test_the_host_runs_ahead(kind):
    trainer = build("cuda", *KINDS[kind], precision="float16")
    batch = people_batch()
    run(trainer, batch, batch)
    with counted_synchronisations() as waits:
        run(trainer, batch)
    # Of a batch, images and targets are copied at once each.
    assert len(waits) <= MOST_WAITS[kind] + 2, waits


def shared_step(path, device: str) -> None:
    """A process's share of a step; its losses and weights go to a file."""
    with deterministic_sampling():
        trainer = build(device, "MODEL.SPNET.SYNC_BN", True)
        cfg = tiny_config("MODEL.DEVICE", device, "MODEL.SPNET.SYNC_BN", True)
        trainer.model = distribute(trainer.model, cfg)
        rank, size = comm.get_rank(), comm.get_world_size()
        batch = people_batch(4)
        share = len(batch) // size
        result = run(trainer, batch[rank * share : (rank + 1) * share])[0]
    weights = {name: p.detach().cpu() for name, p in trainer.network.named_parameters()}
    torch.save((losses(result), weights), f"{path}/{size}_{rank}.pth")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_two_gpus)])
def test_two_processes_train_what_one_does(tmp_path, device):
    shared_step(tmp_path, device)
    if device == "cpu":
        together(shared_step, tmp_path, device)
    else:
        launch(shared_step, 2, dist_url="auto", args=(tmp_path, device))
    expected, *found = (torch.load(tmp_path / f"{name}.pth") for name in ("1_0", "2_0", "2_1"))
    assert_close(found[0][0], expected[0], rtol=1e-3, atol=1e-5)
    assert_close(found[0][1], found[1][1], rtol=0, atol=0)
    # AdamW's first step has the gradient's sign: small ones differ by rounding.
    assert_close(found[0][1], expected[1], rtol=0, atol=2.5e-3)
