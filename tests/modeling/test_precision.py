"""Half precision: what stays float32, and embeddings of norm 0 and 10,000, forward and backward."""

from argparse import Namespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from spnet_d2.modeling import precision as precisions
from spnet_d2.modeling.box_detector import BoxDetector
from spnet_d2.modeling.box_embedder import LocalisationEmbedder, ReidEmbedder, pool_rois
from spnet_d2.modeling.fixed_norm import LOGIT_TYPES, NormLogits, offset_norm
from spnet_d2.modeling.losses import BOX_TRANSFORM, anchor_loss, box_loss, class_loss
from spnet_d2.modeling.lwf import lwf_loss
from spnet_d2.modeling.precision import autocast, full_precision, unit_rows
from spnet_d2.modeling.reid_losses import MomentumQueueLoss, NTXentLoss, OIMLoss
from spnet_d2.modeling.swap_path import SwapPath, query_distances
from spnet_d2.modeling.sync_batch_norm import synchronise_batch_norms
from tests.modeling.tiny import DIM, tiny_input, tiny_model

HALF = [torch.float16, torch.bfloat16]
NORMS = [0.0, 1e4]
BOX_A, BOX_B = (10, 20, 60, 90), (70, 5, 120, 80)

half = pytest.mark.parametrize("dtype", HALF, ids=["float16", "bfloat16"])
norms = pytest.mark.parametrize("norm", NORMS)


def rows(norm: float, dtype: torch.dtype, n: int = 6, dim: int = 128) -> torch.Tensor:
    """Embeddings of this norm, as half precision gives them; some share a direction."""
    x = torch.randn(n, dim, generator=torch.Generator().manual_seed(0))
    x[1], x[2] = x[0], -x[0]
    x = norm * x / x.norm(dim=1, keepdim=True)
    return x.to(dtype).requires_grad_()


def assert_finite(*tensors: torch.Tensor) -> None:
    for tensor in tensors:
        assert tensor.isfinite().all()


def test_autocast_contexts():
    x, layer = torch.ones(1, 2), nn.Linear(2, 2)
    for precision, dtype in (
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float32),  # of a CPU
    ):
        with autocast("cpu", precision):
            assert layer(x).dtype == dtype
    # float32 leaves a context around it alone.
    with torch.autocast("cpu", torch.bfloat16), autocast("cpu", "float32"):
        assert layer(x).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="found 'half'"):
        autocast("cpu", "half")


def tf32() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_tf32_is_for_half_precision_only_and_never_for_similarities():
    strict, fast, before = ("highest", False), ("high", True), tf32()
    on_gpu = Namespace(device=torch.device("cuda"))
    for name, expected in (("float32", strict), ("float16", fast), ("bfloat16", fast)):
        with autocast("cuda", name):
            assert tf32() == expected
            with full_precision(on_gpu):
                assert tf32() == strict
            assert tf32() == expected
        assert tf32() == before
        with autocast("cpu", name), full_precision(torch.ones(1)):
            assert tf32() == before


@pytest.mark.parametrize(
    ("flags", "fast"),
    [("avx2 avx512_bf16", False), ("avx512_bf16 amx_bf16 amx_tile", True), ("bf16", False)],
)
def test_bfloat16_is_taken_where_matrix_products_are_faster(flags, fast, monkeypatch):
    """Instructions for it alone (avx512_bf16) don't make it faster than float32."""
    monkeypatch.setattr(precisions.Path, "read_text", lambda _: f"flags : fpu {flags} sse\n")
    assert precisions.has_bfloat16.__wrapped__() == fast


@pytest.mark.parametrize("native", [False, True])
def test_float16_of_inference_on_a_cpu(native, monkeypatch, caplog):
    """As DefaultPredictor uses it: no setup of a job chooses anything before."""
    monkeypatch.setattr(precisions, "has_bfloat16", lambda: native)
    precisions._log_once.cache_clear()
    expected = "bfloat16" if native else "float32"
    asked = [tiny_model("MODEL.SPNET.TEST.PRECISION", p).eval() for p in ("float16", expected)]
    x = tiny_input(0, BOX_A)
    with torch.no_grad(), caplog.at_level("INFO"):
        found, wanted = (model([x])[0]["gt_embeddings"]["reid"] for model in asked)
        asked[0]([x])
    assert_close(found, wanted, rtol=0, atol=0)
    lines = [r.getMessage() for r in caplog.records if "TEST.PRECISION" in r.getMessage()]
    assert len(lines) == 1 and expected in lines[0]


