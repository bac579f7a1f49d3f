"""One training step: in parts, in mixed precision, and with batches that can't be trained on."""

import logging
from argparse import Namespace

import pytest
import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close
from torch.utils.hooks import RemovableHandle

from spnet_d2.engine import Trainer, setup
from spnet_d2.engine.bad_batches import BadBatchError, Moment
from spnet_d2.engine.batch_parts import cut
from spnet_d2.engine.optimizer import clip_by_global_norm
from spnet_d2.engine.step import StepTrainer
from spnet_d2.modeling.whole_batch import in_last_pass, mean
from tests.engine.processes import together


class Toy(nn.Module):
    """
    Its losses are means over the whole batch, of all images and of those that are positive.

    Like a re-id memory, ``memory`` takes what every forward pass sees.
    """

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 1)
        self.register_buffer("memory", torch.zeros(()))
        self.seen, self.kinds, self.twin_moves = [], [], []

    def forward(self, data):
        self.seen.append(len(data))
        x = torch.stack([x["image"] for x in data])
        out, positive = self.layer(x), x[:, :1] > 0
        self.kinds.append(out.dtype)
        out = out.float()
        if in_last_pass():
            self.memory += out.detach().sum() + torch.rand(())
        return {
            "loss_a": mean(out.square().sum(), len(out)),
            "loss_b": mean(out[positive].sum(), positive.sum()) + 0.0 * out.sum(),
        }

    def move_twin_with(self, optimizer):
        weight = self.layer.weight
        optimizer.register_step_pre_hook(lambda *_: self.twin_moves.append(weight.detach().clone()))


def batch(*bad: int, value: float = torch.nan) -> list[dict]:
    """Eight images, those of numbers ``bad`` with this value in them."""
    images = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    images[list(bad)] = value
    return [{"image": image, "file_name": f"{i}.png"} for i, image in enumerate(images)]


def build(batches: list, wrap=lambda model: model, **kwargs) -> StepTrainer:
    model = wrap(Toy())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    trainer = StepTrainer(model, batches, clip_by_global_norm(optimizer, 100.0), **kwargs)
    trainer.iter = 0
    return trainer


