"""Training as Detectron2's tutorials do it, without this project's ``setup``."""

import argparse
import logging
from pathlib import Path

import pytest
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import build_detection_train_loader
from detectron2.engine import default_setup

from spnet_d2 import add_spnet_config
from spnet_d2.config_reader import ConfigError, read_config
from spnet_d2.data.catalog import UnknownDataSetError
from spnet_d2.data.mapper import PersonSearchMapper
from spnet_d2.engine import Trainer, setup
from spnet_d2.engine.serve import config_to_serve


@pytest.fixture
def cfg(tiny_opts, tmp_path) -> CfgNode:
    """Of a tutorial: nothing in it is resolved."""
    cfg = get_cfg()
    add_spnet_config(cfg)
    (tmp_path / "tiny.yaml").write_text("VERSION: 2\nSOLVER:\n  BASE_LR: 0.002\n")
    cfg.merge_from_file(str(tmp_path / "tiny.yaml"))
    cfg.merge_from_list(tiny_opts)
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    return cfg


def written(cfg: CfgNode) -> CfgNode:
    return read_config(Path(cfg.OUTPUT_DIR) / "config.yaml")


def test_trainer_alone_trains_the_schedule_of_the_config(cfg):
    cfg.SOLVER.EPOCHS = 1
    before = cfg.clone()
    trainer = Trainer(cfg)
    trainer.resume_or_load()
    assert trainer.max_iter == 4
    # The warm-up of an epoch less one iteration.
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * 1e-3)
    trainer.train()
    assert trainer.iter == 4
    assert cfg == before
    assert (trainer.cfg.SOLVER.WARMUP_ITERS, trainer.cfg.MODEL.SPNET.REID.NUM_IDENTITIES) == (3, 3)
    assert yaml.safe_load(written(cfg).dump()) == yaml.safe_load(trainer.cfg.dump())
    lines = (Path(cfg.OUTPUT_DIR) / "metrics.json").read_text().splitlines()
    assert yaml.safe_load(lines[-1])["iteration"] == 4


def test_max_iter_in_code_counts(cfg):
    """The tutorial's own lines."""
    cfg.SOLVER.MAX_ITER = 3
    cfg.SOLVER.STEPS = []
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    trainer = Trainer(cfg)
    assert trainer.max_iter == 3 and trainer.cfg.SOLVER.WARMUP_ITERS == 2


def test_after_default_setup(cfg):
    args = argparse.Namespace(config_file="", opts=[], num_gpus=0, eval_only=False, resume=False)
    cfg.freeze()
    default_setup(cfg, args)
    assert written(cfg).SOLVER.MAX_ITER == 0
    trainer = Trainer(cfg)
    assert trainer.cfg.is_frozen() and trainer.max_iter == 8
    trainer.resume_or_load(resume=args.resume)
    trainer._prepare_folder()
    assert written(cfg).SOLVER.MAX_ITER == 8


def test_what_setup_resolved_is_not_resolved_again(cfg, tiny_opts, tmp_path, monkeypatch):
    opts = [*tiny_opts, "OUTPUT_DIR", str(tmp_path / "output")]
    ready = setup(argparse.Namespace(config_file="", opts=opts))
    with monkeypatch.context() as patch:
        patch.setattr("spnet_d2.engine.job_config.iterations_per_epoch", None)
        assert Trainer(ready).cfg is ready
    changed = ready.clone()
    changed.defrost()
    changed.SOLVER.EPOCHS = 5
    assert Trainer(changed).max_iter == 20


def test_settings_that_cannot_work_are_refused_before_the_data_are_read(cfg):
    cfg.DATASETS.TRAIN = ("prw_train",)
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS = 10, 10
    with pytest.raises(ConfigError, match=r"WARMUP_ITERS \(10\) must be less .*MAX_ITER \(10\)"):
        Trainer(cfg)


def test_no_gpu(cfg, monkeypatch, caplog):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    cfg.MODEL.DEVICE = "cuda"
    with caplog.at_level(logging.INFO, "spnet_d2"):
        assert Trainer(cfg).cfg.MODEL.DEVICE == "cpu"


def test_model_and_evaluation_without_a_trainer(cfg):
    cfg.MODEL.SPNET.REID.NUM_IDENTITIES = 3
    model = Trainer.build_model(cfg)
    assert set(Trainer.test(cfg, model)) == {"detection", "all_pairs"}


