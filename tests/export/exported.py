"""Export a tiny model: ``python -m tests.export.exported DIR`` does it for .ci/check_exported."""

import os
import shutil
import sys
from pathlib import Path

import portalocker
import torch
from detectron2.modeling import build_model

from spnet_d2.export.convert import export_model
from spnet_d2.search import PersonSearchPredictor
from tests.fixtures import thin_trunks
from tests.modeling.tiny import tiny_config

from .agreement import detecting

CASCADE = ["MODEL.SPNET.NUM_CASCADES", 2, "MODEL.SPNET.BACKBONE.NAME", thin_trunks.SHORT]
# The exporter takes its time: test_graphs.py has all structures, test_trunks.py all
# trunks.
STRUCTURES = {
    "object_centric": ["MODEL.SPNET.SEPARATE_HEADS", True],
    "query_centric": ["MODEL.SPNET.PATHWAY", "QC", "INPUT.EXACT_8BIT", True],
}


def tiny_predictor(structure: str) -> tuple[PersonSearchPredictor, object]:
    """A tiny model of one of ``STRUCTURES``, and its config."""
    cfg = tiny_config(*CASCADE, *STRUCTURES[structure])
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 96, 288
    torch.manual_seed(0)
    return detecting(build_model(cfg).eval(), cfg), cfg


def export_once(structure: str, tmp_path_factory) -> tuple[PersonSearchPredictor, Path]:
    """A predictor and a copy of its export, which is made by the run's first process that asks."""
    predictor, cfg = tiny_predictor(structure)
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Workers have folders of their own below the run's.
        shared = shared.parent
    original = shared / f"exported_{structure}"
    with portalocker.Lock(shared / f"{structure}.lock", timeout=600):
        if not original.exists():
            unfinished = shared / f"unfinished_{structure}"
            export_model(predictor, cfg, unfinished, licence="none")
            unfinished.rename(original)
    folder = tmp_path_factory.mktemp(structure) / "exported"
    shutil.copytree(original, folder)
    return predictor, folder


if __name__ == "__main__":
    export_model(*tiny_predictor("object_centric"), sys.argv[1], licence="none")
