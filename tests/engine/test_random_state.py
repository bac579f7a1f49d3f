"""Random states as plain data."""

import random
from argparse import Namespace

import numpy as np
import torch
from detectron2.utils import comm

from spnet_d2.engine import random_state
from spnet_d2.engine.hooks import RandomState


def draw():
    return (
        torch.rand(3).tolist(),
        np.random.rand(3).tolist(),
        np.random.randn(),
        random.random(),
        random.gauss(0, 1),
    )


def test_restore_repeats_the_draws_after_a_file(tmp_path):
    draw()  # leaves a spare normal number in numpy's and Python's generators
    torch.save(random_state.capture(), tmp_path / "state.pth")
    first = draw()
    random_state.restore(torch.load(tmp_path / "state.pth", weights_only=True))
    assert draw() == first


def test_preserved_hides_draws():
    state = random_state.capture()
    expected = draw()
    random_state.restore(state)
    with random_state.preserved():
        draw()
        random.seed(5)
        torch.manual_seed(5)
        np.random.seed(5)
    assert draw() == expected


def test_every_process_continues_with_its_own_state(monkeypatch):
    """Two processes, played one after the other: the main one's checkpoint holds both states."""
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    gathered, following = [], []
    hooks = [RandomState(2) for _ in range(2)]
    for rank in (1, 0):
        torch.manual_seed(rank)
        monkeypatch.setattr(comm, "gather", lambda state: gathered.insert(0, state) or gathered)
        hooks[rank].trainer = Namespace(iter=1, max_iter=9)
        hooks[rank].after_step()
        following.insert(0, draw())
    saved = hooks[0].state_dict()
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        resumed = RandomState(2)
        resumed.load_state_dict(saved)
        resumed.before_train()
        assert draw() == following[rank]


def test_states_of_another_number_of_processes_are_not_used(caplog):
    hook = RandomState(1)
    hook.load_state_dict({"states": [random_state.capture()] * 3})
    draw()
    before = random_state.capture()["torch"]
    hook.before_train()
    assert torch.equal(random_state.capture()["torch"], before)
    assert "random states of 3 processes, but this run has 1" in caplog.text
