"""The query-centric pathway of the whole model, on small random inputs."""

import pytest
import torch
from torch.testing import assert_close

from spnet_d2.modeling import backbone
from spnet_d2.testing import deterministic_sampling

from .tiny import DIM, tiny_input, tiny_model

BOX_A, BOX_B = (10, 12, 44, 80), (60, 5, 100, 90)
QC = ("MODEL.SPNET.PATHWAY", "QC")
PRETRAINING = (
    *QC,
    "MODEL.SPNET.REID.LOSS",
    "momentum_queue",
    "MODEL.SPNET.REID.QUEUE_SIZE",
    32,
    "MODEL.SPNET.MOMENTUM_TWIN.ENABLED",
    True,
)


def views():
    """Two views of two images, as the loader gives them."""
    return [tiny_input(i, BOX_A, BOX_B) for i in (0, 1)] + [tiny_input(2, BOX_A)]


@pytest.mark.parametrize(
    "overrides",
    [
        QC,
        PRETRAINING,
        (*PRETRAINING, "MODEL.SPNET.REID.GT_ONLY", True),
        (*QC, "MODEL.SPNET.NUM_CASCADES", 2, "MODEL.SPNET.QC.ANCHORS_PER_PAIR", 7),
        (
            *PRETRAINING,
            "MODEL.SPNET.NUM_CASCADES",
            2,
            "MODEL.SPNET.SEPARATE_HEADS",
            True,
            "MODEL.SPNET.REID_DIM",
            24,
        ),
        *((*QC, "MODEL.SPNET.QC.MATCH_MODE", mode) for mode in ("algo2", "self", "other", "all")),
    ],
    ids=lambda o: "-".join(map(str, o[3::2])) or "base",
)
def test_variants_train_and_search(overrides):
    model = tiny_model(*overrides)
    losses = model(views())
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    assert not any(".bridge." in name for name, _ in model.named_parameters())
    options = dict(zip(overrides[::2], overrides[1::2]))
    for t in range(1, options.get("MODEL.SPNET.NUM_CASCADES", 0) + 1):
        assert f"loss_cls_{t}" in losses

    model.eval()
    x = tiny_input(3, BOX_A, BOX_B)
    with torch.no_grad():
        (first,) = model([x])
        x["queries"] = first["gt_embeddings"]
        (output,) = model([x])
    found = output["query_instances"]
    assert len(found) == 2
    reid_dim = options.get("MODEL.SPNET.REID_DIM", DIM)
    assert all(f.reid_embeddings.shape == (len(f), reid_dim) for f in found)


def test_queries_are_independent_of_one_another_and_of_the_batch():
    model = tiny_model(*QC, "MODEL.SPNET.NUM_CASCADES", 1).eval()
    generator = torch.Generator().manual_seed(0)
    x_q = torch.randn(5, DIM, generator=generator) * 0.5
    inputs = [tiny_input(i, size=size) for i, size in enumerate([(96, 128), (64, 64), (96, 128)])]
    for x in inputs:
        x["queries"] = {"reid": x_q, "loc": x_q}
    with torch.no_grad():
        together = [r["query_instances"] for r in model(inputs)]
        for x, found in zip(inputs, together):
            for q in range(5):
                x["queries"] = {"reid": x_q[q : q + 1], "loc": x_q[q : q + 1]}
                ((alone,),) = [r["query_instances"] for r in model([x])]
                assert len(alone) == len(found[q])
                for name in ("scores", "reid_embeddings"):
                    assert_close(alone.get(name), found[q].get(name), rtol=1e-3, atol=1e-4)
    assert sum(len(f) for found in together for f in found) > 0


