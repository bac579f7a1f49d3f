"""Every variation of the paper's ablations: builds, trains a step, detects and searches."""

import pytest
import torch
from torch import nn

from spnet_d2.engine.optimizer import build_optimizer

from .tiny import DIM, tiny_config, tiny_input, tiny_model

BOX_A, BOX_B = (5, 4, 30, 58), (50, 3, 80, 60)
SIZE = (64, 96)
SHARE, SEPARATE = {}, {"SEPARATE_HEADS": True}
BATCH_NORM = {"ANCHOR_LOGITS": "batch_norm", "CLS_LOGITS": "batch_norm"}
POSITIVE = {"POSITIVE_NORM": True}
QC = {"PATHWAY": "QC", "TEST_PATHWAY": "OC"}
PRETRAINING = {"REID.LOSS": "momentum_queue", "REID.QUEUE_SIZE": 32, "MOMENTUM_TWIN.ENABLED": True}

# Figure 8: rounds, heads and re-id size; Table 9: logits and sign of the norm; pre-training.
ABLATIONS = {
    **{f"cascade-{t}-share": {"NUM_CASCADES": t} for t in range(4)},
    **{f"cascade-{t}-separate": {"NUM_CASCADES": t, **SEPARATE} for t in range(4)},
    **{f"re-id-{d}": {"REID_DIM": d, **SEPARATE} for d in (128, 343, 2048)},
    "embeddings-343": {"EMBED_DIM": 343, "REID_DIM": 343, "NUM_CASCADES": 1},
    "batch-norm-negative": BATCH_NORM,
    "batch-norm-positive": {**BATCH_NORM, **POSITIVE},
    "batch-norm-cascade": {**BATCH_NORM, "NUM_CASCADES": 2},
    "fixed-norm-positive": POSITIVE,
    "mlp": {"CLS_LOGITS": "mlp", "NUM_CASCADES": 2},
    "noscale": {"ANCHOR_LOGITS": "noscale", "CLS_LOGITS": "noscale"},
    "query-centric-fine-tuning": QC,
    "query-centric-positive": {**QC, **POSITIVE},
    "query-centric-mlp": {**QC, "CLS_LOGITS": "mlp", **SEPARATE, "REID_DIM": 24},
    "pre-training-oc": PRETRAINING,
    "pre-training-qc": {**QC, **PRETRAINING},
    "pre-training-gt-only": {**QC, **PRETRAINING, "REID.GT_ONLY": True},
    "pre-training-frozen": {**QC, **PRETRAINING, "BACKBONE.FREEZE": True},
    "pre-training-lwf": {**QC, **PRETRAINING, "LWF.ENABLED": True},
}


def keys(options: dict) -> list:
    return [x for key, value in options.items() for x in (f"MODEL.SPNET.{key}", value)]


