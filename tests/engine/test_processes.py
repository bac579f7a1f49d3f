"""Two processes with batches of b against one with 2b: losses, gradients, memories, parameters."""

import contextlib
import shutil
from argparse import Namespace
from itertools import product
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from detectron2.data import DatasetCatalog
from detectron2.utils import comm
from torch import nn
from torch.testing import assert_close

from spnet_d2.data import self_supervised_boxes
from spnet_d2.data.catalog import register_person_search
from spnet_d2.engine import Trainer, setup
from spnet_d2.engine.distribute import distribute
from spnet_d2.engine.validation_loss import validation_losses
from spnet_d2.modeling import whole_batch
from spnet_d2.modeling.fixed_norm import SafeBatchNorm1d
from spnet_d2.modeling.reid_losses import MomentumQueueLoss, NTXentLoss, OIMLoss
from spnet_d2.modeling.sync_batch_norm import SyncBatchNorm, synchronise_batch_norms
from spnet_d2.testing import deterministic_sampling
from tests.engine.equality import assert_equal
from tests.engine.processes import together
from tests.modeling.tiny import tiny_config, tiny_input, tiny_model

DIM = 5
# Rows of two processes in successive steps: (boxes, ground truth) of each.
SIZES = [((4, 2), (7, 1)), ((3, 3), (0, 0)), ((0, 0), (0, 0)), ((0, 0), (5, 4)), ((0, 3), (6, 5))]


def as_numpy(state):
    return {name: tensor.detach().numpy().copy() for name, tensor in state.items()}


# ------------------------------------------------------------------------------ memories and norms


def memory_batch(step, ranks):
    """Embeddings, identities, twin's embeddings and number of ground-truth rows of processes."""
    boxes, truth = [], []
    for rank in ranks:
        generator = torch.Generator().manual_seed(10 * step + rank)
        number, num_gt = SIZES[step][rank]
        x, teacher = torch.randn(2, number + num_gt, DIM, generator=generator)
        people = torch.randint(0, 4, (num_gt,), generator=generator)
        # Boxes are of people of the ground truth.
        people = torch.cat([people.repeat(number)[:number], people])
        for part, rows in zip((boxes, truth), (slice(number), slice(number, None)), strict=True):
            part.append((x[rows], people[rows], teacher[rows]))
    joined = [torch.cat(parts) for parts in zip(*boxes, *truth)]
    return *joined, sum(len(part[0]) for part in truth)


def memory_steps(ranks):
    """Loss, gradient and memory of every step and every kind of loss, for rows of ``ranks``."""
    results = {}
    kinds = {
        "oim": OIMLoss(DIM, 4, 6),
        "momentum_queue": MomentumQueueLoss(DIM, 6),
        "nt_xent": NTXentLoss(),
    }
    for step in range(len(SIZES)):
        x, people, teacher, num_gt = memory_batch(step, ranks)
        for name, memory in kinds.items():
            given = x.clone().requires_grad_()
            # Some people are unknown to the look-up table.
            ids = people.where(people > 0, -1) if name == "oim" else people
            more = {"teacher": teacher} if name == "momentum_queue" else {}
            loss = memory(given, ids, num_gt=num_gt, **more)
            loss.backward()
            results[name, step] = loss.item(), given.grad.numpy(), as_numpy(memory.state_dict())
    return results


def norm_inputs(rank):
    """Batches of one process for norms of rows and of maps; the second process has few or none."""
    generator = torch.Generator().manual_seed(rank)
    rows = [(6, 1), (3, 0), (1, 0), (0, 0)]
    vectors = [torch.randn(n[rank], 3, generator=generator) * 2 + 50 for n in rows]
    maps = [torch.randn(n[rank], 3, 4, 2, generator=generator) - 7 for n in rows[:2]]
    weights = [torch.randn(x.shape, generator=generator) for x in (*vectors, *maps)]
    return vectors, maps, weights


def fresh_norms():
    plain, affine = nn.BatchNorm1d(3, affine=False), nn.BatchNorm2d(3)
    with torch.no_grad():
        affine.weight.copy_(torch.tensor([1.0, -2.0, 0.5]))
        affine.bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
    return nn.ModuleList([plain, affine])


