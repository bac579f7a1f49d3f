"""SeqNet and SeqNeXt in the project's trainer, evaluator and predictor."""

import json

import cv2
import numpy as np
import pytest

from spnet_d2.config_reader import read_config
from spnet_d2.engine import Trainer
from spnet_d2.search import PersonSearchPredictor

ARCHITECTURES = {"SeqNet": "test_resnet", "SeqNeXt": "test_convnext"}
STAGES = ("rpn_cls", "rpn_reg", "proposal_cls", "proposal_reg", "box_cls", "box_reg")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_trains_resumes_evaluates_and_searches(architecture, tiny_opts, tiny_corpus, tmp_path):
    opts = [*tiny_opts, "MODEL.META_ARCHITECTURE", architecture]
    opts += ["MODEL.SPNET.BACKBONE.NAME", ARCHITECTURES[architecture]]
    opts += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "OUTPUT_DIR", str(tmp_path)]
    opts += ["MODEL.SPNET.NUM_CASCADES", 0, "MODEL.SPNET.GFN.ENABLED", True, "TEST.LOSS", True]
    opts += ["MODEL.SPNET.QC.ANCHORS_PER_PAIR", 64]
    cfg = read_config(None, opts)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    assert "detection" in results
    (folder,) = (tmp_path / "inference").iterdir()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {"mAP", "gfn_mAP", "gfn_cws_mAP", "gfn_scene_mAP"} <= set(metrics)
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    metrics = {key: value for line in lines for key, value in json.loads(line).items()}
    for name in (*STAGES, "reid", "gfn"):
        assert np.isfinite([metrics[f"loss_{name}"], metrics[f"val/loss_{name}"]]).all()

    predictor = PersonSearchPredictor(cfg, weights=str(tmp_path / "model_final.pth"))
    image = cv2.imread(str(tiny_corpus / "0.png"))
    (people,) = predictor.detect([image])
    assert people.embeddings.shape == (len(people), cfg.MODEL.SPNET.REID_DIM)
    given = predictor.embed(image, [[8, 20, 30, 80]])
    np.testing.assert_allclose(np.linalg.norm(given, axis=1), 1, atol=1e-5)

    again = Trainer(cfg)
    again.resume_or_load(resume=True)
    assert again.start_iter == 8 == int(again.model.gallery_filter.step)
