"""SeqNeXt with a gallery filter: two processes with batches of two against one with four."""

from argparse import Namespace
from contextlib import ExitStack
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.data import DatasetCatalog
from torch import nn

from spnet_d2.data.catalog import register_person_search
from spnet_d2.engine import Trainer, setup
from spnet_d2.modeling.seqnet import roi_heads, rpn
from spnet_d2.testing import deterministic_sampling
from tests.engine.processes import together

STEPS = 3
# As many boxes and anchors of every image, so that means over processes are the batch's.
OPTS = (
    *("MODEL.META_ARCHITECTURE", "SeqNeXt", "MODEL.SPNET.NUM_CASCADES", 0),
    *("MODEL.SPNET.QC.ANCHORS_PER_PAIR", 64, "MODEL.SPNET.GFN.ENABLED", True),
    *("SOLVER.IMS_PER_BATCH", 4, "SOLVER.MAX_ITER", STEPS, "SOLVER.WARMUP_ITERS", 0),
    *("SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", 2e-3),
    *("DATASETS.TEST", (), "SOLVER.CHECKPOINT_PERIOD", 100),
)


def first_ones(labels, count, share, background):
    """In order instead of at random."""
    positive = ((labels != -1) & (labels != background)).nonzero()[:, 0][: int(count * share)]
    return positive, (labels == background).nonzero()[:, 0][: count - len(positive)]


def with_running_statistics(norm, x):
    """The batches of the embedding's norms are each process's own."""
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)


def outcome(opts):
    """Losses of each step, and the final state."""
    with ExitStack() as stack:
        stack.enter_context(deterministic_sampling())
        for module in (rpn, roi_heads):
            stack.enter_context(mock.patch.object(module, "subsample_labels", first_ones))
        stack.enter_context(mock.patch.object(nn.BatchNorm1d, "forward", with_running_statistics))
        trainer = Trainer(setup(Namespace(config_file="", opts=[*opts, *OPTS])))
        trainer.resume_or_load(resume=False)
        losses, step = [], trainer.run_step

        def recorded():
            step()
            latest = trainer.storage.latest()
            losses.append({k: v[0] for k, v in latest.items() if "loss" in k or k == "grad_norm"})

        trainer.run_step = recorded
        trainer.train()
    network = getattr(trainer.model, "module", trainer.model)
    return losses, {name: value.numpy().copy() for name, value in network.state_dict().items()}


def pair_work(corpus, opts, folder):
    if "tiny_train" not in DatasetCatalog:
        register_person_search("tiny_train", corpus / "people.json", corpus, corpus / "all.json")
    return outcome([*opts, "OUTPUT_DIR", str(folder)])


def test_training_is_that_of_one_process_with_the_joined_batch(tiny_corpus, tiny_opts, tmp_path):
    pair = together(pair_work, tiny_corpus, tiny_opts, tmp_path / "pair")
    losses, state = outcome([*tiny_opts, "OUTPUT_DIR", str(tmp_path / "one")])
    assert len(losses) == STEPS and {"loss_gfn", "loss_reid", "loss_rpn_cls"} <= losses[0].keys()
    assert int(state["gallery_filter.step"]) == STEPS
    for step in range(STEPS):
        for key, value in losses[step].items():
            found = pair[0][0][step][key]
            assert found == pytest.approx(value, rel=1e-3, abs=1e-4), (step, key)
    for key, value in state.items():
        # Bit by bit the same on both, and to rounding as in one.
        assert np.array_equal(pair[0][1][key], pair[1][1][key]), key
        np.testing.assert_allclose(pair[0][1][key], value, atol=2e-4, rtol=1e-3, err_msg=key)
    assert torch.tensor(state["roi_heads.reid_loss.lut"]).norm(dim=1).count_nonzero() == 3