def norm_steps():
    norms = fresh_norms()
    names = list(norms.state_dict())
    synchronise_batch_norms(norms)
    assert list(norms.state_dict()) == names
    assert all(isinstance(norm, SyncBatchNorm) for norm in norms)
    vectors, maps, weights = norm_inputs(comm.get_rank())
    results = []
    for x, weight in zip([*vectors, *maps], weights, strict=True):
        norm = norms[0 if x.dim() == 2 else 1]
        norm.zero_grad()
        given = x.clone().requires_grad_()
        y = norm(given)
        (y * weight).sum().backward()
        gradients = [p.grad.numpy().copy() for p in norm.parameters()]
        results.append(
            (y.detach().numpy(), given.grad.numpy(), gradients, as_numpy(norm.state_dict()))
        )
    return results


# ----------------------------------------------------------------------------------------- training


def make_cfg(opts, *more):
    return setup(Namespace(config_file="", opts=[*opts, *more]))


def train(opts, *more, resume=False):
    """Losses of all iterations, and the trainer."""
    trainer = Trainer(make_cfg(opts, *more))
    trainer.resume_or_load(resume=resume)
    losses, step = [], trainer.run_step
    memories = []

    def recorded():
        step()
        latest = trainer.storage.latest()
        losses.append({k: v[0] for k, v in latest.items() if "loss" in k or k == "grad_norm"})
        network = getattr(trainer.model, "module", trainer.model)
        state = {**network.roi_heads.reid_loss.state_dict()}
        if network.twin is not None:
            state |= {f"twin.{name}": p for name, p in network.twin.named_parameters()}
        memories.append(as_numpy(state))

    trainer.run_step = recorded
    trainer.results = trainer.train()
    trainer.losses, trainer.memories = losses, memories
    return trainer


def outcome(opts, *more):
    # Few random boxes: all pairs of a batch have to fit into the budget.
    with mock.patch.object(self_supervised_boxes, "NUM_BOXES", 3):
        trainer = train(opts, *more)
    network = getattr(trainer.model, "module", trainer.model)
    metrics = None
    if trainer.cfg.DATASETS.TEST:
        # One batch of six, so the second process has none.
        metrics = trainer.results, validation_losses(trainer.cfg, trainer.model)["val"]
    return trainer.losses, trainer.memories, as_numpy(network.state_dict()), metrics


def outcome_in_parts(name, opts, parts, *more):
    """Batch norms, whose batches are parts, are kept out of it."""
    more = (*JOINT, "MODEL.SPNET.SYNC_BN", False, *PARTS_RUNS[name], *more)
    with mock.patch.object(SafeBatchNorm1d, "forward", with_running_statistics):
        return outcome(opts, *more, "SOLVER.ACCUMULATION_STEPS", parts)


SGD = ("SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", 2e-3, "SOLVER.WARMUP_ITERS", 0)
JOINT = (
    *("SOLVER.IMS_PER_BATCH", 4, "SOLVER.MAX_ITER", 3, "MODEL.SPNET.SYNC_BN", True, *SGD),
    *("MODEL.SPNET.SMALL_DATA.ANCHOR_BIAS", 0.0, "MODEL.SPNET.BACKBONE.FREEZE_BN", False),
    *("DATASETS.TEST", (), "SOLVER.CHECKPOINT_PERIOD", 100),
)
QUEUE = (
    *("MODEL.SPNET.REID.LOSS", "momentum_queue", "MODEL.SPNET.MOMENTUM_TWIN.ENABLED", True),
    *("MODEL.SPNET.MOMENTUM_TWIN.MOMENTUM", 0.5, "MODEL.SPNET.REID.QUEUE_SIZE", 32),
)
RUNS = {
    "object-centric, OIM, evaluated": ("DATASETS.TEST", ("tiny_test",)),
    # Nothing trains the round's first localisation embedder without rounds.
    "untrained parts, batch norms in the trunk": (
        *("MODEL.SPNET.BACKBONE.NAME", "test_resnet", "MODEL.SPNET.NUM_CASCADES", 0),
        *("MODEL.SPNET.SEPARATE_HEADS", True, "MODEL.SPNET.REID.LOSS", "nt_xent"),
        # Repeated forward passes exchange statistics again.
        *("MODEL.SPNET.ACTIVATION_CHECKPOINTING", True),
    ),
    # A person's other images are on the same process, and all pairs fit into its share.
    "query-centric, momentum queue": (
        *("MODEL.SPNET.PATHWAY", "QC", "MODEL.SPNET.QC.MATCH_MODE", "other", *QUEUE),
        *("DATALOADER.VIEWS_PER_IMAGE", 2, "INPUT.SSL_BOXES", "basic"),
    ),
}
PARTS_RUNS = {
    "OIM in parts": (),
    "momentum queue in parts": QUEUE,
    "counted by annotations": ("MODEL.SPNET.REID.GT_ONLY", True, "MODEL.SPNET.NUM_CASCADES", 0),
}