@half
@norms
@pytest.mark.parametrize("kind", [*LOGIT_TYPES, "mlp"])
@pytest.mark.parametrize("bridge", ["combiner", "direct"])
def test_offsets_logits_boxes_and_losses(dtype, norm, kind, bridge):
    """The round that a bridge makes of anchor embeddings, under autocast."""
    torch.manual_seed(0)
    path, detector = SwapPath(128, bridge), BoxDetector(128, kind)
    x_a = rows(norm, dtype)
    labels = torch.tensor([1, 0, 1, 0, -1, 1])
    boxes = torch.tensor([[100.0, 100.0, 164.0, 228.0]]).repeat(6, 1)
    with torch.autocast("cpu", dtype):
        offsets = path.object_centric(x_a)
        logits, deltas = detector(offsets)
        losses = [
            class_loss(logits, labels).mean(),
            box_loss(deltas, boxes, boxes + 3, labels).mean(),
        ]
        if kind != "mlp":
            z = NormLogits(128, kind)(offset_norm(offsets))
            losses.append(anchor_loss(z, labels).mean())
    assert offsets.dtype == dtype
    assert {x.dtype for x in (logits, deltas, *losses)} == {torch.float32}
    sum(losses).backward()
    parameters = [*path.parameters(), *detector.parameters()]
    assert_finite(logits, deltas, *losses, x_a.grad)
    assert_finite(*(p.grad for p in parameters if p.grad is not None))


@half
@norms
def test_distances_from_queries(dtype, norm):
    """A query equal to an anchor embedding: distance 0, and no gradient of 0 / 0."""
    x_a = rows(norm, dtype)
    x_q = x_a.detach()[:2].float().requires_grad_()
    labels = torch.tensor([[1, 0, 0, 0, 0, -1]]).repeat(2, 1)
    with torch.autocast("cpu", dtype):
        w = query_distances(x_q, x_a)
        loss = anchor_loss(NormLogits(128)(w), labels).mean()
        loss = loss + offset_norm(SwapPath.query_centric(x_q[:, None], x_a)).sum()
    assert w.dtype == loss.dtype == torch.float32 and w[0, 0] == 0
    loss.backward()
    assert_finite(w, loss, x_q.grad, x_a.grad)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 1.5, 2.0])
def test_focal_loss_of_logits_beyond_all_bounds(gamma):
    logits = torch.tensor([-1e4, 1e4, -1e4, 1e4], requires_grad=True)
    loss = anchor_loss(logits, torch.tensor([1, 1, 0, 0]), gamma=gamma).mean()
    loss.backward()
    assert_finite(loss, logits.grad)


@half
@norms
@pytest.mark.parametrize("loss", ["oim", "momentum_queue", "nt_xent"])
def test_reid_losses_and_memories(dtype, norm, loss):
    """Twice, so that the memory has been written with such rows; then with ordinary ones."""
    module = {
        "oim": OIMLoss(128, 4, 5),
        "momentum_queue": MomentumQueueLoss(128, 8),
        "nt_xent": NTXentLoss(),
    }[loss]
    ids = torch.tensor([0, 1, 2, 3, 1, 0])
    if loss == "oim":
        ids[3] = -1
    more = {"num_gt": 4} if loss == "nt_xent" else {}
    for size in (norm, norm, 1.0):
        x = rows(size, dtype)
        with torch.autocast("cpu", dtype):
            value = module(x, ids, **more)
        assert value.dtype == torch.float32
        value.backward()
        assert_finite(value, x.grad, *module.buffers())
        assert {b.dtype for b in module.buffers() if b.is_floating_point()} <= {torch.float32}


@pytest.mark.parametrize("loss", ["oim", "momentum_queue", "nt_xent"])
@pytest.mark.parametrize("row", range(3))
def test_embedding_of_nan_shows_in_the_loss(loss, row):
    """An unknown person's, too, which the sum of OIM's loss leaves out, but its queue takes."""
    module = {
        "oim": OIMLoss(8, 4, 5),
        "momentum_queue": MomentumQueueLoss(8, 8),
        "nt_xent": NTXentLoss(),
    }[loss]
    x = torch.randn(3, 8)
    x[row, 2] = torch.nan
    ids = torch.tensor([0, -1, 2] if loss == "oim" else [0, 1, 2])
    more = {"num_gt": 3} if loss == "nt_xent" else {}
    assert module(x, ids, **more).isnan()


