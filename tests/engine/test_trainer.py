"""Training SPNet for a few iterations: exact resume, evaluation in between, clear failures."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode

from spnet_d2.data.catalog import register_person_search, unregister
from spnet_d2.engine import Trainer, random_state, setup
from spnet_d2.engine.bad_batches import BadBatchError
from spnet_d2.evaluation import Predictions
from spnet_d2.search import PersonSearchPredictor
from tests.engine.conftest import write_tiny_corpus
from tests.engine.equality import assert_equal

# Whatever depends on the clock.
TIMES = {"time", "data_time", "rank_data_time", "eta_seconds"}


def make_cfg(opts: list, output: Path, *more) -> CfgNode:
    return setup(Namespace(config_file="", opts=[*opts, *more, "OUTPUT_DIR", str(output)]))


class Interrupted(Exception):
    pass


def run(cfg: CfgNode, resume: bool = False, stop_before: int | None = None) -> Trainer:
    """Train; ``trainer.losses`` will be the losses of every iteration that was done."""
    torch.manual_seed(12345 if resume else 0)  # a resumed process does not start from the seed
    trainer = Trainer(cfg)
    trainer.losses = {}
    trainer.resume_or_load(resume=resume)
    step = trainer.run_step

    def recorded_step():
        if trainer.iter == stop_before:
            raise Interrupted
        step()
        trainer.losses[trainer.iter] = {
            name: value
            for name, (value, iteration) in trainer.storage.latest().items()
            if iteration == trainer.iter and name not in TIMES
        }

    trainer.run_step = recorded_step
    if stop_before is None:
        trainer.results = trainer.train()
    else:
        with pytest.raises(Interrupted):
            trainer.train()
    return trainer


@pytest.fixture(scope="module")
def whole_run(tiny_opts, tmp_path_factory):
    """Eight iterations in one go, evaluating every three."""
    output = tmp_path_factory.mktemp("trainer") / "whole"
    return run(make_cfg(tiny_opts, output, "TEST.EVAL_PERIOD", 3))


@pytest.mark.parametrize("stop_before", [3, 5], ids=["right after saving", "two iterations later"])
def test_interrupted_and_resumed_run_equals_the_whole_one(
    whole_run, tiny_opts, tmp_path, stop_before
):
    cfg = make_cfg(tiny_opts, tmp_path / "parts", "TEST.EVAL_PERIOD", 3)
    first = run(cfg, stop_before=stop_before)
    second = run(cfg, resume=True)
    assert sorted(second.losses) == [3, 4, 5, 6, 7]
    assert_equal({**first.losses, **second.losses}, whole_run.losses)
    assert second.results == whole_run.results
    final = [
        torch.load(Path(trainer.cfg.OUTPUT_DIR) / "model_final.pth", weights_only=True)
        for trainer in (whole_run, second)
    ]
    assert_equal(*final)
    # The comparison covers the memories, their write position, optimiser, schedule and generators.
    names = final[0]["model"].keys()
    assert any(name.endswith("queue_head") for name in names)
    assert final[0]["trainer"]["_trainer"]["optimizer"]["state"]
    assert {"LRScheduler", "RandomState"} <= final[0]["trainer"]["hooks"].keys()


def test_backups_between_checkpoints(whole_run, tiny_opts, tmp_path):
    """The newest two stay, a run continues from them as well, and they are gone at its end."""
    folder = tmp_path / "parts"
    cfg = make_cfg(tiny_opts, folder, "SOLVER.BACKUP_PERIOD", 1)
    run(cfg, stop_before=5)
    assert sorted(path.name for path in folder.glob("*.pth")) == [
        "backup_0000003.pth",
        "backup_0000004.pth",
        "model_0000002.pth",
    ]
    assert (folder / "last_checkpoint").read_text() == "backup_0000004.pth"
    second = run(cfg, resume=True)
    assert sorted(second.losses) == [5, 6, 7]
    assert_equal(second.losses, {i: whole_run.losses[i] for i in second.losses})
    assert not list(folder.glob("backup_*"))
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"


def test_workers_and_evaluation_change_nothing(whole_run, tiny_opts, tmp_path):
    """Without evaluations in between, and resumed with a loader process, it is the same run."""
    run(make_cfg(tiny_opts, tmp_path / "parts"), stop_before=4)
    second = run(make_cfg(tiny_opts, tmp_path / "parts", "DATALOADER.NUM_WORKERS", 1), resume=True)
    assert_equal(second.losses[6], whole_run.losses[6])
    assert second.results == whole_run.results


def test_results_and_files(whole_run):
    assert set(whole_run.results) == {"detection", "all_pairs"}
    assert set(whole_run.results["all_pairs"]) == {
        f"{gt}{name}" for gt in ("", "gt_") for name in ("mAP", "top1", "top5", "top10")
    }
    folder = Path(whole_run.cfg.OUTPUT_DIR)
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"
    saved = {path.name for path in folder.glob("*.pth")}
    assert saved == {"model_0000002.pth", "model_0000005.pth", "model_final.pth"}
    assert list(folder.glob("events.out.tfevents.*"))
    assert (folder / "config.yaml").is_file() and (folder / "log.txt").is_file()
    rows = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    names = {"total_loss", "loss_reid", "lr", "grad_norm", "all_pairs/mAP", "detection/AP50"}
    assert names <= set().union(*rows)


def test_finished_run_resumed_only_evaluates(whole_run):
    again = run(whole_run.cfg, resume=True)
    assert again.losses == {}
    assert again.results == whole_run.results


@pytest.fixture
def failing_cfg(tiny_opts, tmp_path):
    return make_cfg(tiny_opts, tmp_path / "failing", "SOLVER.CHECKPOINT_PERIOD", 1)


def spoil(trainer: Trainer, at: int) -> None:
    """Make one loss of iteration ``at`` NaN."""

    def spoiled(model, inputs, losses):
        if trainer.iter == at:
            losses["loss_reid"] = losses["loss_reid"] * float("nan")
        return losses

    trainer.model.register_forward_hook(spoiled)


def test_bad_loss_says_where_which_and_what_to_do(failing_cfg):
    trainer = Trainer(failing_cfg)
    spoil(trainer, at=2)
    with pytest.raises(BadBatchError) as error:
        trainer.train()
    message = str(error.value)
    assert message.startswith("Training stopped at iteration 2: losses are infinite or NaN (loss_r")
    assert "loss_reid nan" in message and message.count(".png") == 2
    folder = Path(failing_cfg.OUTPUT_DIR)
    assert str(folder / "model_0000001.pth") in message and "--resume" in message
    assert "SOLVER.BASE_LR" in message and str(folder / "bad_batch_0000002.pth") in message
    for name in ("model_0000001", "bad_batch_0000002"):
        state = torch.load(folder / f"{name}.pth", weights_only=True)["model"]
        assert all(t.isfinite().all() for t in state.values() if t.is_floating_point())
    assert (folder / "last_checkpoint").read_text() == "model_0000001.pth"


def test_state_before_a_bad_batch_is_exact(whole_run, tiny_opts, tmp_path):
    """Told to, a run continues from it as if nothing had happened; by itself it doesn't."""
    cfg = make_cfg(tiny_opts, tmp_path / "parts", "TEST.EVAL_PERIOD", 3)
    trainer = Trainer(cfg)
    spoil(trainer, at=4)
    with pytest.raises(BadBatchError):
        trainer.train()
    folder = tmp_path / "parts"
    assert sorted(run(cfg, resume=True, stop_before=4).losses) == [3]
    (folder / "last_checkpoint").write_text("bad_batch_0000004.pth")
    second = run(cfg, resume=True)
    assert sorted(second.losses) == [4, 5, 6, 7]
    final = [
        torch.load(path / "model_final.pth", weights_only=True)
        for path in (Path(whole_run.cfg.OUTPUT_DIR), folder)
    ]
    assert_equal(*final)


