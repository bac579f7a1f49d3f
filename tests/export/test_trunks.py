"""Trunks of every family in ONNX: maps of all sizes are the model's."""

import numpy as np
import pytest
import torch
from timm.models.swin_transformer import SwinTransformerStage

from spnet_d2.export.convert import write_graph
from spnet_d2.export.free_size import for_any_size
from spnet_d2.modeling.backbone import FEATURES, TimmFPN, create_trunk
from tests.fixtures import thin_trunks

# The exporter takes its time, more for each layer. Swins would take minutes: of them, blocks.
TRUNKS = [thin_trunks.SHORT, "test_resnet", "test_efficientnet"]


class Levels(torch.nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        return tuple(self.backbone(x)[name] for name in FEATURES)


@pytest.mark.parametrize("name", TRUNKS)
def test_pyramids_agree_at_any_size(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    with thin_trunks.known_trunks():
        backbone = TimmFPN(trunk=create_trunk(name, pretrained="")).eval()
    file = tmp_path / "pyramid.onnx"
    write_graph(
        file,
        Levels(for_any_size(backbone)),
        {"x": torch.rand(2, 3, 480, 736)},
        {"x": {0: "batch", 2: "height", 3: "width"}},
        FEATURES,
    )
    session = onnxruntime.InferenceSession(str(file))
    for shape in [(1, 3, 96, 64), (3, 3, 64, 320), (1, 3, 256, 288)]:
        x = torch.rand(shape)
        with torch.no_grad():
            expected = backbone(x)
        for found, level in zip(session.run(None, {"x": x.numpy()}), FEATURES, strict=True):
            np.testing.assert_allclose(found, expected[level].numpy(), atol=2e-5)


@pytest.mark.parametrize("name", [thin_trunks.SWIN, thin_trunks.SOLIDER, "tf_efficientnet_lite0"])
@pytest.mark.parametrize("size", [(32, 64), (96, 352), (256, 288)])
def test_layers_of_free_size_are_the_models(name, size):
    with thin_trunks.known_trunks():
        trunk = create_trunk(name, pretrained="").eval()
    x = torch.rand(2, 3, *size)
    with torch.no_grad():
        for found, expected in zip(for_any_size(trunk)(x), trunk(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [thin_trunks.SWIN, thin_trunks.SOLIDER])
def test_swin_blocks_agree_at_any_size(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    with thin_trunks.known_trunks():
        trunk = create_trunk(name, pretrained="").eval()
    # Two blocks; the second one shifts its windows.
    stage = [m for m in trunk.modules() if isinstance(m, SwinTransformerStage)][1]
    channels = stage.blocks[0].dim
    file = tmp_path / "blocks.onnx"
    free = {"x": {0: "batch", 1: "height", 2: "width"}}
    write_graph(file, for_any_size(stage.blocks), {"x": torch.rand(2, 30, 46, channels)}, free, "y")
    session = onnxruntime.InferenceSession(str(file))
    # Smaller than a window along both sides or one, a window, and larger.
    for shape in [(1, 4, 6), (2, 5, 20), (1, 7, 7), (3, 16, 23)]:
        x = torch.rand(*shape, channels)
        with torch.no_grad():
            expected = stage.blocks(x)
        (found,) = session.run(None, {"x": x.numpy()})
        np.testing.assert_allclose(found, expected.numpy(), atol=2e-5)
