"""Which batch norms are put in the place of which (what they compute: tests/engine)."""

import torch
from detectron2.utils import comm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.testing import assert_close

from spnet_d2.modeling.spnet import Running, SPNet
from spnet_d2.modeling.sync_batch_norm import SyncBatchNorm
from tests.modeling.tiny import tiny_config, tiny_input, tiny_model


def test_a_trunk_s_norms_on_gpus_are_pytorch_s(monkeypatch):
    """With what timm fuses into them; the re-id embedder's, and RoI stages', are ours."""
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    plain = tiny_model("MODEL.SPNET.BACKBONE.NAME", "resnet10t")
    model = SPNet(
        **{
            **SPNet.from_config(tiny_config("MODEL.SPNET.BACKBONE.NAME", "resnet10t")),
            "running": Running(sync_bn=True, sync_trunk=True),
        }
    )
    assert list(model.state_dict()) == list(plain.state_dict())
    norms = [m for m in model.backbone.trunk.modules() if isinstance(m, _BatchNorm)]
    assert norms and all(isinstance(m, nn.SyncBatchNorm) for m in norms)
    others = [m for m in model.roi_heads.modules() if isinstance(m, _BatchNorm)]
    assert others and all(isinstance(m, SyncBatchNorm) for m in others)
    # At inference on a CPU, too, they are batch norms.
    model.load_state_dict(plain.state_dict())
    x = tiny_input(0, (10, 20, 60, 90))
    with torch.no_grad():
        found, expected = (m.eval()([x])[0]["gt_embeddings"]["reid"] for m in (model, plain))
    assert_close(found, expected)


def test_one_process_has_nobody_to_synchronise_with():
    model = tiny_model("MODEL.SPNET.SYNC_BN", True)
    assert not any(isinstance(m, SyncBatchNorm) for m in model.modules())
