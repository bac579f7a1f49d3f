"""Authors' checkpoints, converted, equal the slow second SPNet: every trunk, pathway and head.

Names are the authors', values as large as those of the recipe of ``tests/fixtures/reference.py``.
"""

import re
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch.testing import assert_close

from spnet_d2.checkpoint.llnl import build_from_llnl, convert_state_dict, infer_config
from spnet_d2.testing import deterministic_sampling
from tests.fixtures import reference, thin_trunks
from tests.fixtures.llnl_shapes import llnl_shapes
from tests.fixtures.reference import (
    MEAN,
    STD,
    network_image,
    reference_shapes,
    reference_tensor,
)
from tests.oracles.spnet import Settings, SlowSPNet
from tests.oracles.trunks import slow_trunk

CONVNEXT, SWIN, SOLIDER = thin_trunks.CONVNEXT, thin_trunks.SWIN, thin_trunks.SOLIDER
SEPARATE = {"cascades": 2, "separate": True}
PRETRAINING = {"objective": "cq", "moco": True, "scalar": 10.0}
QC = {"train_mode": "qc"}
FEW = {
    "anchors_per_image": 16,
    "anchors_per_pair": 8,
    "max_pairs": 12,
    "pre_topk": 40,
    "search_topk": 10,
}

# Trunk, re-id size, and what the authors' configs would say.
CASES = {
    "convnext-cascade-separate": (CONVNEXT, 343, SEPARATE),
    "convnext-pretraining-oc": (CONVNEXT, 128, PRETRAINING),
    "convnext-pretraining-qc": (CONVNEXT, 128, {**QC, **PRETRAINING, "max_pairs": 9}),
    "convnext-qc-cascade": (CONVNEXT, 128, {**QC, "cascades": 1}),
    "convnext-qc-separate": (CONVNEXT, 200, {**QC, **SEPARATE, "conservative": True}),
    "swin-cascade-share": (SWIN, 128, {"cascades": 2}),
    "swin-qc": (SWIN, 128, {**QC, "match_mode": "algo2", "separate": True}),
    "solider-cascade-separate": (SOLIDER, 256, {"cascades": 1, "separate": True}),
    "batch-norm-positive": (
        CONVNEXT,
        128,
        {"anchor_logits": "batchnorm", "cls_logits": "batchnorm", "posnorm": True, "cascades": 1},
    ),
    "mlp-gt-only": (CONVNEXT, 128, {"cls_logits": "mlp", "reid_gt_only": True, **PRETRAINING}),
    "resnet": (thin_trunks.RESNET, 128, {"cascades": 1}),
}
LOGITS = {"norm": "fixed_norm", "batchnorm": "batch_norm", "mlp": "mlp"}


def checkpoint(trunk, reid_dim, options):
    """A state dict by the authors' names."""
    kinds = (options.anchor_logits, options.cls_logits)
    shapes = llnl_shapes(
        trunk,
        options.cascades,
        options.separate,
        reid_dim,
        options.objective,
        options.moco,
        kinds[0] if kinds[0] == "batchnorm" else kinds[1],
    )
    # torchvision's Swin reads its own; the values are the same in all of its blocks.
    swin = thin_trunks.torchvision_trunk(SWIN).state_dict()
    index = swin["1.0.attn.relative_position_index"]
    return {
        name: index.view(shape)
        if name.endswith("relative_position_index")
        else reference_tensor(name, shape)
        for name, shape in shapes.items()
    }


def overrides(options):
    """What weights don't tell, as keys of ours."""
    keys = {
        "PATHWAY": options.train_mode.upper(),
        "ANCHORS_PER_IMAGE": options.anchors_per_image,
        "QC.ANCHORS_PER_PAIR": options.anchors_per_pair,
        "QC.PAIRS_PER_BATCH": options.max_pairs,
        "QC.MATCH_MODE": options.match_mode,
        "POSITIVE_NORM": options.posnorm,
        "REID.GT_ONLY": options.reid_gt_only,
    }
    return [x for key, value in keys.items() for x in (f"MODEL.SPNET.{key}", value)]


# x1, y1, x2, y2, person, row of the look-up table (50: unknown)
PEOPLE = [
    (100, 90, [(10, 20, 50, 96, 5, 6), (40, 10, 85, 90, 9, 10)]),
    (64, 128, [(8, 4, 40, 62, 5, 6), (50, 6, 88, 60, 9, 10), (80, 8, 120, 63, 3, 50)]),
    # Somebody twice.
    (110, 70, [(5, 5, 40, 80, 7, 8), (20, 30, 65, 105, 7, 8), (3, 50, 30, 100, 3, 50)]),
    (61, 64, []),
]