def test_damaged_last_checkpoint_is_not_replaced_by_that_state(failing_cfg):
    trainer = Trainer(failing_cfg)
    spoil(trainer, at=2)
    with pytest.raises(BadBatchError):
        trainer.train()
    last = Path(failing_cfg.OUTPUT_DIR) / "model_0000001.pth"
    last.write_bytes(last.read_bytes()[:-100])
    again = Trainer(failing_cfg)
    again.resume_or_load(resume=True)
    assert again.start_iter == 1


def test_bad_gradient_is_not_saved(failing_cfg):
    trainer = Trainer(failing_cfg)
    next(trainer.model.parameters()).register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(BadBatchError, match=r"iteration 0: The norm of the gradient is .*\.png"):
        trainer.train()
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    assert not trainer.checkpointer.has_checkpoint()


def test_skipped_batch_leaves_no_trace_and_is_counted(tiny_opts, tmp_path):
    opts = ["SOLVER.ON_BAD_BATCH", "skip", "DATASETS.TEST", ()]
    folder = tmp_path / "skipping"
    trainer = Trainer(make_cfg(tiny_opts, folder, *opts))
    spoil(trainer, at=2)
    states = {}
    step = trainer.run_step

    def recorded_step():
        step()
        state = trainer.model.state_dict()
        states[trainer.iter] = {name: x.clone() for name, x in state.items()}

    trainer.run_step = recorded_step
    trainer.train()
    assert_equal(states[2], states[1])
    assert any((states[3][name] != x).any() for name, x in states[1].items())
    names = states[1].keys()
    assert any(name.endswith(".lut") for name in names) and any("running" in n for n in names)
    log = (folder / "log.txt").read_text()
    assert "Left out the batch of iteration 2 (number 1 of this run): losses are" in log
    assert "1 batches of this run were left out" in log
    rows = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    assert [row["bad_batches"] for row in rows][-1] == 1
    # Nor does the last step's norm count once more.
    steps = [iteration for _, iteration in trainer.storage.history("grad_norm").values()]
    assert 1 in steps and 2 not in steps and 3 in steps
    saved = torch.load(folder / "model_final.pth", weights_only=True)
    assert saved["trainer"]["_trainer"]["bad_batches"] == 1