def with_running_statistics(norm, x):
    return F.batch_norm(x, norm.running_mean, norm.running_var, eps=norm.eps)


# ------------------------------------------------------------------------- images without people

BOXES = [(10, 12, 44, 80), (60, 5, 100, 90)]
# Boxes of the images of both processes.
CROWDS = {
    "one process has nobody": ([BOXES, BOXES[:1]], [[], []]),
    "nobody at all": ([[], []], [[], []]),
}
PATHWAYS = {
    # Batch norms are in the trunk, so in the RoI heads' copy of its last stage as well.
    "OC": ("MODEL.SPNET.BACKBONE.NAME", "test_resnet", "MODEL.SPNET.NUM_CASCADES", 1),
    # Negative pairs are of images of one process, so they are left out.
    "QC": (
        *("MODEL.SPNET.PATHWAY", "QC", "MODEL.SPNET.QC.MATCH_MODE", "all"),
        *("MODEL.SPNET.NUM_CASCADES", 1, *QUEUE),
    ),
}


# Counts of all detection losses; numbers of rows and rows, or rows and people.
EXCHANGES = {"oim": 3, "momentum_queue": 3, "nt_xent": 4}


def gradients(pathway, crowd, ranks):
    """Losses and gradients of a step on the images of ``ranks``."""
    model = tiny_model("MODEL.SPNET.SYNC_BN", True, *PATHWAYS[pathway]).train()
    # In one process as well: biases before a norm have no gradient but its rounding errors.
    synchronise_batch_norms(model)
    inputs = [
        tiny_input(10 * rank + k, *boxes)
        for rank in ranks
        for k, boxes in enumerate(CROWDS[crowd][rank])
    ]
    network = distribute(model, tiny_config())
    losses = network(inputs)
    sum(losses.values()).backward()
    return (
        {name: loss.item() for name, loss in losses.items()},
        as_numpy({n: p.grad for n, p in model.named_parameters() if p.grad is not None}),
    )


def exchanges(reid_loss):
    """How many collective operations a forward pass makes, with two stages."""
    more = QUEUE if reid_loss == "momentum_queue" else ("MODEL.SPNET.REID.LOSS", reid_loss)
    model = tiny_model("MODEL.SPNET.NUM_CASCADES", 2, *more).train()
    calls = []
    with contextlib.ExitStack() as stack:
        for name in ("all_reduce", "all_gather"):
            spy = mock.patch.object(dist, name, counted(getattr(dist, name), calls))
            stack.enter_context(spy)
        model([tiny_input(comm.get_rank(), *BOXES)])
    return len(calls)


def counted(function, calls):
    def call(*args, **kwargs):
        calls.append(function)
        return function(*args, **kwargs)

    return call


