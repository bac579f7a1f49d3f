"""Epochs to iterations, and the learning rate against values of the authors' runs."""

import copy
import logging
from pickle import dumps, loads

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.solver import build_lr_scheduler

from spnet_d2.config_reader import read_config
from spnet_d2.engine import resolve_schedule

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
    # The last iteration is stored as model_final.pth alone.
    assert default_cfg.SOLVER.CHECKPOINT_PERIOD == 301
    resolve_schedule(default_cfg, 10)
    assert default_cfg.SOLVER.CHECKPOINT_PERIOD == 301


@pytest.mark.parametrize("settings", [{"CHECKPOINT_EPOCHS": 30}, {"CHECKPOINT_PERIOD": 300}])
def test_a_checkpoint_period_of_the_whole_run_means_the_final_one(default_cfg, settings):
    for key, value in settings.items():
        setattr(default_cfg.SOLVER, key, value)
    resolve_schedule(default_cfg, 10)
    assert default_cfg.SOLVER.CHECKPOINT_PERIOD == 301


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


@pytest.mark.parametrize(("last", "iterations"), [("SOLVER.EPOCHS", 20), ("SOLVER.MAX_ITER", 100)])
def test_of_epochs_and_iterations_on_the_command_line_the_later_wins(default_cfg, last, iterations):
    values = {"SOLVER.MAX_ITER": 100, "SOLVER.EPOCHS": 2}
    keys = ["SOLVER.MAX_ITER", "SOLVER.EPOCHS", last]
    default_cfg.merge_from_list([x for key in keys for x in (key, values[key])])
    resolve_schedule(default_cfg, 10)
    assert default_cfg.SOLVER.MAX_ITER == iterations
    # Periods have keys of their own.
    assert default_cfg.SOLVER.CHECKPOINT_PERIOD == 50


FILES = [
    # base, file, settings; iterations, checkpoint period and evaluation period of 10 an epoch
    ("", "SOLVER: {MAX_ITER: 7}", [], (7, 50, 0)),
    ("", "SOLVER: {MAX_ITER: 7, CHECKPOINT_PERIOD: 3}", [], (7, 3, 0)),
    ("", "SOLVER: {MAX_ITER: 40000, CHECKPOINT_PERIOD: 5000}", [], (40000, 5000, 0)),
    ("SOLVER: {EPOCHS: 20}", "SOLVER: {MAX_ITER: 7}", [], (7, 50, 0)),
    ("SOLVER: {MAX_ITER: 7}", "SOLVER: {EPOCHS: 2}", [], (20, 50, 0)),
    ("SOLVER: {MAX_ITER: 7}", "SOLVER: {EPOCHS: 30}", [], (300, 50, 0)),
    ("SOLVER: {MAX_ITER: 7}", "SEED: 1", [], (7, 50, 0)),
    ("SOLVER: {EPOCHS: 0, MAX_ITER: 7}", "SOLVER: {MAX_ITER: 8}", [], (8, 50, 0)),
    ("", "SOLVER: {EPOCHS: 0, MAX_ITER: 7}", [], (7, 50, 0)),
    ("TEST: {EVAL_EPOCHS: 5}", "TEST: {EVAL_PERIOD: 8}", [], (300, 50, 8)),
    ("TEST: {EVAL_EPOCHS: 5}", "TEST: {EVAL_PERIOD: 0}", [], (300, 50, 0)),
    ("TEST: {EVAL_PERIOD: 8}", "TEST: {EVAL_EPOCHS: 5}", [], (300, 50, 50)),
    ("", "SOLVER: {CHECKPOINT_PERIOD: 0}", [], (300, 301, 0)),
    ("", "SOLVER: {MAX_ITER: 7}", ["SOLVER.EPOCHS", "2"], (20, 50, 0)),
    ("", "SOLVER: {EPOCHS: 2}", ["SOLVER.MAX_ITER", "7"], (7, 50, 0)),
    ("", "TEST: {EVAL_EPOCHS: 5}", ["TEST.EVAL_PERIOD", "8"], (300, 50, 8)),
]


