import pytest
import torch
from detectron2.modeling import build_model

from spnet_d2.export.convert import export_model
from tests.modeling.tiny import tiny_config

from .agreement import detecting

CASCADE = ["MODEL.SPNET.NUM_CASCADES", 2]
# Half a minute each of the exporter's time: test_graphs.py has all structures, test_trunks.py all
# trunks.
STRUCTURES = {
    "object_centric": ["MODEL.SPNET.SEPARATE_HEADS", True],
    "query_centric": ["MODEL.SPNET.PATHWAY", "QC", "INPUT.EXACT_8BIT", True],
}


@pytest.fixture(scope="module", params=STRUCTURES)
def exported(request, tmp_path_factory):
    """A tiny model of a structure, and its export."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    cfg = tiny_config(*CASCADE, *STRUCTURES[request.param])
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 96, 288
    torch.manual_seed(0)
    predictor = detecting(build_model(cfg).eval(), cfg)
    folder = tmp_path_factory.mktemp(request.param)
    export_model(predictor, cfg, folder, licence="none")
    return predictor, folder
