"""Runs that start from another model's weights, and models that may not be evaluated."""

import logging
from argparse import Namespace

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from spnet_d2.checkpoint.untrained import UntrainedModelError
from spnet_d2.engine import Trainer, setup
from tests.fixtures.scripts import load_script

QC = ("MODEL.SPNET.PATHWAY", "QC")


@pytest.fixture
def query_centric(tiny_opts, tmp_path):
    """Weights of a query-centric model without cascade rounds."""
    opts = [*tiny_opts, *QC, "MODEL.SPNET.NUM_CASCADES", 0, "OUTPUT_DIR", str(tmp_path / "qc")]
    cfg = setup(Namespace(config_file="", opts=opts))
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "qc.pth")
    return str(tmp_path / "qc.pth")


def test_fine_tuning_of_a_larger_object_centric_model(query_centric, tiny_opts, tmp_path, caplog):
    opts = [*tiny_opts, "MODEL.WEIGHTS", query_centric, "SOLVER.MAX_ITER", 1, "SOLVER.EPOCHS", 0]
    opts += ["MODEL.SPNET.SEPARATE_HEADS", True, "OUTPUT_DIR", str(tmp_path / "oc")]
    trainer = Trainer(setup(Namespace(config_file="", opts=opts)))
    with caplog.at_level(logging.INFO, logger="spnet_d2.checkpoint.checkpointer"):
        trainer.resume_or_load(resume=False)
    source = torch.load(query_centric, weights_only=True)["model"]
    weight = "backbone.fpn.layer_blocks.0.0.weight"
    assert torch.equal(trainer.model.state_dict()[weight], source[weight])
    assert trainer.start_iter == 0
    assert np.isfinite(trainer.train()["detection"]["AP50"])  # trained now, so it detects
    log = (tmp_path / "oc" / "log.txt").read_text()
    assert "bridge 0, 1" in log and "has no bridge" in log and "replicated from box head 0" in log


def test_untrained_models_are_not_evaluated(query_centric, tiny_opts, tmp_path):
    tool = load_script("tools/train_net.py")

    def evaluate(*opts, allow_untrained=False):
        words = [*tiny_opts, *opts, "OUTPUT_DIR", str(tmp_path / "eval")]
        return tool.main(
            Namespace(
                config_file="",
                opts=[*words, "MODEL.SPNET.NUM_CASCADES", 0],
                eval_only=True,
                resume=False,
                num_gpus=0,
                allow_untrained=allow_untrained,
            )
        )

    # The trunk's own weight file is not needed.
    opts = ["MODEL.WEIGHTS", query_centric, "MODEL.SPNET.BACKBONE.PRETRAINED", "no/such/file.pth"]
    with pytest.raises(UntrainedModelError, match="qc.pth: .*swap_path.bridge.weight"):
        evaluate(*opts)
    with pytest.raises(UntrainedModelError, match="MODEL.WEIGHTS is empty"):
        evaluate()
    assert "detection" in evaluate(*opts, allow_untrained=True)


def test_bridges_that_start_as_least_squares_maps(query_centric, tiny_opts, tmp_path, caplog):
    opts = [*tiny_opts, "SOLVER.MAX_ITER", 1, "SOLVER.EPOCHS", 0]
    opts += ["MODEL.SPNET.INIT.BRIDGE", "least_squares", "OUTPUT_DIR", str(tmp_path / "oc")]

    def start(*more):
        trainer = Trainer(setup(Namespace(config_file="", opts=[*opts, *more])))
        with caplog.at_level(logging.INFO, logger="spnet_d2.engine.trainer"):
            trainer.resume_or_load(resume=True)
        state = trainer.model.state_dict()
        return trainer, state["proposal_generator.swap_path.bridge.weight"].clone()

    assert not start()[1].any()
    assert "MODEL.WEIGHTS is empty" in caplog.text
    trainer, fitted = start("MODEL.WEIGHTS", query_centric)
    assert fitted.any() and "least-squares maps of matched boxes: stage 0 of " in caplog.text
    trainer.train()
    # Neither a finished run that goes on nor weights that have bridges are fitted again.
    last = str(tmp_path / "oc" / "model_final.pth")
    trained = torch.load(last, weights_only=True)["model"]
    weight = trained["proposal_generator.swap_path.bridge.weight"]
    caplog.clear()
    assert torch.equal(start("MODEL.WEIGHTS", query_centric)[1], weight)
    assert "least-squares" not in caplog.text
    other = ("MODEL.WEIGHTS", last, "OUTPUT_DIR", str(tmp_path / "next"))
    assert torch.equal(start(*other)[1], weight)
    assert "no bridge is at zero" in caplog.text
    # Stages that such weights lack are fitted, and no other one.
    caplog.clear()
    stages = ("MODEL.SPNET.NUM_CASCADES", 2, "MODEL.SPNET.INIT.CASCADE", "PT")
    trainer, first = start(*other, *stages)
    assert torch.equal(first, weight) and trainer.model.roi_heads.swap_paths[1].bridge.weight.any()
    assert "matched boxes: stage 2 of " in caplog.text
