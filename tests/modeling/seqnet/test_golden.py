"""
Whole-model numbers of the authors' SeqNet and SeqNeXt, the latter with a gallery filter, too, for
weights made by tests/fixtures.
"""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from spnet_d2.checkpoint.seqnet import architecture_of, convert_state_dict, infer_config
from spnet_d2.evaluation.scene_scores import scene_scores
from spnet_d2.testing import deterministic_sampling
from tests.fixtures.reference import MEAN, STD, network_image
from tests.fixtures.seqnet_shapes import seqnet_shapes, seqnet_state, seqnext_shapes

HEIGHT, WIDTH = 256, 320


def build(shapes):
    state = seqnet_state(shapes)
    cfg = infer_config(state)
    # The recipe's images are already normalised.
    model = build_model(cfg)
    missing, unexpected = model.load_state_dict(convert_state_dict(state), strict=False)
    steps = [] if model.gallery_filter is None else ["gallery_filter.step"]
    assert not unexpected and missing == ["roi_heads.reid_loss.queue_head", *steps]
    return model


def model_input(i, people=()):
    pixels = (torch.from_numpy(network_image(i, HEIGHT, WIDTH)) * STD + MEAN) * 255
    rows = torch.tensor(list(people), dtype=torch.float32).reshape(-1, 5)
    labels = rows[:, 4].long()
    instances = Instances(
        (HEIGHT, WIDTH),
        gt_boxes=Boxes(rows[:, :4]),
        gt_person_ids=labels,
        gt_identities=torch.where(labels <= 50, labels - 1, -1),
    )
    x = {"image": pixels.float(), "height": HEIGHT, "width": WIDTH, "instances": instances}
    return {**x, "image_id": i}


@pytest.fixture
def first_rows(monkeypatch):
    """Random subsets are the first rows, as in the golden numbers."""
    monkeypatch.setattr(torch, "randperm", lambda n, **_: torch.arange(n))


@pytest.fixture(scope="module")
def seqnet():
    return build(seqnet_shapes())


def test_recipe():
    state = seqnet_state(seqnet_shapes())
    assert architecture_of(state) == "SeqNet"
    assert len(state) == 416 and sum(t.numel() for t in state.values()) == pytest.approx(
        48.42e6, rel=0.01
    )
    sums = {name: state[name].double().sum().item() for name in state}
    assert sums["backbone.conv1.weight"] == pytest.approx(0.80046501, abs=1e-5)
    assert sums["rpn.head.cls_logits.weight"] == pytest.approx(0.21569292, abs=1e-5)
    assert network_image(0, HEIGHT, WIDTH).sum() == pytest.approx(1668.91368, abs=1e-3)


def test_seqnet_inference(seqnet):
    seqnet.eval()
    x = model_input(0, [(20, 30, 80, 200, 6)])
    with torch.no_grad():
        features = seqnet.backbone(seqnet.batch_of([x]).tensor)
        (output,) = seqnet([x])
    assert features.shape[-2:] == (16, 20)
    assert features.double().sum().item() == pytest.approx(320860.98, rel=1e-5)
    found = output["instances"]
    assert len(found) == 79
    expected = [0.5521620, 0.5512415, 0.5491861, 0.5412849]
    assert found.scores[:4].tolist() == pytest.approx(expected, abs=1e-6)
    first = [288.2753, 4.6576, 314.9379, 45.2488]
    assert found.pred_boxes.tensor[0].tolist() == pytest.approx(first, abs=2e-3)
    boxes = found.pred_boxes.tensor.double()
    assert boxes.sum().item() == pytest.approx(45873.8756, rel=1e-6)
    assert found.scores.double().sum().item() == pytest.approx(40.935312, rel=1e-6)
    # The authors' embeddings carry the score.
    weighted = found.reid_embeddings.double() * found.scores[:, None].double()
    assert weighted.abs().sum().item() == pytest.approx(498.15072, rel=1e-5)
    query = output["gt_embeddings"]["reid"][0].double()
    assert query.norm().item() == pytest.approx(1, abs=1e-6)
    assert query.sum().item() == pytest.approx(-0.1025780, abs=1e-5)


def test_seqnet_training(seqnet, first_rows):
    seqnet.train()
    batch = [
        model_input(0, [(20, 30, 80, 200, 6), (100, 50, 150, 180, 5555)]),
        model_input(1, [(40, 40, 80, 120, 5555), (150, 60, 200, 200, 8)]),
    ]
    losses = seqnet(batch)
    found = {name: value.item() for name, value in losses.items()}
    expected = {
        "loss_proposal_cls": 0.7936898,
        "loss_proposal_reg": 1.908476,
        "loss_box_cls": 0.8972863,
        "loss_box_reg": 0.2321416,
        "loss_reid": 5.422628,
        "loss_rpn_reg": 0.0137805,
        "loss_rpn_cls": 0.7231145,
    }
    assert found == pytest.approx(expected, rel=1e-4)
    memory = seqnet.roi_heads.reid_loss
    assert memory.lut.double().sum().item() == pytest.approx(4.6635293, rel=1e-4)
    assert memory.queue.double().sum().item() == pytest.approx(8.0650266, rel=1e-4)
    assert memory.queue_head.item() == 11


