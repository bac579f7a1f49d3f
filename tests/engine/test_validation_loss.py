"""Losses on a test set: a function of the weights that leaves training as it was."""

import copy
import json
from argparse import Namespace

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from spnet_d2.data import loaders
from spnet_d2.data.loaders import build_loss_loader
from spnet_d2.engine import Trainer, setup
from spnet_d2.engine.validation_loss import validation_losses

QUERY_CENTRIC = [
    "MODEL.SPNET.PATHWAY",
    "QC",
    "MODEL.SPNET.REID.LOSS",
    "momentum_queue",
    "MODEL.SPNET.REID.QUEUE_SIZE",
    64,
    "MODEL.SPNET.MOMENTUM_TWIN.ENABLED",
    True,
    "MODEL.SPNET.QC.PAIRS_PER_BATCH",
    8,
    "MODEL.SPNET.QC.ANCHORS_PER_PAIR",
    8,
    "DATALOADER.VIEWS_PER_IMAGE",
    2,
]


def make_cfg(opts, output, *more):
    sizes = ["TEST.LOSS", True]
    sizes += ["INPUT.MIN_SIZE_TRAIN", "(48,)", "INPUT.MAX_SIZE_TRAIN", 96]
    opts = [*opts, *sizes, *more, "OUTPUT_DIR", str(output)]
    return setup(Namespace(config_file="", opts=opts))


FILTER = ["MODEL.SPNET.GFN.ENABLED", True]


@pytest.fixture(params=["OC", "QC", "filter"])
def job(request, tiny_opts, tmp_path):
    more = {"OC": [], "QC": QUERY_CENTRIC, "filter": FILTER}[request.param]
    cfg = make_cfg(tiny_opts, tmp_path, *more)
    torch.manual_seed(0)
    return cfg, build_model(cfg).train()


def test_a_function_of_the_weights(job):
    cfg, model = job
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    model.roi_heads.eval()
    modes = [module.training for module in model.modules()]
    memory = model.roi_heads.reid_loss
    (first,) = validation_losses(cfg, model).values()
    assert {"loss_anchor", "loss_box_0", "loss_box_1", "loss_cls_1", "loss_reid"} < first.keys()
    assert first["total_loss"] == pytest.approx(
        sum(value for key, value in first.items() if key != "total_loss")
    )
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert model.roi_heads.reid_loss is memory
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    # A filled memory, or other random numbers before it, change nothing.
    memory.queue.normal_()
    if model.gallery_filter is not None:
        assert "loss_gfn" in first and len(model.gallery_filter.memory) == 0
        model(next(iter(build_loss_loader(cfg, cfg.DATASETS.TEST[0]))))
        assert len(model.gallery_filter.memory) > 0
        # Batch norms have seen a batch more; the filter's memory is what is looked at here.
        model.load_state_dict(before)
    torch.manual_seed(5)
    assert validation_losses(cfg, nn.DataParallel(model)) == {"val": first}
    with torch.no_grad():
        # One filter: a layer norm behind them undoes a common factor.
        next(p for p in model.backbone.parameters() if p.dim() == 4)[0].mul_(-1.5)
    assert validation_losses(cfg, model)["val"] != first


def test_it_is_the_mean_over_the_batches(tiny_opts, tmp_path, monkeypatch):
    """With the model replaced by one that says how many people it was given."""
    monkeypatch.setattr(loaders, "LOSS_IMS_PER_BATCH", 4)
    cfg = make_cfg(tiny_opts, tmp_path)
    model = build_model(cfg)
    seen = []

    def forward(batch):
        assert not torch.is_grad_enabled() and model.training
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
        assert norms and not any(norm.training for norm in norms)
        assert len(model.roi_heads.reid_loss.lut) == 3
        seen.append(len(batch))
        return {"loss_a": torch.tensor(float(len(seen))), "loss_b": torch.tensor(1.0)}

    monkeypatch.setattr(model, "forward", forward)
    expected = {"loss_a": 1.5, "loss_b": 1.0, "total_loss": 2.5}
    assert validation_losses(cfg, model) == {"val": expected}
    assert seen == [4, 4]
    seen.clear()
    cfg.defrost()
    cfg.DATASETS.TEST = ("tiny_test", "tiny_train")
    found = validation_losses(cfg, model)["val"]
    assert found["tiny_test"] == expected and found["tiny_train"]["loss_a"] == 3.5


def test_the_batches(tiny_opts, tmp_path, monkeypatch):
    """Neighbours in a batch share a person; window resize, some flipped; the same every time."""
    monkeypatch.setattr(loaders, "LOSS_IMS_PER_BATCH", 4)
    cfg = make_cfg(tiny_opts, tmp_path)
    loader = build_loss_loader(cfg, "tiny_test")
    batches = list(loader)
    assert [len(batch) for batch in batches] == [4, 4]
    for batch in batches:
        for one, other in zip(batch[::2], batch[1::2]):
            people = [set(x["instances"].gt_person_ids.tolist()) for x in (one, other)]
            assert people[0] & people[1]
        assert {tuple(x["image"].shape) for x in batch} == {(3, 48, 64)}
    for batch, again in zip(batches, build_loss_loader(cfg, "tiny_test")):
        for one, other in zip(batch, again):
            assert torch.equal(one["image"], other["image"])


def test_training_reports_it_and_is_not_changed_by_it(tiny_opts, tmp_path):
    weights = []
    for name, losses in (("with", True), ("without", False)):
        more = ["TEST.LOSS", losses, "TEST.EVAL_PERIOD", 1, "SOLVER.MAX_ITER", 2]
        cfg = make_cfg(tiny_opts, tmp_path / name, *more)
        torch.manual_seed(0)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
        weights.append(trainer.model.state_dict())
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key
    lines = [
        json.loads(line) for line in (tmp_path / "with" / "metrics.json").read_text().splitlines()
    ]
    found = {key for line in lines for key in line}
    assert {"val/loss_anchor", "val/loss_reid", "val/total_loss"} <= found
    assert not any(
        key.startswith("val/")
        for line in (tmp_path / "without" / "metrics.json").read_text().splitlines()
        for key in json.loads(line)
    )