def step(*batches: list, **kwargs) -> tuple[StepTrainer, dict]:
    """Optimiser steps of a toy model."""
    trainer = build(list(batches), **kwargs)
    with EventStorage() as storage:
        for _ in batches:
            trainer.run_step()
        return trainer, {name: value for name, (value, _) in storage.latest().items()}


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_parts_give_the_step_of_the_whole_batch(steps):
    whole, expected = step(batch())
    parts, found = step(batch(), steps=steps)
    # All parts pass once to count and once to train.
    assert parts.model.seen == [8 // steps] * steps * 2
    assert_close(parts.model.layer.weight, whole.model.layer.weight)
    assert_close(parts.model.layer.bias, whole.model.layer.bias)
    for name in ("loss_a", "loss_b", "total_loss"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5)


def test_short_batches_are_cut_into_fewer_parts_between_sets_of_views():
    assert cut([1, 2, 3, 4, 5, 6], 2) == [[1, 2, 3], [4, 5, 6]]
    assert cut([1, 1, 2, 2, 3, 3], 2, views=2) == [[1, 1], [2, 2, 3, 3]]
    assert cut([1, 1], 4, views=2) == [[1, 1]]


@pytest.mark.parametrize("steps", [1, 4])
def test_bfloat16_without_a_scaled_loss(steps):
    whole, _ = step(batch())
    trainer, metrics = step(batch(), steps=steps, precision="bfloat16")
    assert trainer.model.kinds == [torch.bfloat16] * (steps if steps == 1 else 2 * steps)
    assert_close(trainer.model.layer.weight, whole.model.layer.weight, rtol=0.05, atol=0.01)
    assert not torch.equal(trainer.model.layer.weight, whole.model.layer.weight)
    assert trainer.grad_scaler is None and "loss_scale" not in metrics


def test_float16_scales_the_loss():
    whole, _ = step(batch())
    trainer, metrics = step(batch(), steps=2, precision="float16")
    assert metrics["loss_scale"] == 65536.0
    # Unscaled by then. (On the CPU the layer itself stays float32.)
    assert_close(trainer.model.layer.weight, whole.model.layer.weight)
    state = trainer.state_dict()
    other = build([], precision="float16")
    other.load_state_dict(state)
    assert other.grad_scaler.state_dict() == trainer.grad_scaler.state_dict()


def test_overflow_of_a_scaled_loss_is_no_bad_batch():
    """The scale falls until the gradient fits; what the forward pass stored stays."""
    trainer = build([batch()] * 2, precision="float16")
    overflow = overflow_backward(trainer)
    weight = trainer.model.layer.weight.detach().clone()
    with EventStorage() as storage:
        trainer.run_step()
        assert torch.equal(trainer.model.layer.weight, weight) and not trainer.model.twin_moves
        assert trainer.model.memory != 0
        overflow.remove()
        trainer.run_step()
        assert storage.latest()["loss_scale"][0] == 65536.0 / 2
    assert len(trainer.model.twin_moves) == 1
    assert trainer.bad_batches.count == 0


def overflow_backward(trainer: StepTrainer) -> RemovableHandle:
    return trainer.model.layer.weight.register_hook(lambda grad: grad * torch.inf)


def test_gradient_that_overflows_unscaled_is_a_bad_batch():
    trainer = build([batch()], precision="float16")
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    overflow_backward(trainer)
    with EventStorage(), pytest.raises(BadBatchError, match=r"unscaled loss.*7\.png"):
        trainer.run_step()
    assert trainer.model.memory == 0


def test_bad_losses_leave_the_scale_alone():
    good, _ = step(batch(), precision="float16")
    trainer, metrics = step(batch(2), batch(), precision="float16", on_bad_batch="skip")
    assert metrics["bad_batches"] == 1 and metrics["loss_scale"] == 65536.0
    assert trainer.grad_scaler.state_dict() == good.grad_scaler.state_dict()
    assert torch.equal(trainer.model.layer.weight, good.model.layer.weight)


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_the_host_waits_once_for_losses_and_norm(precision, policy, monkeypatch):
    """And once more for the scale, when nothing is left to wait for."""
    trainer = build([batch()] * 3, precision=precision, on_bad_batch=policy)
    waits = []
    for name in ("item", "tolist", "cpu"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda x, f=original, n=name: (waits.append(n), f(x))[1]
        )
    with EventStorage():
        for _ in range(3):
            waits.clear()
            trainer.run_step()
    assert waits == ["tolist"] + ["item"] * (precision == "float16")


def test_what_a_forward_pass_changes_is_kept_in_the_same_storage():
    model = nn.ModuleList([nn.BatchNorm1d(3), Toy()])
    moment = Moment(model)
    moment.keep()
    storage = [b.data_ptr() for group in moment._kept for b in group]
    model[1].memory += 1
    moment.keep()
    assert [b.data_ptr() for group in moment._kept for b in group] == storage
    expected = torch.rand(2)
    moment.restore()
    model[0](torch.randn(5, 3))
    model[1].memory += 1
    moment.restore()
    assert torch.equal(torch.rand(2), expected)
    assert model[1].memory == 1 and model[0].num_batches_tracked == 0
    assert torch.equal(model[0].running_mean, torch.zeros(3))
    # A look-up table that took its size from a checkpoint.
    model[1].memory = torch.ones(4)
    moment.keep()
    model[1].memory.zero_()
    moment.restore()
    assert torch.equal(model[1].memory, torch.ones(4))


def test_twin_moves_once_per_step_from_the_weights_before_it():
    weight = Toy().layer.weight
    trainer, _ = step(batch(), batch(), steps=4)
    assert len(trainer.model.twin_moves) == 2
    assert torch.equal(trainer.model.twin_moves[0], weight)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_bad_loss_of_one_part_stops_before_anything_changes(value):
    trainer = build([batch(5, value=value)], steps=4)
    before = {name: x.clone() for name, x in trainer.model.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    # The files of the part, not of the whole batch.
    with (
        EventStorage(),
        pytest.raises(BadBatchError, match=r"loss_b (nan|inf).* The batch: 4.png, 5.png$"),
    ):
        trainer.run_step()
    for name, x in trainer.model.state_dict().items():
        assert torch.equal(x, before[name])
    assert torch.equal(torch.get_rng_state(), state)
    assert not trainer.optimizer.state and not trainer.model.twin_moves


def test_bad_gradient_stops_before_anything_changes():
    trainer = build([batch()])
    before = {name: x.clone() for name, x in trainer.model.state_dict().items()}
    overflow_backward(trainer)
    message = r"norm of the gradient is (inf|nan).* The batch: 0.png, 1.png"
    with EventStorage(), pytest.raises(BadBatchError, match=message):
        trainer.run_step()
    for name, x in trainer.model.state_dict().items():
        assert torch.equal(x, before[name])
    assert not trainer.optimizer.state and not trainer.model.twin_moves


@pytest.mark.parametrize("steps", [1, 4])
def test_skipped_batches_leave_no_trace(steps, caplog):
    torch.manual_seed(9)
    expected, _ = step(batch(), batch(), steps=steps)
    bad = [batch(2), batch(0, 7, value=torch.inf)]
    torch.manual_seed(9)
    with caplog.at_level(logging.WARNING):
        trainer, metrics = step(bad[0], batch(), bad[1], batch(), steps=steps, on_bad_batch="skip")
    for a, b in zip(
        trainer.model.state_dict().values(), expected.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)
    found, wanted = (t.optimizer.state_dict()["state"] for t in (trainer, expected))
    assert torch.equal(found[0]["momentum_buffer"], wanted[0]["momentum_buffer"])
    assert len(trainer.model.twin_moves) == 2
    assert metrics["bad_batches"] == 2
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2 and "(number 2 of this run)" in lines[1] and "0.png" in lines[1]
    # The count is the run's, also if it is resumed.
    other = build([])
    other.load_state_dict(trainer.state_dict())
    assert other.bad_batches.count == 2


def bad_on_the_second_process(policy: str, *bad: int) -> dict:
    """Three steps of two processes, where the second one's second batch has bad images."""
    rank = comm.get_rank()
    torch.manual_seed(rank)
    batches = [batch(), batch(*(bad if rank == 1 else ())), batch()]
    if policy == "without":
        del batches[1]
    trainer = build(batches, DistributedDataParallel, steps=2, on_bad_batch=policy)
    message = ""
    with EventStorage():
        try:
            for _ in batches:
                trainer.run_step()
        except BadBatchError as error:
            message = str(error)
    weights = [x.tolist() for x in trainer.network.parameters()]
    moves = len(trainer.network.twin_moves)
    return {
        "weights": weights,
        "memory": trainer.network.memory.item(),
        "moves": moves,
        "count": trainer.bad_batches.count,
        "message": message,
    }


def all_policies() -> dict:
    policies = {"stop": (1,), "skip": (1, 6), "without": ()}
    return {policy: bad_on_the_second_process(policy, *bad) for policy, bad in policies.items()}


def test_processes_decide_alike():
    ranks = together(all_policies)
    for found in ranks:
        for key in ("weights", "memory", "moves"):
            assert found["skip"][key] == found["without"][key]
        assert found["skip"]["count"] == 1 and found["skip"]["moves"] == 2
        assert found["stop"]["moves"] == 1
        message = found["stop"]["message"]
        assert message.startswith("process 1: losses are") and "1.png" in message
        assert "process 0" not in message and "4.png" not in message
    for policy in ("stop", "skip"):
        assert ranks[0][policy]["weights"] == ranks[1][policy]["weights"]


def test_a_run_that_only_skips_stops():
    batches = [batch()] + [batch(0)] * 19 + [batch()] + [batch(1)] * 20
    trainer = build(batches, on_bad_batch="skip")
    with EventStorage():
        for _ in batches[:-1]:
            trainer.run_step()
        with pytest.raises(BadBatchError, match="20 batches one after another"):
            trainer.run_step()
    assert trainer.bad_batches.count == 38


def test_in_training_iterations_and_twin_stay_those_of_the_batch(tiny_opts, tmp_path):
    """The twin's momentum is per step, whatever the number of parts."""
    opts = [
        *tiny_opts,
        *("MODEL.SPNET.MOMENTUM_TWIN.ENABLED", True, "MODEL.SPNET.REID.LOSS", "momentum_queue"),
        *("MODEL.SPNET.REID.QUEUE_SIZE", 32, "MODEL.SPNET.MOMENTUM_TWIN.MOMENTUM", 0.5),
        *("MODEL.SPNET.NUM_CASCADES", 0, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.WARMUP_ITERS", 0),
        *("SOLVER.ACCUMULATION_STEPS", 2, "OUTPUT_DIR", str(tmp_path)),
    ]
    cfg = setup(Namespace(config_file="", opts=opts))
    assert cfg.SOLVER.MAX_ITER == 4
    trainer = Trainer(cfg)
    twin, student = trainer.model.twin.backbone.fpn, trainer.model.backbone.fpn
    sizes = []
    trainer.model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    trainer._trainer.data_loader.start_iter = 0
    with EventStorage() as trainer.storage:
        trainer.iter = 0
        trainer.run_step()
        before = [p.clone() for p in twin.parameters()]
        weights = [p.clone() for p in student.parameters()]
        trainer.run_step()
    assert sizes == [2] * 8
    for old, seen, new in zip(before, weights, twin.parameters(), strict=True):
        assert_close(new, (old + seen) / 2)
    assert any((a != b).any() for a, b in zip(before, weights))
