"""Which share of a batch is running; sums over shares are tested in tests/engine."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from spnet_d2.modeling import whole_batch


def state():
    passes = whole_batch.in_first_pass(), whole_batch.in_last_pass()
    return whole_batch.num_processes(), whole_batch.share_of(7), *passes


def test_a_part_lasts_as_long_as_its_block(monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    parts = whole_batch.Parts(2)
    whole = (2, 4, True, True)
    assert state() == whole
    with parts.part(1, counting=True):
        assert state() == (2, 2, True, False)
        with whole_batch.alone():
            assert state() == (1, 3, True, False)
        assert state() == (2, 2, True, False)
    with pytest.raises(KeyError), whole_batch.alone():
        assert state() == (1, 7, True, True)
        raise KeyError
    assert state() == whole


def test_threads_do_not_see_one_anothers_parts():
    """As a model that serves while another one trains."""
    parts = whole_batch.Parts(4)
    with ThreadPoolExecutor(1) as pool, parts.part(0, counting=True):
        assert pool.submit(state).result() == (1, 7, True, True)
        assert float(whole_batch.mean(torch.tensor(6.0), 3)) == 24
        assert float(pool.submit(whole_batch.mean, torch.tensor(6.0), 3).result()) == 2