@pytest.mark.parametrize("options", ABLATIONS.values(), ids=ABLATIONS)
def test_trains_a_step_and_infers(options):
    mixed = ("SOLVER.BACKBONE_LR", 1e-5, "SOLVER.BACKBONE_WEIGHT_DECAY", 0.0)
    model = tiny_model(*keys(options))
    optimizer = build_optimizer(tiny_config(*keys(options), *mixed), model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    losses = model([tiny_input(i, BOX_A, BOX_B, size=SIZE) for i in range(2)])
    assert {name for name in losses if name.startswith("loss_box")} == {
        f"loss_box_{t}" for t in range(options.get("NUM_CASCADES", 0) + 1)
    }
    sum(losses.values()).backward()
    optimizer.step()
    moved = {
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (p != before[name]).any()
    }
    for part in (
        "backbone.fpn.",
        "proposal_generator.anchor_embedder.",
        "roi_heads.reid_embedder.",
    ):
        assert any(name.startswith(part) for name in moved), part
    frozen = options.get("BACKBONE.FREEZE", False)
    assert any(name.startswith("backbone.trunk.") for name in moved) != frozen
    assert all(p.isfinite().all() for p in model.parameters())

    model.eval()
    dims = options.get("EMBED_DIM", DIM), options.get("REID_DIM", DIM)
    with torch.no_grad():
        (output,) = model([tiny_input(2, BOX_A, BOX_B, size=SIZE)])
        found = output["instances"]
        assert found.reid_embeddings.shape == (len(found), dims[1])
        assert found.pred_boxes.tensor.isfinite().all()
        queries = output["gt_embeddings"]
        assert (queries["loc"].shape[1], queries["reid"].shape[1]) == dims
        (output,) = model([tiny_input(3, size=SIZE, queries=queries)])
    assert [len(q.reid_embeddings.shape) for q in output["query_instances"]] == [2, 2]


def test_parts_of_the_loss_reach_their_heads():
    """With batch norm logits the scored head is not the trained one, as in the authors' code."""
    model = tiny_model(*keys(BATCH_NORM))
    losses = model([tiny_input(0, BOX_A, BOX_B, size=SIZE)])
    sum(losses.values()).backward()
    generator = model.proposal_generator
    assert generator.anchor_logits.norm.weight.grad.abs() > 0
    scored = generator.box_detector.class_head.logits.norm
    assert scored.weight.grad is None
    # Its running statistics are those of sampled anchors, and it scores with them.
    assert scored.num_batches_tracked == 1
    assert scored.running_mean != 0
    assert scored.running_mean != generator.anchor_logits.norm.running_mean


def test_pathways_train_on_the_same_number_of_anchors():
    """The paper's 2048 = 8 images x 256 = 32 pairs x 64, in small."""
    sampled = {}
    for pathway in ("OC", "QC"):
        budget = {"ANCHORS_PER_IMAGE": 16, "QC.ANCHORS_PER_PAIR": 8, "QC.PAIRS_PER_BATCH": 8}
        model = tiny_model(*keys({"PATHWAY": pathway, **PRETRAINING, **budget}))
        detector = model.proposal_generator.box_detector
        detector.register_forward_hook(
            lambda _, inputs, __, pathway=pathway: sampled.update({pathway: len(inputs[0])})
        )
        model([tiny_input(i, BOX_A, BOX_B, size=SIZE) for i in range(4)])
    assert sampled == {"OC": 64, "QC": 64}


def test_twin_embeds_people_who_are_annotated_twice_and_teaches_the_others():
    """All boxes are one batch to the twin's norms; the memory gets people who are in it once."""
    model = tiny_model(*keys({"PATHWAY": "QC", **PRETRAINING, "REID.GT_ONLY": True}))
    x = tiny_input(0, BOX_A, (7, 5, 32, 60), BOX_B, size=SIZE)
    x["instances"].gt_person_ids = torch.tensor([4, 4, 7])
    rows = []
    norm = model.twin.reid_embedder.projectors[0][1]
    assert isinstance(norm, nn.BatchNorm1d)
    norm.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    model([x])
    assert rows == [3]
    assert model.roi_heads.reid_loss.labels.unique().tolist() == [-1, 7]


def test_boxes_are_jittered_for_re_id_in_training_only():
    model = tiny_model("MODEL.SPNET.SMALL_DATA.BOX_JITTER", "0.2")
    seen = []
    features = {"p3": torch.rand(1, model.backbone.channels, 12, 16)}
    boxes = [torch.tensor([BOX_A, BOX_B], dtype=torch.float32)]
    model.roi_heads.reid_embedder.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    for training in (True, True, False, False):
        model.train(training)
        model.roi_heads.embed_boxes(features, boxes)
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], seen[3]) and not torch.equal(seen[0], seen[2])
    with pytest.raises(ValueError, match="BOX_JITTER"):
        tiny_model("MODEL.SPNET.SMALL_DATA.BOX_JITTER", "0.5")
