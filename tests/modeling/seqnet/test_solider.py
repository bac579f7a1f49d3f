"""SeqNet with SOLIDER's Swin, a hundred times smaller, beside the slow reference of this Swin."""

import pytest
import torch
from detectron2.modeling import build_model

from tests.fixtures.llnl_shapes import SOLIDER_SWINS, solider_shapes
from tests.fixtures.thin_trunks import DEPTHS, HEADS, SOLIDER, known_trunks
from tests.modeling.tiny import tiny_config, tiny_input
from tests.oracles.trunks import SoliderOracle

BOXES = ((10.0, 10.0, 40.0, 80.0), (60.0, 20.0, 90.0, 90.0))


def model_of(pretrained="", *settings):
    cfg = tiny_config("MODEL.META_ARCHITECTURE", "SeqNet", *settings)
    cfg.MODEL.SPNET.BACKBONE.NAME = SOLIDER
    cfg.MODEL.SPNET.BACKBONE.PRETRAINED = pretrained
    torch.manual_seed(0)
    with known_trunks():
        return build_model(cfg)


@pytest.fixture(scope="module")
def state():
    """Tensors by the names of SOLIDER's files."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, shape in solider_shapes(*SOLIDER_SWINS[SOLIDER]).items():
        tensor = torch.randn(shape, generator=generator)
        found[name] = tensor / shape[1] ** 0.5 if len(shape) == 2 else 0.3 * tensor
    return found


@torch.no_grad()
def test_a_solider_file_fills_the_trunk_and_both_heads(state, tmp_path):
    """RPN and RoIs take the normalised map of stride 16; heads average it and their own map."""
    wrapped = {f"module.backbone.{name}": tensor for name, tensor in state.items()}
    torch.save({"teacher": wrapped}, tmp_path / "solider.pth")
    model = model_of(str(tmp_path / "solider.pth")).eval()
    oracle = SoliderOracle(state, DEPTHS, HEADS)
    images = torch.randn(2, 3, 64, 160)
    for found, image in zip(model.backbone(images), images, strict=True):
        torch.testing.assert_close(found, oracle.maps(image)[1], rtol=1e-4, atol=1e-5)
    rois = torch.randn(2, 64, 14, 14)
    for head in (model.roi_heads.first_head, model.roi_heads.second_head):
        for found4, found5, roi in zip(*head(rois), rois, strict=True):
            wanted4, wanted5 = oracle.stage(roi)
            torch.testing.assert_close(found4, wanted4)
            torch.testing.assert_close(found5, wanted5, rtol=1e-4, atol=1e-5)


def test_everything_trains_and_losses_fall():
    model = model_of("", "MODEL.SPNET.GFN.ENABLED", True).train()
    assert all(parameter.requires_grad for parameter in model.parameters())
    batch = [tiny_input(0, *BOXES, image_id=0), tiny_input(1, BOXES[0], image_id=1)]
    for x in batch:
        x["instances"].gt_person_ids = x["instances"].gt_identities
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    sums = []
    for _ in range(8):
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        sums.append(sum(loss.item() for name, loss in losses.items() if name != "loss_reid"))
    assert sum(sums[-2:]) < sum(sums[:2])
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    other = model_of("", "MODEL.SPNET.GFN.ENABLED", True)
    other.load_weights(model.state_dict())
    with torch.no_grad():
        results = [m.eval()(batch) for m in (model, other)]
    for ours, theirs in zip(*results, strict=True):
        assert ours["gt_embeddings"]["reid"].shape == (len(ours["gt_embeddings"]["loc"]), 16)
        assert torch.equal(ours["gt_embeddings"]["reid"], theirs["gt_embeddings"]["reid"])
        assert torch.equal(ours["scene_embedding"], theirs["scene_embedding"])


def test_no_boxes():
    head = model_of().roi_heads.first_head
    feat4, feat5 = head(torch.zeros(0, 64, 14, 14))
    assert feat4.shape == (0, 64) and feat5.shape == (0, 128)


def test_another_swin_is_refused():
    cfg = tiny_config("MODEL.META_ARCHITECTURE", "SeqNet")
    cfg.MODEL.SPNET.BACKBONE.NAME = "swin_thin"
    with pytest.raises(ValueError, match="no Swin but SOLIDER's: set .*solider_swin_base"):
        build_model(cfg)