@pytest.mark.parametrize("cascades", [0, 2])
def test_chunks_of_queries_change_nothing(cascades, monkeypatch):
    model = tiny_model(*QC, "MODEL.SPNET.NUM_CASCADES", cascades).eval()
    assert model.queries_per_chunk == 64
    inputs = [tiny_input(i) for i in range(2)]
    x_q = torch.randn(7, DIM, generator=torch.Generator().manual_seed(0)) * 0.5
    for x, count in zip(inputs, (7, 2)):
        x["queries"] = {"reid": x_q[:count], "loc": x_q[:count]}
    encoded = []
    model.backbone.register_forward_hook(lambda *_: encoded.append("features"))
    model.proposal_generator.anchor_embedder.register_forward_hook(
        lambda *_: encoded.append("anchors")
    )
    with torch.no_grad():
        whole = model(inputs)
        monkeypatch.setattr(model, "queries_per_chunk", 3)
        chunked = model(inputs)
    assert encoded == ["features", "anchors"] * 2
    for a, b in zip(whole, chunked, strict=True):
        for one, other in zip(a["query_instances"], b["query_instances"], strict=True):
            assert one.get_fields().keys() == other.get_fields().keys()
            assert_close(one.pred_boxes.tensor, other.pred_boxes.tensor, rtol=1e-4, atol=1e-3)
            for name in ("scores", "pred_classes", "reid_embeddings"):
                assert_close(one.get(name), other.get(name), rtol=1e-3, atol=1e-4)
    assert sum(len(f) for r in whole for f in r["query_instances"]) > 0


def test_no_queries_for_an_image():
    model = tiny_model(*QC).eval()
    x = tiny_input(0)
    x["queries"] = {"reid": torch.zeros(0, DIM), "loc": torch.zeros(0, DIM)}
    with torch.no_grad():
        (output,) = model([x])
    assert output["query_instances"] == []


@pytest.mark.parametrize("pathway", ["OC", "QC"])
def test_queries_are_optional_for_each_image(pathway):
    model = tiny_model(*QC, "MODEL.SPNET.TEST_PATHWAY", pathway).eval()
    inputs = [tiny_input(i, BOX_A) for i in range(3)]
    x_q = torch.randn(4, DIM, generator=torch.Generator().manual_seed(0)) * 0.5
    inputs[1]["queries"] = {"reid": x_q, "loc": x_q}
    with torch.no_grad():
        together = model(inputs)
        alone = [model([x])[0] for x in inputs]
    found = 0
    for i, (mixed, single) in enumerate(zip(together, alone, strict=True)):
        assert mixed.keys() == single.keys()
        assert ("query_instances" in mixed) == (i == 1 or pathway == "QC")
        assert_close(mixed["gt_embeddings"], single["gt_embeddings"], rtol=1e-3, atol=1e-4)
        of_image = [r.get("query_instances", [r.get("instances")]) for r in (mixed, single)]
        assert len(of_image[0]) == (4 if i == 1 else int(pathway == "OC"))
        for a, b in zip(*of_image, strict=True):
            assert_close(a.pred_boxes.tensor, b.pred_boxes.tensor, rtol=1e-4, atol=1e-3)
            assert_close(a.scores, b.scores, rtol=1e-3, atol=1e-4)
            found += len(a)
    assert found > 0


@pytest.mark.parametrize("overrides", [QC, PRETRAINING])
def test_images_and_batches_without_people(overrides):
    model = tiny_model(*overrides)
    for batch in ([tiny_input(0), tiny_input(1, BOX_A)], [tiny_input(0), tiny_input(1)]):
        losses = model(batch)
        total = sum(losses.values())
        assert torch.isfinite(total)
        total.backward()
    assert all(value == 0 for value in losses.values())


def test_two_people_twice_in_one_image():
    x = tiny_input(0, BOX_A, BOX_A, BOX_B, BOX_B, (5, 5, 60, 90))
    x["instances"].gt_person_ids = torch.tensor([1, 1, 2, 2, 3])
    losses = tiny_model(*QC)([x, tiny_input(1, BOX_A)])
    assert all(torch.isfinite(v) for v in losses.values())


def test_re_id_only():
    losses = tiny_model(*PRETRAINING, "MODEL.SPNET.REID.ONLY", True)(views())
    assert list(losses) == ["loss_reid"]