def batch():
    """Images of unequal sizes, as the slow model takes them and as ours does."""
    slow, targets, ours = [], [], []
    for i, (height, width, rows) in enumerate(PEOPLE):
        image = torch.from_numpy(network_image(i, height, width))
        slow.append(image.float())
        rows = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
        boxes, person, label = rows[:, :4], rows[:, 4].long(), rows[:, 5].long()
        targets.append({"boxes": boxes, "person_id": person, "label": label})
        instances = Instances(
            (height, width),
            gt_boxes=Boxes(boxes),
            gt_classes=torch.zeros_like(person),
            gt_person_ids=person,
            gt_identities=torch.where(label < 50, label, -1),
        )
        pixels = ((image * STD + MEAN) * 255).float()
        ours.append({"image": pixels, "height": height, "width": width, "instances": instances})
    return slow, targets, ours


@pytest.fixture(scope="module", params=CASES)
def models(request):
    """Our model and the slow one of a case, of the same tensors."""
    trunk, reid_dim, given = CASES[request.param]
    options = Settings(**{**FEW, **given})
    # Random numbers of a generator are made ten times as fast as the recipe's.
    generator = np.random.default_rng(0)
    quick = mock.patch.object(reference, "_uniform", lambda _, shape: generator.random(shape, "f4"))
    with quick, thin_trunks.known_trunks():
        state = checkpoint(trunk, reid_dim, options)
        lightning = {"state_dict": {f"model.{k}": v.clone() for k, v in state.items()}}
        model = build_from_llnl(lightning, overrides=overrides(options))
    generator = model.proposal_generator
    # No keys: the authors' constants, and a rule that no run of theirs uses.
    generator.sampling = replace(generator.sampling, match_conservative=options.conservative)
    generator.selection = replace(
        generator.selection, pre_topk=options.pre_topk, query_topk=options.search_topk
    )

    def slow(training):
        return SlowSPNet(state, slow_trunk(trunk, state, training), options, training)

    return model, slow, options


def compare(ours, boxes, scores, embeddings):
    assert len(ours) == len(boxes)
    assert_close(ours.pred_boxes.tensor, boxes, rtol=0, atol=0.01)
    assert_close(ours.scores, scores, rtol=1e-4, atol=1e-5)
    if len(boxes):
        cosine = torch.cosine_similarity(ours.reid_embeddings, embeddings)
        assert (cosine > 0.9999).all()


@torch.no_grad()
def test_detections_of_both_pathways(models):
    model, slow, options = models
    model.eval()
    oracle = slow(training=False)
    images, targets, inputs = batch()
    outputs = model(inputs)
    found = 0
    for image, target, output in zip(images, targets, outputs, strict=True):
        reid, loc = oracle.embed(image, target["boxes"])
        assert_close(output["gt_embeddings"]["reid"], reid, rtol=1e-3, atol=1e-3)
        assert_close(output["gt_embeddings"]["loc"], loc, rtol=1e-3, atol=1e-3)
        if options.train_mode == "oc":
            compare(output["instances"], *oracle.detect(image))
            found += len(output["instances"])
    # Everybody is searched for in all images.
    loc = torch.cat([x["gt_embeddings"]["loc"] for x in outputs])
    queries = {"reid": torch.cat([x["gt_embeddings"]["reid"] for x in outputs]), "loc": loc}
    for image, output in zip(images, model([{**x, "queries": queries} for x in inputs])):
        for ours, theirs in zip(output["query_instances"], oracle.search(image, loc), strict=True):
            compare(ours, *theirs)
            found += len(ours)
    assert found > 0


def test_losses_gradients_and_memories(models):
    model, slow, options = models
    model.train()
    oracle = slow(training=True)
    state = oracle.state
    trained = {
        k: v.requires_grad_()
        for k, v in state.items()
        if v.is_floating_point() and not re.search(r"moco_|running_|reid_loss", k)
    }
    images, targets, inputs = batch()
    with deterministic_sampling():
        losses = model(inputs)
    expected = oracle.losses(images, targets)
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(expected[name].item(), rel=1e-4), name
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    ours = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None])
    theirs = torch.stack([p.grad.norm() for p in trained.values() if p.grad is not None])
    assert ours.norm().item() == pytest.approx(theirs.norm().item(), rel=1e-3)
    # Buffers: look-up table, queue, statistics of the student's and the twin's batch norms.
    found = model.state_dict()
    memories = ("reid_loss",) if options.objective == "oim" else ()
    with thin_trunks.known_trunks():
        converted = convert_state_dict(state)
    for name, buffer in converted.items():
        if any(part in name for part in ("running_", *memories)):
            if "queue_head" not in name:
                assert_close(found[name], buffer, rtol=1e-3, atol=1e-4, msg=name)


