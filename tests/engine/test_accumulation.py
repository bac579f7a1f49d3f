"""Gradient accumulation: parts of a batch against the whole, and inside the trainer."""

from argparse import Namespace

import pytest
import torch
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.utils.events import EventStorage
from torch import nn
from torch.testing import assert_close

from spnet_d2.engine import Trainer, setup
from spnet_d2.engine.accumulation import accumulate
from spnet_d2.engine.batch_parts import cut
from spnet_d2.modeling.whole_batch import mean


class Toy(nn.Module):
    """Its losses are means over the whole batch, of all images and of those that are positive."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 1)
        self.seen, self.twin_updates, self.update_twin = [], [], True

    def forward(self, data):
        self.seen.append(len(data))
        self.twin_updates.append(self.update_twin)
        x = torch.stack(data)
        out, positive = self.layer(x).float(), x[:, :1] > 0
        return {
            "loss_a": mean(out.square().sum(), len(out)),
            "loss_b": mean(out[positive].sum(), positive.sum()),
        }


def step(cfg, steps, amp=False, batch=None):
    """One optimiser step of a toy model on a batch of 8 by ``steps`` parts."""
    model = Toy()
    cfg.SOLVER.ACCUMULATION_STEPS = steps
    data = list(torch.randn(8, 3, generator=torch.Generator().manual_seed(1)))
    parts = (model, [batch or data], torch.optim.SGD(model.parameters(), lr=0.1))
    if amp:
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        trainer = AMPTrainer(*parts, grad_scaler=scaler, precision=torch.bfloat16)
    else:
        trainer = SimpleTrainer(*parts)
    trainer = accumulate(trainer, cfg)
    with EventStorage() as storage:
        trainer.run_step()
        metrics = {name: value for name, (value, _) in storage.latest().items()}
    return model, metrics


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_parts_give_the_step_of_the_whole_batch(default_cfg, steps):
    whole, expected = step(default_cfg, 1)
    model, found = step(default_cfg, steps)
    # All parts pass once to count and once to train.
    assert model.seen == [8 // steps] * steps * 2
    assert_close(model.layer.weight, whole.layer.weight)
    assert_close(model.layer.bias, whole.layer.bias)
    for name in ("loss_a", "loss_b", "total_loss"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5)


def test_short_batches_are_cut_into_fewer_parts_between_sets_of_views():
    assert cut([1, 2, 3, 4, 5, 6], 2) == [[1, 2, 3], [4, 5, 6]]
    assert cut([1, 1, 2, 2, 3, 3], 2, views=2) == [[1, 1], [2, 2, 3, 3]]
    assert cut([1, 1], 4, views=2) == [[1, 1]]


def test_mixed_precision(default_cfg):
    whole, _ = step(default_cfg, 1)
    model, _ = step(default_cfg, 4, amp=True)
    assert_close(model.layer.weight, whole.layer.weight, rtol=0.05, atol=0.01)
    assert not torch.equal(model.layer.weight, Toy().layer.weight)


def test_twin_moves_with_the_last_part_only(default_cfg):
    model, _ = step(default_cfg, 4)
    assert model.twin_updates == [False] * 7 + [True]
    assert model.update_twin


def test_bad_loss_of_one_part_stops_before_the_parameters_change(default_cfg):
    data = [torch.ones(3)] * 7 + [torch.full((3,), torch.nan)]
    with pytest.raises(FloatingPointError, match="infinite or NaN"):
        step(default_cfg, 4, batch=data)


def test_one_part_is_detectron2s_own_trainer(default_cfg):
    trainer = SimpleTrainer(Toy(), [], None)
    assert accumulate(trainer, default_cfg) is trainer


@pytest.mark.parametrize(
    ("steps", "views"), [(3, 1), (0, 1), (-1, 1), (8, 2)], ids=["uneven", "zero", "less", "views"]
)
def test_batches_that_cannot_be_cut(default_cfg, steps, views):
    default_cfg.SOLVER.ACCUMULATION_STEPS = steps
    default_cfg.DATALOADER.VIEWS_PER_IMAGE = views
    with pytest.raises(ValueError, match=f"ACCUMULATION_STEPS is {steps}.*IMS_PER_BATCH 8"):
        accumulate(SimpleTrainer(Toy(), [], None), default_cfg)


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