@pytest.fixture(scope="module")
def seqnext():
    """With a gallery filter, which leaves the other numbers as they are."""
    model = build(seqnext_shapes(gfn=True))
    assert model.gallery_filter is not None
    return model


def test_seqnext_inference(seqnext):
    seqnext.eval()
    x = model_input(0, [(20, 30, 80, 200, 6), (100, 50, 150, 180, 900)])
    with torch.no_grad():
        features = seqnext.backbone(seqnext.batch_of([x]).tensor)
        (output,) = seqnext([x])
        others = seqnext([{**model_input(i), "embed_only": True} for i in (1, 2, 3)])
    assert features.double().sum().item() == pytest.approx(-771.84387, rel=1e-4)
    found = output["instances"]
    assert len(found) == 123
    expected = [0.8851292, 0.8582513, 0.8569212, 0.8559100]
    assert found.scores[:4].tolist() == pytest.approx(expected, abs=1e-6)
    first = [46.1528, 121.7187, 81.1123, 156.0726]
    assert found.pred_boxes.tensor[0].tolist() == pytest.approx(first, abs=2e-3)
    assert found.pred_boxes.tensor.double().sum().item() == pytest.approx(67632.7369, rel=1e-6)
    assert found.scores.double().sum().item() == pytest.approx(86.733420, rel=1e-6)
    weighted = found.reid_embeddings.double() * found.scores[:, None].double()
    assert weighted.abs().sum().item() == pytest.approx(1091.39085, rel=1e-5)
    reid = output["gt_embeddings"]["reid"]
    assert reid.double().abs().sum().item() == pytest.approx(24.992655, rel=1e-5)

    scenes = torch.stack([result["scene_embedding"] for result in (output, *others)])
    assert scenes[0].double().abs().sum().item() == pytest.approx(12.680740, rel=1e-5)
    assert scenes.norm(dim=1).tolist() == pytest.approx([1.0] * 4, abs=1e-6)
    fuser = output["scene_fuser"].numpy()
    scores = scene_scores(reid.numpy(), np.zeros(2, int), scenes.numpy(), fuser)
    of_queries = [
        [0.7310586, 0.7283444, 0.7279338, 0.7275971],
        [0.7310586, 0.7283291, 0.7279201, 0.7275652],
    ]
    np.testing.assert_allclose(scores, of_queries, atol=2e-6)


FIRST_STEP = {
    0: [(20, 30, 80, 200, 6), (100, 50, 150, 180, 900)],
    1: [(40, 40, 80, 120, 901), (150, 60, 200, 200, 8)],
}
SECOND_STEP = {
    2: [(30, 30, 90, 200, 6), (120, 50, 170, 180, 8)],
    3: [(60, 20, 110, 190, 9), (200, 40, 260, 220, 902)],
}
LOSSES = ("proposal_cls", "proposal_reg", "box_cls", "box_reg", "reid", "rpn_reg", "rpn_cls")


def batch_of(step):
    return [model_input(i, people) for i, people in step.items()]


def test_seqnext_training(seqnext, first_rows, monkeypatch):
    seqnext.train()
    memory, scenes = seqnext.roi_heads.reid_loss, seqnext.gallery_filter
    with deterministic_sampling():
        losses = seqnext(batch_of(FIRST_STEP))
        expected = (1.016659, 1.580746, 1.091889, 0.119199, 1.714009, 0.009175, 0.695698)
        found = [losses[f"loss_{name}"].item() for name in LOSSES]
        assert found == pytest.approx(expected, rel=1e-4)
        # The fused scenes of two images are opposite.
        assert losses["loss_gfn"].item() == pytest.approx(0, abs=1e-8)
        sum(losses.values()).backward()
        gradients = [p.grad.norm() for p in seqnext.parameters() if p.grad is not None]
        assert torch.stack(gradients).norm().item() == pytest.approx(71.21538, rel=1e-4)
        assert memory.lut.double().sum().item() == pytest.approx(4.6137213, rel=1e-4)
        assert memory.queue.double().sum().item() == pytest.approx(-0.7132833, rel=1e-4)
        assert memory.queue_head.item() == 13

        of_table = []
        compute = scenes.losses_of

        def with_both_kinds_of_queries(*given):
            with torch.no_grad():
                scenes.queries = "oim"
                of_table.append(compute(*given)["loss_gfn"].item())
                scenes.queries = "batch"
            return compute(*given)

        monkeypatch.setattr(scenes, "losses_of", with_both_kinds_of_queries)
        with torch.no_grad():
            losses = seqnext(batch_of(SECOND_STEP))
    assert of_table == pytest.approx([0.581248], rel=1e-4)
    expected = (1.057683, 0.859438, 0.940589, 0.054010, 2.146716, 0.011637, 0.690798)
    found = [losses[f"loss_{name}"].item() for name in LOSSES]
    assert found == pytest.approx(expected, rel=1e-4)
    assert losses["loss_gfn"].item() == pytest.approx(0.423044, rel=1e-4)