def test_what_solider_and_swin_leave_unused():
    """Norm and classifier behind a whole Swin have no place; a wrong name has none either."""
    with thin_trunks.known_trunks():
        state = {k: torch.zeros(shape) for k, shape in llnl_shapes(SWIN).items()}
        extra = {"backbone.norm.weight": torch.zeros(3), "backbone.head.bias": torch.zeros(3)}
        assert convert_state_dict(state | extra).keys() == convert_state_dict(state).keys()
        state = {k: torch.zeros(shape) for k, shape in llnl_shapes(SOLIDER).items()}
        assert infer_config(state).MODEL.SPNET.BACKBONE.NAME == SOLIDER
        name = "head.align_emb_head.emb_head.swin.stages.0.wrong"
        with pytest.raises(ValueError, match=re.escape(name)):
            convert_state_dict(state | {name: torch.zeros(1)})


@pytest.mark.parametrize(
    ("trunk", "name", "tensors", "parameters"),
    [
        ("convnext_tiny", "convnext_tiny", None, None),
        ("convnext_small", "convnext_small", None, None),
        # Sizes of the published models.
        ("convnext_base", "convnext_base", 501, 192.37),
        ("resnet50", "resnet50", 566, 143.24),
        ("swin_t", "swin_tiny_patch4_window7_224", None, None),
        ("swin_s", "swin_small_patch4_window7_224", None, None),
        ("swin_b", "swin_base_patch4_window7_224", None, None),
    ],
)
def test_every_trunk_of_the_authors_finds_its_place(trunk, name, tensors, parameters):
    # SPNet-L: two stages, separate heads, re-id size 2048.
    shapes = llnl_shapes(trunk, 2, True, 2048)
    state = {k: torch.empty(shape, device="meta") for k, shape in shapes.items()}
    with torch.device("meta"):
        model = build_from_llnl(state, overrides=["MODEL.DEVICE", "meta"])
    names = {k for k in shapes if not k.endswith("relative_position_index")}
    assert len(model.state_dict()) == len(names) + 1  # the queue's position
    if tensors:
        assert len(shapes) == tensors
        found = sum(p.numel() for p in model.parameters()) / 1e6
        assert found == pytest.approx(parameters, abs=0.01)
    assert model.roi_heads.num_cascades == 2 and len(model.roi_heads.loc_embedders) == 2


def test_learning_without_forgetting_finds_its_place():
    """Pre-training with it: a classifier, and a teacher with an FPN and a classifier."""
    shapes = reference_shapes(memory="cq")
    trunk = {k: v for k, v in shapes.items() if k.startswith("backbone.")}
    for i, shape in ((0, (768,)), (2, (1000, 768))):
        trunk |= {f"backbone.classifier.{i}.weight": shape}
        trunk |= {f"backbone.classifier.{i}.bias": shape[:1]}
    for prefix in ("backbone.", "moco_backbone.", "lwf_backbone."):
        shapes |= {k.replace("backbone.", prefix, 1): v for k, v in trunk.items()}
    state = {k: torch.empty(shape, device="meta") for k, shape in shapes.items()}
    with torch.device("meta"):
        model = build_from_llnl(state, overrides=["MODEL.DEVICE", "meta"])
    assert model.lwf.classifier.head.fc.weight.shape == (1000, 768)
    left_out = [k for k in shapes if k.startswith(("lwf_backbone.fpn.", "moco_backbone.class"))]
    assert len(model.state_dict()) == len(shapes) - len(left_out) + 1  # the queue's position


def test_gallery_filters_find_their_place():
    """Of its 89 names, 43 are others of the re-id branch's tensors; SPNet-S has 71.46 million."""
    shapes = reference_shapes(gfn=True)
    assert sum(name.startswith("head.gfn.") for name in shapes) == 89
    state = {k: torch.empty(shape, device="meta") for k, shape in shapes.items()}
    with torch.device("meta"):
        model = build_from_llnl(state, overrides=["MODEL.DEVICE", "meta"])
    assert model.gallery_filter.mode == "combined"
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(71.46, abs=0.01)
    # Each of the branch's own tensors has a place of its own.
    own = convert_state_dict({k: torch.full(s, i) for i, (k, s) in enumerate(shapes.items())})
    values = {k: int(t.flatten()[0]) for k, t in own.items() if k.startswith("gallery_filter.")}
    names = list(shapes)
    assert names[values["gallery_filter.embedder.projectors.1.0.weight"]] == (
        "head.gfn.head.image_emb_head.projectors.feat_res5.0.weight"
    )
    assert (
        names[values["gallery_filter.fuser.running_var"]] == "head.gfn.fuser.norm.norm.running_var"
    )
    del values["gallery_filter.step"]
    assert len(set(values.values())) == len(values) == 45