def test_a_gpu_that_is_not_used_is_mentioned(cfg, monkeypatch, caplog):
    """As with the config.yaml of a run on a CPU, taken to another machine."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with caplog.at_level(logging.INFO, "spnet_d2"):
        config_to_serve(cfg)
    assert caplog.text.count("MODEL.DEVICE is cpu, so the GPU is not used: MODEL.DEVICE cuda") == 1


def test_pretraining_goes_on_without_the_files_of_its_test_set(cfg, tmp_path, caplog):
    spnet = cfg.MODEL.SPNET
    spnet.REID.LOSS, spnet.MOMENTUM_TWIN.ENABLED = "momentum_queue", True
    spnet.REID.QUEUE_SIZE = 32
    cfg.DATASETS.TEST = ("prw_test", "tiny_test")
    cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD, cfg.TEST.LOSS = 2, 1, True
    with caplog.at_level(logging.INFO, "spnet_d2"):
        trainer = Trainer(cfg)
    assert caplog.text.count("Training is not evaluated on prw_test. No such file") == 1
    assert set(trainer.train()) == {"detection", "all_pairs"}
    # The config keeps it, for a machine that has it; who asks for it gets an error here.
    assert written(cfg).DATASETS.TEST == ("prw_test", "tiny_test")
    with pytest.raises(FileNotFoundError, match="prepare_prw.py"):
        Trainer.test(trainer.cfg, trainer.model)
    cfg.DATASETS.TEST = ("prw_test",)
    assert Trainer(cfg).train() == {}


class AnotherLoader(Trainer):
    """Detectron2's loader with this project's mapper."""

    @classmethod
    def build_train_loader(cls, cfg):
        mapper = PersonSearchMapper(cfg, is_train=True)
        return build_detection_train_loader(cfg, mapper=mapper)


def test_a_loader_of_a_subclass(cfg):
    cfg.SOLVER.MAX_ITER = 1
    assert set(AnotherLoader(cfg).train()) == {"detection", "all_pairs"}


def test_expected_results(cfg, caplog):
    """They are compared when all else is done."""
    cfg.SOLVER.MAX_ITER = 1
    cfg.TEST.EXPECTED_RESULTS = [["detection", "AP50", 50.0, 50.0]]
    assert set(Trainer(cfg).train()) == {"detection", "all_pairs"}
    assert "Results verification passed" in caplog.text
    for wrong in (["bbox", "AP", 38.5, 0.2], ["detection", "AP50", 38.5], "AP50"):
        cfg.TEST.EXPECTED_RESULTS = [wrong]
        with pytest.raises(ConfigError, match=r"\[task, metric, value, .*'all_pairs': \['mAP'"):
            Trainer(cfg).train()
        assert (Path(cfg.OUTPUT_DIR) / "inference" / "tiny_test" / "metrics.json").is_file()
    cfg.TEST.EXPECTED_RESULTS = [["all_pairs", "mAP", 300.0, 1.0]]
    with pytest.raises(SystemExit):
        Trainer(cfg).train()


def test_a_folder_whose_name_is_no_utf8(cfg, tmp_path, caplog):
    cfg.SOLVER.MAX_ITER = 1
    cfg.OUTPUT_DIR = f"{tmp_path}/yard\udce9"
    trainer = Trainer(cfg)
    with caplog.at_level(logging.WARNING, "spnet_d2"):
        trainer.train()
    assert "No TensorBoard events: OUTPUT_DIR is no UTF-8" in caplog.text
    assert written(cfg).OUTPUT_DIR == cfg.OUTPUT_DIR
    assert (Path(cfg.OUTPUT_DIR) / "model_final.pth").is_file()


def test_sets_that_nobody_registered(cfg):
    cfg.MODEL.SPNET.REID.NUM_IDENTITIES = 3
    model = Trainer.build_model(cfg)
    cfg.DATASETS.TEST = ("tiny_tset",)
    with pytest.raises(UnknownDataSetError, match="'tiny_tset', which is not .*ones: tiny_test"):
        Trainer.test(cfg, model)


@pytest.fixture
def finished(cfg) -> CfgNode:
    cfg.SOLVER.MAX_ITER = 1
    trainer = Trainer(cfg)
    trainer.train()
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def files(cfg: CfgNode) -> dict[str, bytes]:
    names = ("model_final.pth", "metrics.json", "config.yaml")
    return {name: (Path(cfg.OUTPUT_DIR) / name).read_bytes() for name in names}


def test_a_new_run_into_the_folder_of_another(finished, tiny_opts, caplog):
    before = files(finished)
    assert sorted(p.name for p in Path(finished.OUTPUT_DIR).glob("*.pth")) == ["model_final.pth"]
    opts = [*tiny_opts, "OUTPUT_DIR", finished.OUTPUT_DIR]
    args = argparse.Namespace(config_file="", opts=opts, num_gpus=0, eval_only=False, resume=False)
    with pytest.raises(ConfigError, match=r"OUTPUT_DIR /.*output holds a run already .*--resume"):
        setup(args)
    assert files(finished) == before
    for settings in ({"resume": True}, {"eval_only": True}):
        setup(argparse.Namespace(**{**vars(args), **settings}))
    with caplog.at_level(logging.INFO, "spnet_d2"):
        Trainer(finished).resume_or_load(resume=False)
    assert "holds a run (last_checkpoint, model_final.pth), and training starts anew" in caplog.text


def test_a_finished_run_that_is_resumed_is_only_evaluated(finished, caplog, capsys):
    before = files(finished)
    trainer = Trainer(finished)
    trainer.resume_or_load(resume=True)
    with caplog.at_level(logging.INFO):
        assert set(trainer.train()) == {"detection", "all_pairs"}
    assert "is finished, all 1 iterations are done: it is evaluated again" in caplog.text
    assert "Starting training" not in caplog.text and "lr: N/A" not in capsys.readouterr().out
    assert files(finished) == before


def test_resuming_in_an_empty_folder(cfg, caplog):
    with caplog.at_level(logging.INFO, "spnet_d2"):
        Trainer(cfg).resume_or_load(resume=True)
    assert "No checkpoint to continue from in" in caplog.text
