"""A whole training with a gallery filter: losses, evaluation, predictions, and its resume."""

import json
from argparse import Namespace

import torch

from spnet_d2.engine import Trainer, setup
from spnet_d2.evaluation import Predictions


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

    again = Trainer(cfg)
    again.resume_or_load(resume=True)
    state, before = (t.model.gallery_filter.state_dict() for t in (again, trainer))
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in state)
    assert int(state["step"]) == trainer.max_iter
    # What was remembered is in the checkpoint, in its order.
    memory, before = (t.model.gallery_filter.memory.state_dict() for t in (again, trainer))
    assert len(before["image_ids"]) > 0 and memory.keys() == before.keys()
    assert all(torch.equal(memory[name], before[name]) for name in before)