def test_rows_without_a_direction():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0], [torch.nan, 1.0]], requires_grad=True)
    unit = unit_rows(x)
    assert_close(unit[:3], torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, 0.0]]))
    assert unit[3].isnan().all()
    unit[:3].sum().backward()
    assert_finite(x.grad[:3])
    assert (x.grad[1:3] == 0).all() and (x.grad[0] != 0).all()


@half
@pytest.mark.parametrize("size", [0.0, 1e4])
def test_learning_without_forgetting(dtype, size):
    student = (size * torch.tensor([[1.0, -1.0, 0.5]])).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype):
        loss = lwf_loss(student, -student.detach()).mean()
    loss.backward()
    assert loss.dtype == torch.float32
    assert_finite(loss, student.grad)


@half
@pytest.mark.parametrize("synchronised", [False, True])
def test_batch_norms_of_embeddings_are_float32(dtype, synchronised):
    """Where nothing varied, a norm multiplies by 316: to more than float16 holds."""
    embedder = ReidEmbedder(tiny_model().backbone, DIM, feat4_share=1.0)
    if synchronised:
        synchronise_batch_norms(embedder)
    linear, norm = embedder.eval().projectors[0]
    norm.running_var.zero_()
    nn.init.constant_(linear.weight, 1.0)
    rois = torch.full((2, linear.in_features, 14, 14), 100.0, dtype=dtype)
    with torch.autocast("cpu", dtype):
        found = embedder(rois)
    assert found.dtype == torch.float32 and found.min() > 65504
    assert_finite(found)


@half
def test_boxes_are_not_rounded_for_pooling(dtype):
    """Half precision can't tell pixel 1001 from 1000 (bfloat16: 1004)."""
    p3 = torch.arange(160.0).repeat(1, 1, 20, 1).to(dtype).requires_grad_()
    left = torch.tensor([1000.0, 1001.3, 1003.9])
    boxes = torch.stack([left, left * 0 + 10, left + 56, left * 0 + 66], dim=1)
    with torch.autocast("cpu", dtype):
        rois = pool_rois(p3, [boxes])
    assert rois.dtype == dtype
    # A ramp: a mean tells where a box is.
    wide = pool_rois(p3.float(), [boxes])
    assert_close(rois, wide.to(dtype), rtol=0, atol=0)
    assert wide.mean(dim=(1, 2, 3)).diff().tolist() == pytest.approx([1.3 / 8, 2.6 / 8], rel=1e-3)
    rois.float().sum().backward()
    assert_finite(p3.grad)


def test_boxes_of_nan_are_features_of_nan():
    """RoIAlign would read outside of its memory."""
    p3 = torch.ones(2, 3, 12, 16)
    boxes = [torch.tensor([BOX_A, (0, torch.nan, 9, 9)]), torch.tensor([(0, 0, torch.inf, 9.0)])]
    rois = pool_rois(p3, boxes)
    assert rois[0].isfinite().all() and rois[1:].isnan().all()


@pytest.mark.parametrize("size", [0.0, 1e4])
@half
@pytest.mark.parametrize("kind", [ReidEmbedder, LocalisationEmbedder])
def test_embedders_of_nothing_and_of_much(kind, dtype, size):
    embedder = kind(tiny_model().backbone, DIM)
    rois = torch.full((3, embedder.copy.in_channels, 14, 14), size, dtype=dtype).requires_grad_()
    with torch.autocast("cpu", dtype):
        x = embedder(rois)
    assert x.dtype == torch.float32
    x.sum().backward()
    assert_finite(x, rois.grad)


def test_decoding_the_largest_deltas():
    """Deltas of offsets of norm 10,000 are finite boxes, with finite gradients."""
    deltas = torch.tensor([[1e4, -1e4, 1e4, -1e4], [0.0, 0.0, -1e4, 0.0]], requires_grad=True)
    boxes = torch.tensor([[0.0, 0.0, 500.0, 500.0]]).repeat(2, 1)
    assert_finite(BOX_TRANSFORM.apply_deltas(deltas, boxes))
    loss = box_loss(deltas, boxes, boxes, torch.ones(2)).mean()
    loss.backward()
    assert_finite(loss, deltas.grad)


