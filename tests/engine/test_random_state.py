"""Random states as plain data."""

import random

import numpy as np
import torch

from spnet_d2.engine import random_state


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