def test_momentum_twin_follows_parameters_not_buffers():
    model = tiny_model(*PRETRAINING, "MODEL.SPNET.MOMENTUM_TWIN.MOMENTUM", 0.75)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    model.move_twin_with(optimizer)
    student = dict(model.roi_heads.reid_embedder.named_parameters())
    before = {k: v.clone() for k, v in model.twin.reid_embedder.named_parameters()}
    with torch.no_grad():
        for p in student.values():
            p.add_(1.0)
    model(views())
    for name, now in model.twin.reid_embedder.named_parameters():
        assert torch.equal(now, before[name]), "It moves with the optimiser alone."
    optimizer.step()
    for name, after in model.twin.reid_embedder.named_parameters():
        assert_close(after, 0.75 * before[name] + 0.25 * student[name])
        assert not after.requires_grad
    own = model.twin.reid_embedder.projectors[0][1].running_mean
    assert own.abs().sum() > 0
    assert not torch.equal(own, model.roi_heads.reid_embedder.projectors[0][1].running_mean)


def test_a_momentum_encoder_that_follows_no_optimiser_is_mentioned_once(caplog):
    model = tiny_model(*PRETRAINING)
    for _ in range(2):
        model(views())
    assert [r.message for r in caplog.records if "move_twin_with" in r.message] == [
        "The momentum encoder follows no optimiser, so its weights stay as they are. In a training "
        "loop of your own, call model.move_twin_with(optimizer) before it; spnet_d2.engine.Trainer "
        "does."
    ]
    model = tiny_model(*PRETRAINING)
    model.move_twin_with(torch.optim.SGD(model.parameters(), lr=0.0))
    caplog.clear()
    model(views())
    assert "move_twin_with" not in caplog.text


@pytest.mark.parametrize(
    "case, runs", [("constant", 0), ("trains", 1), ("depth", 1), ("norms", 1), ("differs", 1)]
)
def test_twin_takes_a_constant_trunks_maps(case, runs, monkeypatch):
    """Only where its own trunk would give the same; what it embeds never changes."""
    name = "BACKBONE.NAME", "test_resnet" if case == "norms" else "test_convnext"
    if case == "depth":
        monkeypatch.setitem(backbone.DROP_PATH_RATES, "test_", 0.1)
    options = dict([name, ("BACKBONE.FREEZE", case != "trains")])
    overrides = [x for k, v in options.items() for x in (f"MODEL.SPNET.{k}", v)]
    model = tiny_model(*PRETRAINING, *overrides)
    twin = model.twin.backbone
    with torch.no_grad():
        # The rest of the twin is behind its student.
        twin.fpn.inner_blocks[0][0].weight.mul_(0.9)
        if case == "differs":
            next(twin.trunk.parameters()).mul_(0.9)
    calls = []
    twin.trunk.register_forward_hook(lambda *_: calls.append(1))
    images = torch.randn(2, 3, 72, 104)
    torch.manual_seed(0)
    p3 = model.twin.features(images, model.backbone, model.backbone.trunk_maps(images))
    assert len(calls) == runs
    torch.manual_seed(0)
    model.backbone.trunk_maps(images)
    assert torch.equal(p3, twin(images)["p3"])
    model(views())
    assert len(calls) == 2 * runs + 1


def test_frozen_losses():
    """The same sampled pairs give the same numbers twice."""
    with deterministic_sampling():
        found = [tiny_model(*PRETRAINING)(views()) for _ in range(2)]
    assert all(found[0][k] == found[1][k] for k in found[0])


def test_bad_queries():
    model = tiny_model(*QC).eval()
    x = tiny_input(0, image_id=4)
    x["queries"] = {"reid": torch.zeros(2, DIM), "loc": torch.zeros(2, DIM + 1)}
    with pytest.raises(ValueError, match=f"\\(Q, {DIM}\\).*image_id 4"):
        model([x])
    x["queries"]["loc"] = torch.full((2, DIM), torch.nan)
    with pytest.raises(ValueError, match="NaN"):
        model([x])


def test_unknown_mode():
    with pytest.raises(ValueError, match="algo1"):
        tiny_model(*QC, "MODEL.SPNET.QC.MATCH_MODE", "best")