def pair_work(corpus, opts, folder):
    """Everything that two processes do, once."""
    for name in ("tiny_train", "tiny_test"):
        if name not in DatasetCatalog:
            register_person_search(name, corpus / "people.json", corpus, corpus / "all_pairs.json")
    results = {"memory": memory_steps([comm.get_rank()]), "norm": norm_steps()}
    results["exchanges"] = {name: exchanges(name) for name in EXCHANGES}
    results["share"] = whole_batch.share_of(7)
    with deterministic_sampling():
        for number, (name, more) in enumerate(RUNS.items()):
            output = ("OUTPUT_DIR", str(folder / f"pair{number}"))
            results[name] = outcome(opts, *JOINT, *more, *output)
        for pathway, crowd in product(PATHWAYS, CROWDS):
            results[pathway, crowd] = gradients(pathway, crowd, [comm.get_rank()])
        for name in PARTS_RUNS:
            output = ("OUTPUT_DIR", str(folder / name))
            results[name] = outcome_in_parts(name, opts, 2, *output)
    results["resumed"] = interrupted(opts, folder)
    return results


def interrupted(opts, folder):
    """Final states of a whole run and of one resumed from its first checkpoint."""
    more = (*QUEUE, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2)
    more += ("DATASETS.TEST", (), "SEED", 3, "TEST.EVAL_PERIOD", 1)
    more += ("MODEL.SPNET.BACKBONE.NAME", "test_resnet")
    # Enough anchors for boxes of somebody on both processes: norms of RoIs count the same batches.
    more += ("INPUT.MIN_SIZE_TRAIN", (900,), "INPUT.MAX_SIZE_TRAIN", 1500)
    more += ("MODEL.SPNET.ANCHORS_PER_IMAGE", 128)
    whole, part = folder / "whole", folder / "part"
    trainers = [train(opts, *more, "OUTPUT_DIR", str(whole))]
    if comm.is_main_process():
        part.mkdir()
        shutil.copy(whole / "model_0000001.pth", part)
        (part / "last_checkpoint").write_text("model_0000001.pth")
    comm.synchronize()
    torch.manual_seed(99)
    trainers.append(train(opts, *more, "OUTPUT_DIR", str(part), resume=True))
    assert trainers[1].start_iter == 2
    return [as_numpy(trainer.model.module.state_dict()) for trainer in trainers]


@pytest.fixture(scope="module")
def pair(tiny_corpus, tiny_opts, tmp_path_factory):
    return together(pair_work, tiny_corpus, tiny_opts, tmp_path_factory.mktemp("pair"))


def test_memories_are_those_of_the_joined_batch_on_every_process(pair):
    whole = memory_steps([0, 1])
    for key, (loss, gradient, state) in whole.items():
        first, second = (results["memory"][key] for results in pair)
        assert (first[0] + second[0]) / 2 == pytest.approx(loss, abs=1e-5), key
        assert_equal(*(as_tensors(part[2]) for part in (first, second)))
        for name, expected in state.items():
            np.testing.assert_allclose(first[2][name], expected, atol=1e-6, err_msg=str(key))
        # Gradients are averaged by whoever trains. Boxes come before ground truth.
        (b0, g0), (b1, g1) = SIZES[key[1]]
        found = np.concatenate([first[1][:b0], second[1][:b1], first[1][b0:], second[1][b1:]]) / 2
        assert found.shape == gradient.shape == (b0 + b1 + g0 + g1, DIM)
        np.testing.assert_allclose(found, gradient, atol=1e-5, err_msg=str(key))


def as_tensors(state):
    return {name: torch.from_numpy(np.asarray(array)) for name, array in state.items()}


def test_synchronised_norms_are_those_of_the_joined_batch(pair):
    norms = fresh_norms()
    parts = [norm_inputs(rank) for rank in range(2)]
    inputs = [torch.cat(x) for x in zip(*([*p[0], *p[1]] for p in parts))]
    weights = [torch.cat(x) for x in zip(*(p[2] for p in parts))]
    for k, (x, weight) in enumerate(zip(inputs, weights, strict=True)):
        norm = norms[0 if x.dim() == 2 else 1]
        norm.zero_grad()
        given = x.clone().requires_grad_()
        if len(x) < 2:
            # Too few for statistics: as in inference, and nothing is learnt.
            norm.eval()
            norm.num_batches_tracked += 1
        y = norm(given)
        (y * weight).sum().backward()
        norm.train()
        found = [results["norm"][k] for results in pair]
        assert_close(
            np.concatenate([f[0] for f in found]), y.detach().numpy(), atol=1e-4, rtol=1e-4
        )
        gradient = np.concatenate([f[1] for f in found])
        assert_close(gradient, given.grad.numpy(), atol=1e-4, rtol=1e-4)
        for p, first, second in zip(norm.parameters(), found[0][2], found[1][2], strict=True):
            assert_close(first + second, p.grad.numpy(), atol=1e-4, rtol=1e-4)
        for rank in found:
            for name, expected in norm.state_dict().items():
                assert_close(torch.from_numpy(np.asarray(rank[3][name])), expected, msg=name)