SETTINGS = {
    "shared heads": ("MODEL.SPNET.NUM_CASCADES", 1),
    "separate heads": ("MODEL.SPNET.NUM_CASCADES", 1, "MODEL.SPNET.SEPARATE_HEADS", True),
    "queries": (
        *("MODEL.SPNET.PATHWAY", "QC", "MODEL.SPNET.QC.PAIRS_PER_BATCH", 4),
        *("MODEL.SPNET.QC.ANCHORS_PER_PAIR", 8, "MODEL.SPNET.NUM_CASCADES", 1),
        *("MODEL.SPNET.REID.LOSS", "momentum_queue", "MODEL.SPNET.MOMENTUM_TWIN.ENABLED", True),
    ),
}


def embeddings_of(model: nn.Module, norm: float) -> None:
    """Give all embeddings that linear layers and the anchor convolution make about this norm."""
    with torch.no_grad():
        conv = model.proposal_generator.anchor_embedder.conv
        conv.weight.zero_()
        conv.bias.copy_(torch.full_like(conv.bias, norm / DIM**0.5))
        embedders = [model.roi_heads.reid_embedder, *model.roi_heads.loc_embedders]
        for layer in (m for e in embedders for m in e.modules() if isinstance(m, nn.Linear)):
            if layer.out_features <= DIM and layer.bias is None:
                layer.weight.mul_(norm)


@half
@norms
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_training_step(dtype, norm, settings):
    model = tiny_model(*settings)
    embeddings_of(model, norm)
    batch = [tiny_input(0, BOX_A, BOX_B), tiny_input(1, BOX_B, BOX_A)]
    for _ in range(2):
        with torch.autocast("cpu", dtype):
            losses = model(batch)
        assert {loss.dtype for loss in losses.values()} == {torch.float32}
        assert_finite(*losses.values(), *(b for b in model.buffers() if b.is_floating_point()))
        model.zero_grad()
        sum(losses.values()).backward()
        assert_finite(*(p.grad for p in model.parameters() if p.grad is not None))


def test_weights_rounded_without_a_graph_are_not_kept_for_training():
    """Norms of separate heads see ground truth first; older versions of PyTorch would keep them."""
    name = ("MODEL.SPNET.BACKBONE.NAME", "test_resnet")
    model = tiny_model(*name, *SETTINGS["separate heads"])
    (embedder,) = model.roi_heads.loc_embedders
    modes = []
    embedder.register_forward_pre_hook(
        lambda *_: modes.append((torch.is_grad_enabled(), torch.is_autocast_cache_enabled()))
    )
    kinds = []
    embedder.projection.register_forward_hook(lambda *x: kinds.append(x[2].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        losses = model([tiny_input(0, BOX_A, BOX_B), tiny_input(1, BOX_B, BOX_A)])
    assert modes == [(False, False), (True, True)]
    assert kinds == [torch.bfloat16] * 2
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in embedder.parameters())
    assert embedder.projection.weight.grad.any()


@half
@norms
def test_inference(dtype, norm):
    model = tiny_model("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0).eval()
    embeddings_of(model, norm)
    with torch.no_grad(), torch.autocast("cpu", dtype):
        (output,) = model([tiny_input(0, BOX_A)])
    found = output["instances"]
    assert found.scores.dtype == found.reid_embeddings.dtype == torch.float32
    assert found.pred_boxes.tensor.dtype == torch.float32
    assert_finite(found.scores, found.pred_boxes.tensor, found.reid_embeddings)


def test_inference_by_key():
    """The same detections but for rounding, from the same weights, without a context around."""
    wide, half = (tiny_model("MODEL.SPNET.TEST.PRECISION", p) for p in ("float32", "bfloat16"))
    kinds = []
    half.proposal_generator.register_forward_pre_hook(lambda _, x: kinds.append(x[1]["p3"].dtype))
    x = tiny_input(0, BOX_A)
    with torch.no_grad():
        ((expected,), (found,)) = (model.eval()([x]) for model in (wide, half))
    assert kinds == [torch.bfloat16]
    a, b = (o["gt_embeddings"]["reid"] for o in (expected, found))
    assert not torch.equal(a, b)
    assert_close(b, a, rtol=0.1, atol=0.1)
