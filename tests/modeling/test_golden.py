"""Whole-model numbers of the authors' code, for weights made by ``tests/fixtures/reference.py``."""

import pytest
import torch

from spnet_d2.checkpoint.llnl import build_from_llnl
from spnet_d2.testing import deterministic_sampling
from tests.fixtures.reference import (
    inference_batch,
    network_image,
    reference_state_dict,
    training_batch,
)

OC_CASES = {
    "c0-share": {},
    "c2-share": {"cascades": 2},
    "c2-sep-2048": {"cascades": 2, "separate": True, "reid_dim": 2048},
}

# anchor, box 0, (box 1, cls 1, box 2, cls 2,) reid, gradient norm, sums of LUT and queue after.
OC_TRAINING = {
    "c0-share": ([854.85840, 0.44417137, 4.2879567], 2276.6077, (-8.004312, 5.897639)),
    "c2-share": (
        [854.85840, 0.44417137, 0.42394024, 3.0325148, 0.39936021, 3.1273768, 4.1367207],
        2278.9387,
        (-8.446895, 5.444966),
    ),
    "c2-sep-2048": (
        [854.85840, 0.44417137, 0.42959160, 6.7342978, 0.40895072, 6.3651757, 2.9672163],
        2275.4002,
        (-2.768471, -6.286556),
    ),
}

# detections, top scores, first box, sums of boxes, scores, |embeddings|, |GT embeddings|
OC_INFERENCE = {
    "c0-share": (
        43,
        [0.9999989, 0.9999985, 0.9999971, 0.9999968],
        [0, 0, 420, 300],
        (30554.126, 42.999707, 3782.396, 174.8602),
    ),
    "c2-share": (
        43,
        [0.889278, 0.757509, 0.716453, 0.685398],
        [9.8370, 13.0929, 420, 300],
        (31240.074, 14.878869, 3776.089, 174.8602),
    ),
    "c2-sep-2048": (
        43,
        [0.0160812, 0.0130591, 0.0098972, 0.0084455],
        [9.6447, 6.1086, 420, 299.5241],
        (30969.642, 0.164751, 68912.59, 3166.704),
    ),
}


def test_recipe_checksums():
    state = reference_state_dict()
    assert state["backbone.body.0.0.weight"].double().sum() == pytest.approx(2.15178798, abs=1e-6)
    assert state["backbone.body.0.0.bias"].double().sum() == pytest.approx(0.17840595, abs=1e-6)
    sums = [network_image(i, 256, 256).sum() for i in range(4)]
    assert sums == pytest.approx([477.47075, 495.57680, 229.16670, -2.99480], abs=1e-4)
    assert len(state) == 251


@pytest.fixture(scope="module", params=OC_CASES)
def oc_model(request):
    """Case and model. Inference, which changes nothing, is tested first."""
    return request.param, build_from_llnl(reference_state_dict(**OC_CASES[request.param]))


def test_oc_inference(oc_model):
    case, model = oc_model
    count, scores, first_box, sums = OC_INFERENCE[case]
    with torch.no_grad():
        (output,) = model.eval()(inference_batch())
    found = output["instances"]
    assert len(found) == count
    assert found.scores[:4].tolist() == pytest.approx(scores, rel=1e-4)
    assert found.pred_boxes.tensor[0].tolist() == pytest.approx(first_box, abs=0.01)
    assert [
        found.pred_boxes.tensor.double().sum().item(),
        found.scores.double().sum().item(),
        found.reid_embeddings.double().abs().sum().item(),
        output["gt_embeddings"]["reid"].double().abs().sum().item(),
    ] == pytest.approx(sums, rel=1e-4)


