"""OIM against the authors' numbers and a row-by-row oracle."""

import numpy as np
import pytest
import torch

from spnet_d2.modeling.reid_losses import OIMLoss


def rows(n, offset):
    """X(n, offset)[i, j] = sin(i + 2 j + 1 + offset), j = 0 .. 3."""
    i, j = np.mgrid[:n, :4]
    return torch.from_numpy(np.sin(i + 2 * j + 1 + offset)).float()


def test_reference_numbers():
    loss = OIMLoss(4, num_identities=3, queue_size=2)
    identities = torch.tensor([0, 1, -1, 0, -1, -1])
    found = [loss(rows(6, k), identities).item() for k in range(3)]
    assert found == pytest.approx([0.0, 11.659134, 13.870621], abs=1e-5)
    expected = [
        [-0.6290717, 0.1359775, 0.5158982, -0.5653567],
        [-0.1160073, -0.6978831, 0.6968511, 0.1178984],
        [0, 0, 0, 0],
    ]
    torch.testing.assert_close(loss.lut, torch.tensor(expected), atol=1e-6, rtol=0)
    expected = [
        [0.6202901, -0.3410806, -0.3364109, 0.6210732],
        [0.4927100, 0.3090701, -0.7499471, 0.3151061],
    ]
    torch.testing.assert_close(loss.queue, torch.tensor(expected), atol=1e-6, rtol=0)
    assert loss.queue_head == 1


class SlowOIM:
    """The definition, one row and one memory entry at a time, in float64."""

    def __init__(self, dim, num_identities, queue_size):
        self.lut = np.zeros((num_identities, dim))
        self.queue = np.zeros((queue_size, dim))
        self.head = 0

    def __call__(self, x, identities):
        x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        total = 0.0
        for row, y in zip(x, identities):
            if y < 0:
                continue
            logits = []
            for i, entry in enumerate(self.lut):
                empty = 1.0 if i == y else -1.0
                logits.append(30 * (row @ entry if entry.any() else empty))
            for entry in self.queue:
                logits.append(30 * (row @ entry if entry.any() else -1.0))
            total += np.log(np.sum(np.exp(np.array(logits) - logits[y])))
        for row, y in zip(x, identities):
            if y >= 0:
                mean = 0.5 * self.lut[y] + 0.5 * row
                self.lut[y] = mean / np.linalg.norm(mean)
            else:
                self.queue[self.head] = row
                self.head = (self.head + 1) % len(self.queue)
        return total / max(1, len(x))


@pytest.mark.parametrize("queue_size", [1, 3, 40])
def test_equals_slow_oracle(queue_size):
    generator = torch.Generator().manual_seed(queue_size)
    loss, slow = OIMLoss(5, 4, queue_size), SlowOIM(5, 4, queue_size)
    for n in (7, 1, 30, 12):
        x = torch.randn(n, 5, generator=generator)
        identities = torch.randint(-1, 4, (n,), generator=generator)
        expected = slow(x.double().numpy(), identities.numpy())
        assert loss(x, identities).item() == pytest.approx(expected, abs=1e-4)
        np.testing.assert_allclose(loss.lut.numpy(), slow.lut, atol=1e-5)
        np.testing.assert_allclose(loss.queue.numpy(), slow.queue, atol=1e-6)
        assert loss.queue_head.item() == slow.head


def test_gradient_reaches_embeddings_only_and_survives_the_update():
    loss = OIMLoss(4, 3, 2)
    identities = torch.tensor([0, 1, 0])
    loss(rows(3, 0.5), identities)
    x = rows(3, 0).requires_grad_()
    loss(x, identities).backward()
    assert x.grad.abs().sum() > 0
    assert not loss.lut.requires_grad


def test_unlabelled_rows_count_in_the_mean():
    known = OIMLoss(4, 3, 2)
    known(rows(3, 0.5), torch.tensor([0, 1, 2]))
    mixed = OIMLoss(4, 3, 2)
    mixed.load_state_dict(known.state_dict())
    alone = known(rows(2, 0), torch.tensor([0, 1]))
    with_unknown = mixed(rows(4, 0), torch.tensor([0, 1, -1, -1]))
    assert with_unknown.item() == pytest.approx(alone.item() / 2, rel=1e-5)


def test_no_rows():
    loss = OIMLoss(4, 3, 2)
    x = torch.zeros(0, 4, requires_grad=True)
    value = loss(x, torch.zeros(0, dtype=torch.int64))
    value.backward()
    assert value.item() == 0
    assert loss.queue_head == 0


def test_queue_position_is_saved():
    loss = OIMLoss(4, 3, 3)
    loss(rows(2, 0), torch.tensor([-1, -1]))
    other = OIMLoss(4, 3, 3)
    other.load_state_dict(loss.state_dict())
    assert other.queue_head == 2


def test_table_size_comes_from_the_checkpoint():
    saved = OIMLoss(4, 3, 2)
    saved(rows(3, 0.5), torch.tensor([0, 1, 2]))
    unsized = OIMLoss(4, -1, 2)
    with pytest.raises(RuntimeError, match="NUM_IDENTITIES"):
        unsized(rows(1, 0), torch.tensor([0]))
    unsized.load_state_dict(saved.state_dict())
    assert torch.equal(unsized.lut, saved.lut)


def test_bad_sizes():
    with pytest.raises(ValueError, match="at least one row"):
        OIMLoss(4, 3, 0)


@pytest.mark.parametrize("dim", [2, 64])
def test_many_rows_of_one_identity_equal_the_slow_oracle(dim):
    """Far more than the last ones, on which alone the result depends."""
    generator = torch.Generator().manual_seed(dim)
    loss, slow = OIMLoss(dim, 3, 4), SlowOIM(dim, 3, 4)
    for n in (500, 300):
        x = torch.randn(n, dim, generator=generator)
        identities = torch.randint(-1, 2, (n,), generator=generator)
        slow(x.double().numpy(), identities.numpy())
        loss(x, identities)
        np.testing.assert_allclose(loss.lut.numpy(), slow.lut, atol=1e-6)


def test_number_of_rows_that_a_mean_depends_on():
    def most(m):
        return OIMLoss(4, 3, 2, momentum=m)._most_rounds

    assert most(0.0) == 1 and most(0.5) == 96
    assert most(0.1) < most(0.5) < most(0.9) < most(0.99) < most(1.0)


def test_gradient_equals_that_of_the_cross_entropy():
    torch.manual_seed(0)
    loss = OIMLoss(6, 4, 3)
    identities = torch.tensor([0, 1, -1, 2, 0, -1, 3])
    loss(torch.randn(7, 6), identities.clamp(max=2))
    x = torch.randn(7, 6, requires_grad=True)
    unit = torch.nn.functional.normalize(x, dim=1)
    memory = torch.cat([loss.lut, loss.queue])
    similarity = (unit @ memory.T).masked_fill((memory == 0).all(dim=1), -1.0)
    own = torch.zeros_like(similarity, dtype=torch.bool)
    own[6, 3] = True
    expected = torch.nn.functional.cross_entropy(
        30 * similarity.masked_fill(own, 1.0), identities, ignore_index=-1, reduction="sum"
    )
    (expected / 7).backward()
    gradient, x.grad = x.grad, None
    value = loss(x, identities)
    value.backward()
    torch.testing.assert_close(value, expected.detach() / 7)
    torch.testing.assert_close(x.grad, gradient)