def test_exchanges_of_a_forward_pass(pair):
    """Whatever the number of losses."""
    assert [results["exchanges"] for results in pair] == [EXCHANGES] * 2


def test_shares_of_a_budget_add_up(pair):
    assert [results["share"] for results in pair] == [4, 3]


@pytest.mark.parametrize("pathway", PATHWAYS)
@pytest.mark.parametrize("crowd", CROWDS)
def test_processes_without_people_take_part(pair, pathway, crowd):
    with deterministic_sampling():
        losses, expected = gradients(pathway, crowd, [0, 1])
    (first, found), (second, other) = (results[pathway, crowd] for results in pair)
    for name, loss in losses.items():
        assert (first[name] + second[name]) / 2 == pytest.approx(loss, rel=1e-4, abs=1e-5), name
    assert found.keys() == expected.keys()
    assert_equal(as_tensors(found), as_tensors(other))
    for name, gradient in expected.items():
        limit = 1e-4 * max(1, np.abs(gradient).max())
        np.testing.assert_allclose(found[name], gradient, atol=limit, rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("name", RUNS)
def test_training_is_that_of_one_process_with_the_joined_batch(pair, name, tiny_opts, tmp_path):
    """Losses, gradient norms, memories, parameters and running statistics; and figures."""
    with deterministic_sampling():
        expected = outcome(tiny_opts, *JOINT, *RUNS[name], "OUTPUT_DIR", str(tmp_path))
    found, other = (results[name] for results in pair)
    compare(found, other, expected)
    if expected[3]:
        results, losses = expected[3]
        assert found[3][0]["detection"] == pytest.approx(results["detection"], abs=1e-3)
        assert not other[3][0]
        assert found[3][1] == other[3][1] == pytest.approx(losses, rel=1e-3)


@pytest.mark.parametrize("name", PARTS_RUNS)
def test_parts_of_processes_train_as_the_whole_batch(pair, name, tiny_opts, tmp_path):
    """Two processes in two parts each, and one in four, against one process and no parts."""
    with deterministic_sampling():
        whole, parts = (
            outcome_in_parts(name, tiny_opts, number, "OUTPUT_DIR", str(tmp_path / str(number)))
            for number in (1, 4)
        )
    compare(*(results[name] for results in pair), whole)
    compare(parts, parts, whole)


def compare(found, other, expected):
    """The outcome of two processes with one another (bit by bit) and with that of one."""
    assert len(found[0]) == 3
    for step in range(3):
        assert found[0][step].keys() == expected[0][step].keys()
        for key, value in expected[0][step].items():
            assert found[0][step][key] == pytest.approx(value, rel=1e-3, abs=1e-4), (step, key)
        # Bit by bit the same on both processes, and to rounding as in one.
        assert_equal(as_tensors(found[1][step]), as_tensors(other[1][step]))
        for key, value in expected[1][step].items():
            np.testing.assert_allclose(found[1][step][key], value, atol=2e-4, err_msg=key)
    assert_equal(as_tensors(found[2]), as_tensors(other[2]))
    for key, value in expected[2].items():
        np.testing.assert_allclose(found[2][key], value, atol=2e-4, rtol=1e-3, err_msg=key)


def test_resumed_pair_equals_the_whole_run(pair):
    """Bit by bit; batch norms' statistics are the same on both processes as well."""
    (whole, resumed), (other, _) = (results["resumed"] for results in pair)
    assert_equal(as_tensors(resumed), as_tensors(whole))
    assert_equal(as_tensors(other), as_tensors(whole))
    assert any(name.endswith("running_var") for name in whole)