def test_oc_training(oc_model):
    case, model = oc_model
    expected, grad_norm, sums = OC_TRAINING[case]
    model.train()
    with deterministic_sampling():
        losses = model(training_batch())
    cascades = OC_CASES[case].get("cascades", 0)
    names = ["loss_anchor", "loss_box_0"]
    for t in range(1, cascades + 1):
        names += [f"loss_box_{t}", f"loss_cls_{t}"]
    names.append("loss_reid")
    assert set(losses) == set(names)
    assert [losses[n].item() for n in names] == pytest.approx(expected, rel=1e-4)
    sum(losses.values()).backward()
    norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
    assert torch.stack(norms).norm().item() == pytest.approx(grad_norm, rel=1e-4)
    memory = model.roi_heads.reid_loss
    found = [memory.lut.double().sum().item(), memory.queue.double().sum().item()]
    assert found == pytest.approx(sums, rel=1e-4)


@pytest.fixture(scope="module")
def pretraining_state():
    return reference_state_dict(memory="cq")


# Overrides; anchor, box and re-id loss, gradient norm, sum of the queue after the step.
PRETRAINING = {
    "oc": ([], [854.85840, 0.44417137, 0.00460743], 2272.4416, 0.07450),
    "qc-32-pairs": (
        ["MODEL.SPNET.PATHWAY", "QC"],
        [42.319916, 0.44043460, 0.00637237],
        3371.2411,
        0.48262,
    ),
    "qc-14-pairs": (
        ["MODEL.SPNET.PATHWAY", "QC", "MODEL.SPNET.QC.PAIRS_PER_BATCH", 14],
        [20.149944, 0.44043460, 0.00637237],
        1521.6564,
        0.48262,
    ),
}


@pytest.mark.parametrize("case", PRETRAINING)
def test_pretraining(case, pretraining_state):
    overrides, expected, grad_norm, queue_sum = PRETRAINING[case]
    model = build_from_llnl(pretraining_state, overrides=overrides).train()
    with deterministic_sampling():
        losses = model(training_batch())
    names = ["loss_anchor", "loss_box_0", "loss_reid"]
    assert set(losses) == set(names)
    assert [losses[n].item() for n in names] == pytest.approx(expected, rel=1e-4)
    sum(losses.values()).backward()
    norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
    assert torch.stack(norms).norm().item() == pytest.approx(grad_norm, rel=1e-4)
    memory = model.roi_heads.reid_loss
    assert memory.labels.sum() == -36
    assert (memory.labels >= 0).sum() == 4
    assert memory.queue.double().sum().item() == pytest.approx(queue_sum, rel=2e-3)


# Per query: detections, first scores, first box, sums of boxes, scores and |embeddings|.
QC_SEARCH = [
    (35, [0.905531, 0.903642, 0.902130], [0, 0, 100.6917, 98.5745], 24884.864, 30.724978, 3002.356),
    (
        36,
        [0.930936, 0.922440, 0.917516],
        [213.8668, 38.6788, 269.7376, 155.2683],
        26101.044,
        32.344969,
        3105.989,
    ),
]


def test_query_centric_search(pretraining_state):
    overrides = ["MODEL.SPNET.PATHWAY", "QC"]
    model = build_from_llnl(pretraining_state, overrides=overrides).eval()
    batch = inference_batch()
    with torch.no_grad():
        (first,) = model(batch)
        assert first["query_instances"] == []
        batch[0]["queries"] = first["gt_embeddings"]
        (output,) = model(batch)
    gt_sum = output["gt_embeddings"]["reid"].double().abs().sum().item()
    assert gt_sum == pytest.approx(174.8602, rel=1e-4)
    assert len(output["query_instances"]) == 2
    for found, expected in zip(output["query_instances"], QC_SEARCH):
        count, scores, first_box, boxes, score_sum, embeddings = expected
        assert len(found) == count
        assert found.scores[:3].tolist() == pytest.approx(scores, rel=1e-4)
        assert found.pred_boxes.tensor[0].tolist() == pytest.approx(first_box, abs=0.01)
        assert [
            found.pred_boxes.tensor.double().sum().item(),
            found.scores.double().sum().item(),
            found.reid_embeddings.double().abs().sum().item(),
        ] == pytest.approx([boxes, score_sum, embeddings], rel=1e-4)
