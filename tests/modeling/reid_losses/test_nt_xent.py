import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model

from spnet_d2.modeling.reid_losses import NTXentLoss
from tests.modeling.tiny import tiny_config, tiny_input, tiny_model

NT_XENT = ("MODEL.SPNET.REID.LOSS", "nt_xent", "MODEL.SPNET.REID.SCALE", 10.0)


def slow_loss(embeddings, ids, num_gt, scale=10.0, max_rows=10_000):
    """Row by row, as the description of loss and miner has it."""
    ids = ids.tolist()
    first = len(ids) - num_gt
    means = {
        p: F.normalize(
            torch.stack([embeddings[i] for i in range(first, len(ids)) if ids[i] == p]).mean(0),
            dim=0,
        )
        for p in set(ids[first:])
    }
    gt = list(range(first, len(ids)))[:max_rows]
    losses = []
    for i in [*list(range(first))[: max_rows - len(gt)], *gt]:
        row = F.normalize(embeddings[i], dim=0)
        own = row @ means[ids[i]]
        others = [row @ mean for p, mean in means.items() if p != ids[i]]
        semihard = [s for s in others if s < own]
        if semihard:
            pair = torch.stack([own, max(semihard)]) * scale
            losses.append(-pair.log_softmax(0)[0])
    return sum(losses) / len(losses) if losses else embeddings.sum() * 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("max_rows", [10_000, 9, 4])
def test_equals_slow_oracle(dtype, max_rows):
    generator = torch.Generator().manual_seed(max_rows)
    centres = torch.randn(5, 6, generator=generator)
    ids = torch.tensor([4, 7, 7, 2, 9, 4, 2, 7, 9, 4, 30, 7])
    rows = centres[torch.tensor([0, 1, 1, 2, 3, 0, 2, 1, 3, 0, 4, 1])]
    rows = (rows + torch.randn(rows.shape, generator=generator)).to(dtype).requires_grad_()
    expected = slow_loss(rows, ids, 6, max_rows=max_rows)
    found = NTXentLoss(10.0, max_rows)(rows, ids, 6)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert 0 < found < math.log(2)
    (theirs,) = torch.autograd.grad(expected, rows)
    (ours,) = torch.autograd.grad(found, rows)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_reference_number():
    """Cosines 0.8 and 0.6 at temperature 0.1; one row has no person farther than its own."""
    rows = torch.tensor([[0.8, 0.6], [0.6, 0.8], [1.0, 0.0], [0.0, 1.0]])
    loss = NTXentLoss(10.0)(rows, torch.tensor([1, 1, 1, 2]), 2)
    expected = (math.log(1 + math.exp(-2)) + 2 * math.log(1 + math.exp(-10))) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("ids", "num_gt"), [([], 0), ([3, 3, 3], 2)], ids=["nobody", "alone"])
def test_without_negatives_it_is_zero_with_a_graph(ids, num_gt):
    rows = torch.randn(len(ids), 4, requires_grad=True)
    loss = NTXentLoss()(rows, torch.tensor(ids, dtype=torch.int64), num_gt)
    loss.backward()
    assert loss == 0 and not rows.grad.any()


@pytest.mark.parametrize("pathway", ["OC", "QC"])
def test_trains_a_model(pathway):
    model = tiny_model(*NT_XENT, "MODEL.SPNET.PATHWAY", pathway)
    boxes = (5, 4, 30, 58), (50, 3, 80, 60)
    losses = model([tiny_input(i, *boxes) for i in range(2)])
    losses["loss_reid"].backward()
    assert losses["loss_reid"] > 0
    assert model.roi_heads.reid_embedder.projectors[0][0].weight.grad.abs().sum() > 0
    assert model.roi_heads.id_field == "gt_person_ids"


def test_ground_truth_only_is_refused():
    with pytest.raises(ValueError, match="nt_xent compares.*GT_ONLY to False"):
        build_model(tiny_config(*NT_XENT, "MODEL.SPNET.REID.GT_ONLY", True))
    with pytest.raises(
        ValueError, match="'ntx', expected one of distillation, momentum_queue, nt_xent, oim"
    ):
        build_model(tiny_config("MODEL.SPNET.REID.LOSS", "ntx"))