def test_bfloat16_on_the_cpu(tiny_opts, tmp_path):
    opts = ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION", "bfloat16", "TEST.LOSS", True]
    # Of maps of one pixel, oneDNN's gradients in bfloat16 may contain uninitialised memory.
    opts += ["MODEL.SPNET.TEST.PRECISION", "bfloat16", "INPUT.CROP_SIZE", 128]
    trainer = Trainer(make_cfg(tiny_opts, tmp_path / "half", *opts))
    kinds = set()
    detector = trainer.model.proposal_generator.box_detector
    detector.register_forward_hook(lambda _, offsets, __: kinds.add(offsets[0].dtype))
    results = trainer.train()
    assert kinds == {torch.bfloat16}
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert np.isfinite(results["detection"]["AP50"])


@pytest.fixture
def damaged_corpus(tmp_path):
    """A corpus with two images that are cut off."""
    root = tmp_path / "damaged"
    root.mkdir()
    write_tiny_corpus(root)
    for name in ("2.png", "6.png"):
        (root / name).write_bytes((root / name).read_bytes()[:500])
    register_person_search("damaged_train", root / "people.json", root)
    yield "damaged_train"
    unregister("damaged_train")


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_images_are_left_out_and_counted(tiny_opts, damaged_corpus, tmp_path, workers):
    opts = ["DATASETS.TRAIN", (damaged_corpus,), "DATALOADER.NUM_WORKERS", workers]
    opts += ["DATALOADER.ON_CORRUPT_IMAGE", "skip", "DATASETS.TEST", ()]
    trainer = run(make_cfg(tiny_opts, tmp_path / "run", *opts))
    assert sorted(trainer.losses) == list(range(8))
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("is trained on instead") == 2
    # Two epochs show every image twice.
    assert "2 training images could not be read and were left out 4 times" in log
    assert "/2.png, " in log and log.count("/6.png. Fetch") == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["DATASETS.TEST", ("prw_test",)], "prepare_prw.py"),
        (["TEST.PROTOCOLS", ("G100",)], 'no protocol "G100"'),
    ],
)
def test_test_sets_are_looked_for_before_training(tiny_opts, tmp_path, settings, message):
    cfg = make_cfg(tiny_opts, tmp_path / "output", *settings)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Trainer(cfg)


def test_test_leaves_the_generators_alone(tiny_opts, tmp_path):
    cfg = make_cfg(tiny_opts, tmp_path / "output")
    model = Trainer.build_model(cfg)
    before = random_state.capture()
    results = Trainer.test(cfg, model)
    assert_equal(random_state.capture(), before)
    assert np.isfinite(results["detection"]["AP50"])


def test_predictions_name_the_model_as_its_predictor_does(tiny_opts, tmp_path):
    """Equal where they can be compared: of these weights, at this size."""
    names = []
    for size in (64, 80):
        cfg = make_cfg(tiny_opts, tmp_path, "INPUT.MIN_SIZE_TEST", size)
        torch.manual_seed(0)
        model = Trainer.build_model(cfg).eval()
        Trainer.test(cfg, model)
        (path,) = (tmp_path / "inference").rglob("predictions.npz")
        torch.save(model.state_dict(), tmp_path / "model.pth")
        predictor = PersonSearchPredictor(cfg, weights=str(tmp_path / "model.pth"))
        names.append(Predictions.load(path).made_by)
        assert names[-1] == predictor.fingerprint != ""
    assert names[0] != names[1]
