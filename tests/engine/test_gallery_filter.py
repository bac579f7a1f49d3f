"""A whole training with a gallery filter: losses, evaluation, predictions, and its resume."""

import json
from argparse import Namespace

import torch

from spnet_d2.engine import Trainer, setup
from spnet_d2.evaluation import Predictions
from tests.engine.test_trainer import run


def test_train_evaluate_and_resume(tiny_opts, tmp_path):
    opts = [*tiny_opts, "MODEL.SPNET.GFN.ENABLED", True, "OUTPUT_DIR", str(tmp_path)]
    cfg = setup(Namespace(config_file="", opts=opts))
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    logged = [json.loads(x) for x in (tmp_path / "metrics.json").read_text().splitlines()]
    assert any("loss_gfn" in line for line in logged)
    (folder,) = (tmp_path / "inference").iterdir()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {"mAP", "gfn_mAP", "gfn_cws_mAP", "gfn_scene_mAP"} <= set(metrics)
    found = Predictions.load(folder / "predictions.npz")
    assert len(found.scene_image_ids) == len(found.scene_embeddings) > 0

    # Interrupted between checkpoints, it ends with the same weights, step and memory.
    opts = [*opts, "DATASETS.TEST", "()", "OUTPUT_DIR", str(tmp_path / "parts")]
    cfg = setup(Namespace(config_file="", opts=opts))
    run(cfg, stop_before=5)
    run(cfg, resume=True)
    final, whole = (
        torch.load(folder / "model_final.pth", weights_only=True)
        for folder in (tmp_path / "parts", tmp_path)
    )
    assert len(whole["scene_memory"]["image_ids"]) > 1
    assert int(whole["model"]["gallery_filter.step"]) == trainer.max_iter
    for part in ("model", "scene_memory"):
        assert final[part].keys() == whole[part].keys()
        assert all(torch.equal(final[part][name], whole[part][name]) for name in whole[part])