@pytest.mark.parametrize(("base", "file", "settings", "expected"), FILES)
@pytest.mark.parametrize("reader", ["read_config", "detectron2"])
def test_the_nearest_level_that_names_epochs_or_iterations_wins(
    tmp_path, caplog, default_cfg, reader, base, file, settings, expected
):
    (tmp_path / "base.yaml").write_text(base or "SEED: 0")
    (tmp_path / "run.yaml").write_text(f"_BASE_: base.yaml\nVERSION: 2\n{file}\n")
    cfg = default_cfg
    if reader == "read_config":
        cfg = read_config(tmp_path / "run.yaml", settings)
    else:
        cfg.merge_from_file(str(tmp_path / "run.yaml"))
        cfg.merge_from_list(settings)
    resolve_schedule(cfg, 10)
    found = (cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD)
    assert found == expected
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_later_of_several_bases_wins(tmp_path, default_cfg):
    (tmp_path / "epochs.yaml").write_text("SOLVER: {EPOCHS: 2}")
    (tmp_path / "iterations.yaml").write_text("SOLVER: {MAX_ITER: 7}")
    for names, expected in (("epochs, iterations", 7), ("iterations, epochs", 20)):
        bases = ", ".join(f"{name}.yaml" for name in names.split(", "))
        (tmp_path / "run.yaml").write_text(f"_BASE_: [{bases}]\n")
        cfg = default_cfg.clone()
        cfg.merge_from_file(str(tmp_path / "run.yaml"))
        resolve_schedule(cfg, 10)
        assert cfg.SOLVER.MAX_ITER == expected


@pytest.mark.parametrize("order", ["{EPOCHS: 2, MAX_ITER: 7}", "{MAX_ITER: 7, EPOCHS: 2}"])
def test_of_both_in_one_file_epochs_win_and_a_warning_names_both(tmp_path, caplog, order):
    (tmp_path / "run.yaml").write_text(f"SOLVER: {order}")
    cfg = read_config(tmp_path / "run.yaml")
    resolve_schedule(cfg, 10)
    assert cfg.SOLVER.MAX_ITER == 20
    assert "SOLVER.EPOCHS 2 counts, 20 iterations here, and not SOLVER.MAX_ITER 7" in caplog.text


def test_the_config_of_a_finished_run_has_both_without_a_warning(tmp_path, caplog, default_cfg):
    default_cfg.TEST.EVAL_EPOCHS = 2
    resolve_schedule(default_cfg, 10)
    (tmp_path / "config.yaml").write_text(default_cfg.dump())
    again = read_config(tmp_path / "config.yaml")
    assert again.SOLVER == default_cfg.SOLVER and again.TEST == default_cfg.TEST
    resolve_schedule(again, 10)
    assert again.SOLVER == default_cfg.SOLVER
    longer = read_config(tmp_path / "config.yaml", ["SOLVER.EPOCHS", 60])
    resolve_schedule(longer, 10)
    assert longer.SOLVER.MAX_ITER == 600
    shorter = again.clone()
    shorter.SOLVER.MAX_ITER = 5
    shorter.SOLVER.WARMUP_ITERS = -1
    resolve_schedule(shorter, 10)
    assert (shorter.SOLVER.MAX_ITER, shorter.SOLVER.WARMUP_ITERS) == (5, 4)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("copied", [CfgNode.clone, copy.deepcopy, lambda x: loads(dumps(x))])
def test_what_is_set_in_code_counts(default_cfg, copied):
    """Also in copies, and in those that another process gets."""
    cfg = copied(default_cfg)
    cfg.SOLVER.MAX_ITER = 5
    resolve_schedule(copied(cfg), 10)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.EPOCHS) == (5, 0)
    cfg.SOLVER.EPOCHS = 3
    cfg = copied(cfg)
    cfg.TEST.EVAL_PERIOD = 4
    resolve_schedule(cfg, 10)
    assert (cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD) == (30, 4)
    cfg.SOLVER.MAX_ITER = 12
    resolve_schedule(cfg, 10)
    assert cfg.SOLVER.MAX_ITER == 12


@pytest.mark.parametrize("key", ["SOLVER.EPOCHS", "SOLVER.CHECKPOINT_EPOCHS", "TEST.EVAL_EPOCHS"])
def test_negative_epochs_are_refused(default_cfg, key):
    default_cfg.merge_from_list([key, -1])
    with pytest.raises(ValueError, match=f"{key} is -1"):
        resolve_schedule(default_cfg, 10)
