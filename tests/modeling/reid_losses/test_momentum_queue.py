"""The momentum queue against the authors' numbers and a literal oracle."""

import numpy as np
import pytest
import torch

from spnet_d2.modeling.reid_losses import MomentumQueueLoss

from .test_oim import rows


def test_reference_numbers():
    loss = MomentumQueueLoss(4, queue_size=4)
    batches = [[7, 7, 2, 9], [2, 5, 5, 7], [11, 12, 2, 7]]
    expected = [0.0151734, 0.7778014, 0.1298372]
    queues = [[2, 7, 9, -1], [5, 7, 9, 2], [11, 12, 2, 7]]
    heads = [3, 2, 2]
    for k, (labels, value, queue, head) in enumerate(zip(batches, expected, queues, heads)):
        found = loss(rows(4, k), torch.tensor(labels), rows(4, k + 0.3))
        assert found.item() == pytest.approx(value, abs=2e-6)
        assert loss.labels.tolist() == queue
        assert loss.queue_head == head
        assert loss.ages.tolist() == [[1, 1, 1, 0], [1, 1, 2, 1], [1, 1, 1, 1]][k]


class SlowQueue:
    """Row by row, in float64."""

    def __init__(self, dim, size):
        self.rows, self.labels, self.ages = np.zeros((size, dim)), [-1] * size, [0] * size
        self.head = 0

    def __call__(self, x, labels, teacher):
        self.ages = [a + (y >= 0) for a, y in zip(self.ages, self.labels)]
        for u in sorted(set(labels)):
            mean = np.mean([t for t, y in zip(teacher, labels) if y == u], axis=0)
            if u in self.labels:
                old = self.labels.index(u)
                self.labels[old], self.ages[old] = -1, 0
            self.rows[self.head] = mean / np.linalg.norm(mean)
            self.labels[self.head], self.ages[self.head] = u, 1
            self.head = (self.head + 1) % len(self.labels)
        total = 0.0
        for row, y in zip(x, labels):
            row = row / np.linalg.norm(row)
            logits = {v: 10 * row @ r for v, r in zip(self.labels, self.rows) if v >= 0}
            total += np.log(sum(np.exp(v - logits[y]) for v in logits.values()))
        return total / len(x)


@pytest.mark.parametrize("size", [6, 7, 50])
def test_equals_slow_oracle(size):
    generator = torch.Generator().manual_seed(size)
    loss, slow = MomentumQueueLoss(5, size), SlowQueue(5, size)
    for n in (8, 1, 12, 9, 30):
        x, teacher = torch.randn(2, n, 5, generator=generator)
        labels = torch.randint(0, 30, (6,), generator=generator)[
            torch.randint(0, 6, (n,), generator=generator)
        ]
        expected = slow(x.double().numpy(), labels.tolist(), teacher.double().numpy())
        assert loss(x, labels, teacher).item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert loss.labels.tolist() == slow.labels
        assert loss.ages.tolist() == slow.ages
        assert loss.queue_head.item() == slow.head
        np.testing.assert_allclose(loss.queue.numpy(), slow.rows, atol=1e-5)


def test_without_teacher_the_embeddings_themselves_enter():
    loss = MomentumQueueLoss(4, 4)
    loss(rows(2, 0), torch.tensor([3, 3]))
    mean = torch.nn.functional.normalize(rows(2, 0).mean(0), dim=0)
    torch.testing.assert_close(loss.queue[0], mean)


def test_no_rows():
    loss = MomentumQueueLoss(4, 4)
    x = torch.zeros(0, 4, requires_grad=True)
    value = loss(x, torch.zeros(0, dtype=torch.int64))
    value.backward()
    assert value == 0
    assert loss.queue_head == 0


def test_gradient_reaches_embeddings_only_and_survives_the_next_update():
    loss = MomentumQueueLoss(4, 4)
    x, teacher = rows(3, 0).requires_grad_(), rows(3, 1).requires_grad_()
    value = loss(x, torch.tensor([0, 1, 1]), teacher)
    loss(rows(3, 2), torch.tensor([0, 1, 2]))
    value.backward()
    assert x.grad.abs().sum() > 0
    assert teacher.grad is None


def test_more_people_than_rows():
    with pytest.raises(ValueError, match="3 people.*2 rows.*QUEUE_SIZE"):
        MomentumQueueLoss(4, 2)(rows(3, 0), torch.tensor([0, 1, 2]))
