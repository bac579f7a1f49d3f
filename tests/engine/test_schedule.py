"""Epochs to iterations, and the learning rate against values of the authors' runs."""

import logging

import pytest
import torch
from detectron2.solver import build_lr_scheduler

from spnet_d2.engine import resolve_schedule
from spnet_d2.engine.schedule import prefer_explicit_iterations

# Iterations per epoch, and {iteration: learning rate} over 30 epochs at a base of 1e-4.
CUHK_SYSU = 1400
CUHK_SYSU_LR = {
    0: 1e-7,
    1: 1.999e-7,
    500: 5.005e-5,
    999: 9.99001e-5,
    1000: 1e-4,
    21_500: 5e-5,
    41_999: 1.468e-13,
}
PRW = 713
PRW_LR = {
    0: 1e-7,
    1: 2.40309e-7,
    356: 5.005e-5,
    711: 9.98597e-5,
    712: 1e-4,
    11_051: 5e-5,
    21_389: 5.771e-13,
}


@pytest.mark.parametrize(
    ("iterations", "expected"), [(CUHK_SYSU, CUHK_SYSU_LR), (PRW, PRW_LR)], ids=["cuhk", "prw"]
)
def test_learning_rates_are_the_authors(default_cfg, iterations, expected):
    resolve_schedule(default_cfg, iterations)
    groups = [
        {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr}
        for lr in (default_cfg.SOLVER.BASE_LR, 1e-5)
    ]
    optimizer = torch.optim.AdamW(groups)
    scheduler = build_lr_scheduler(default_cfg, optimizer)
    assert default_cfg.SOLVER.MAX_ITER == 30 * iterations == max(expected) + 1
    for t in range(default_cfg.SOLVER.MAX_ITER):
        if t in expected:
            main, backbone = (group["lr"] for group in optimizer.param_groups)
            # The last values are differences of nearly equal numbers.
            assert main == pytest.approx(expected[t], rel=1e-6 if t < 30_000 else 1e-3, abs=1e-15)
            assert backbone == pytest.approx(main / 10)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(("iterations", "warmup"), [(1400, 1000), (1001, 1000), (713, 712), (1, 0)])
def test_warmup_is_an_epoch_less_one_or_1000(default_cfg, iterations, warmup):
    resolve_schedule(default_cfg, iterations)
    assert default_cfg.SOLVER.WARMUP_ITERS == warmup


def test_periods_in_epochs(default_cfg):
    default_cfg.TEST.EVAL_EPOCHS = 2
    resolve_schedule(default_cfg, 10)
    assert default_cfg.SOLVER.MAX_ITER == 300
    assert default_cfg.SOLVER.CHECKPOINT_PERIOD == 50
    assert default_cfg.TEST.EVAL_PERIOD == 20


def test_zero_epochs_leave_iterations_alone(default_cfg):
    solver = default_cfg.SOLVER
    solver.EPOCHS, solver.MAX_ITER = 0, 77
    solver.CHECKPOINT_EPOCHS, solver.CHECKPOINT_PERIOD = 0, 11
    solver.WARMUP_ITERS = 5
    default_cfg.TEST.EVAL_PERIOD = 7
    resolve_schedule(default_cfg, 10)
    assert (solver.MAX_ITER, solver.CHECKPOINT_PERIOD, solver.WARMUP_ITERS) == (77, 11, 5)
    assert default_cfg.TEST.EVAL_PERIOD == 7


def test_no_checkpoint_period_means_the_final_one(default_cfg):
    default_cfg.SOLVER.CHECKPOINT_EPOCHS = default_cfg.SOLVER.CHECKPOINT_PERIOD = 0
    resolve_schedule(default_cfg, 10)
    assert default_cfg.SOLVER.CHECKPOINT_PERIOD == 300


def test_short_run_ends_its_warmup(default_cfg):
    """A run of less than an epoch still reaches the base rate (and the end without an error)."""
    default_cfg.SOLVER.EPOCHS, default_cfg.SOLVER.MAX_ITER = 0, 3
    resolve_schedule(default_cfg, 1400)
    assert default_cfg.SOLVER.WARMUP_ITERS == 2
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    scheduler = build_lr_scheduler(default_cfg, optimizer)
    rates = []
    for _ in range(3):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([1e-7, 5.005e-5, 1e-4])


def test_warmup_longer_than_training_is_refused(default_cfg):
    default_cfg.SOLVER.WARMUP_ITERS = 300
    with pytest.raises(ValueError, match=r"WARMUP_ITERS \(300\).*MAX_ITER \(300\)"):
        resolve_schedule(default_cfg, 10)


def test_nothing_to_train_is_refused(default_cfg):
    default_cfg.SOLVER.EPOCHS = default_cfg.SOLVER.MAX_ITER = 0
    with pytest.raises(ValueError, match="nothing to train"):
        resolve_schedule(default_cfg, 10)


def test_iterations_of_the_command_line_win_over_epochs(default_cfg, caplog):
    default_cfg.SOLVER.MAX_ITER = 100
    with caplog.at_level(logging.INFO, "spnet_d2.engine"):
        prefer_explicit_iterations(default_cfg, ["SOLVER.MAX_ITER"])
    resolve_schedule(default_cfg, 10)
    assert default_cfg.SOLVER.MAX_ITER == 100
    assert "SOLVER.EPOCHS is set to 0" in caplog.text


@pytest.mark.parametrize(("last", "iterations"), [("SOLVER.EPOCHS", 300), ("SOLVER.MAX_ITER", 100)])
def test_of_epochs_and_iterations_on_the_command_line_the_later_wins(default_cfg, last, iterations):
    default_cfg.SOLVER.MAX_ITER = 100
    keys = ["SOLVER.MAX_ITER", "SOLVER.EPOCHS", "SEED", last]
    prefer_explicit_iterations(default_cfg, keys)
    resolve_schedule(default_cfg, 10)
    assert default_cfg.SOLVER.MAX_ITER == iterations
    # Periods have keys of their own.
    assert default_cfg.SOLVER.CHECKPOINT_PERIOD == 50


@pytest.mark.parametrize("key", ["SOLVER.EPOCHS", "SOLVER.CHECKPOINT_EPOCHS", "TEST.EVAL_EPOCHS"])
def test_negative_epochs_are_refused(default_cfg, key):
    default_cfg.merge_from_list([key, -1])
    with pytest.raises(ValueError, match=f"{key} is -1"):
        resolve_schedule(default_cfg, 10)
