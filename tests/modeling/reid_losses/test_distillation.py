"""Distillation: the loss by hand, where its gradient leads, and files that can't be used."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from spnet_d2.modeling.reid_losses import distillation
from spnet_d2.modeling.reid_losses.distillation import (
    SCALE,
    DistillationLoss,
    TargetsError,
    read_targets,
)


@pytest.fixture
def targets():
    return torch.randn(7, 5, generator=torch.Generator().manual_seed(0)) + 0.3


@pytest.mark.parametrize(("most", "ranked"), [(7, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 3, 6])])
def test_by_hand(targets, monkeypatch, most, ranked):
    """One row at a time; rows without a target count for nothing."""
    monkeypatch.setattr(distillation, "RANKED", most)
    loss = DistillationLoss(targets)
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    identities = torch.tensor([2, -1, 6, 2])
    unit = F.normalize(targets, dim=1)
    centred = F.normalize(unit - unit.mean(dim=0), dim=1)
    expected = []
    for row, i in zip(x, identities.tolist()):
        if i < 0:
            continue
        row = row / row.norm()
        wanted = torch.softmax(SCALE * centred[ranked] @ centred[i], 0)
        found = torch.softmax(SCALE * centred[ranked] @ row, 0)
        divergence = sum(float(p * (p / q).log()) for p, q in zip(wanted, found))
        expected.append(1 - float(row @ centred[i]) + divergence)
    torch.testing.assert_close(
        loss(x, identities).item(), float(np.mean(expected)), rtol=1e-5, atol=1e-5
    )


def test_length_of_rows_says_nothing(targets):
    loss = DistillationLoss(targets)
    x, identities = torch.randn(3, 5), torch.tensor([0, 1, 2])
    torch.testing.assert_close(loss(x, identities), loss(5 * x, identities))


def test_descent_reaches_the_targets(targets):
    loss = DistillationLoss(targets)
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(2)).requires_grad_()
    identities = torch.arange(7)
    optimizer = torch.optim.Adam([x], 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss(x, identities).backward()
        optimizer.step()
    cosines = (F.normalize(x, dim=1) * loss.targets).sum(dim=1)
    assert cosines.min() > 0.9 and cosines.mean() > 0.97


def test_no_row_with_a_target_has_a_graph(targets):
    x = torch.randn(2, 5, requires_grad=True)
    value = DistillationLoss(targets)(x, torch.tensor([-1, -1]))
    value.backward()
    assert value.item() == 0 and not x.grad.any()


def test_targets_are_no_part_of_checkpoints(targets):
    assert not DistillationLoss(targets).state_dict()
    with pytest.raises(RuntimeError, match=r"REID\.TARGETS"):
        DistillationLoss(None)(torch.zeros(1, 5), torch.tensor([0]))


def test_files(tmp_path, targets):
    file = tmp_path / "t.npz"
    np.savez(file, embeddings=targets.numpy().astype(np.float16))
    torch.testing.assert_close(read_targets(file, 5), targets, rtol=1e-2, atol=1e-2)
    with pytest.raises(TargetsError, match="REID_DIM is 8"):
        read_targets(file, 8)
    with pytest.raises(TargetsError, match="No file"):
        read_targets(tmp_path / "x.npz", 5)
    np.savez(file, embeddings=np.zeros((3, 5)))
    with pytest.raises(TargetsError, match="zero"):
        read_targets(file, 5)
    file.write_bytes(b"no zip")
    with pytest.raises(TargetsError, match="can't be read"):
        read_targets(file, 5)
