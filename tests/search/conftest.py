import pytest
import torch
from detectron2.modeling import build_model

from .tiny import tiny_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Config, weight file and model of a tiny SPNet."""
    cfg = tiny_config()
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    path = tmp_path_factory.mktemp("model") / "model_final.pth"
    torch.save({"model": model.state_dict()}, path)
    return cfg, str(path), model
