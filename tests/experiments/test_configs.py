"""Every config says what the paper and the authors' files say, and builds."""

import functools
import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model

import spnet_d2.modeling  # noqa: F401
from spnet_d2.config import add_spnet_config
from spnet_d2.config_node import REMOVED_KEYS
from spnet_d2.data.catalog import register_builtin_datasets
from spnet_d2.data.loaders import build_test_loader, build_train_loader, iterations_per_epoch
from spnet_d2.engine import build_optimizer, resolve_schedule
from spnet_d2.experiments import load_index
from spnet_d2.experiments.miniature import settings
from tests.experiments.expected import EXPECTED
from tests.fixtures.llnl_shapes import SOLIDER_SWINS, solider_shapes

ROOT = Path(__file__).resolve().parents[2]
INDEX = load_index(ROOT)
FOLDER = ROOT / "projects_configs"
# Those of two_stage/ describe networks.
FILES = sorted(p for p in FOLDER.rglob("*.yaml") if p.parent.name != "two_stage")
# Of no experiment of the paper.
OWN = ("pets09", "prw", "gallery_filter", "seqnet", "starter", "strangers")


@functools.cache
def load(name: str) -> CfgNode:
    cfg = get_cfg()
    add_spnet_config(cfg)
    cfg.merge_from_file(str(FOLDER / f"{name}.yaml"))
    cfg.freeze()
    return cfg


def editable(name: str) -> CfgNode:
    cfg = load(name).clone()
    cfg.defrost()
    return cfg


def value_of(cfg: CfgNode, key: str):
    """Of a key, or of the constant in its place."""
    if key in REMOVED_KEYS:
        return REMOVED_KEYS[key]
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def unique(key) -> list[str]:
    """One experiment for every different ``key(cfg)``."""
    first: dict = {}
    for experiment in INDEX:
        first.setdefault(repr(key(experiment.cfg)), experiment.name)
    return list(first.values())


@pytest.fixture(scope="module")
def miniatures(prepared_root):
    """The data sets' names stand for miniature corpora while these tests run."""
    register_builtin_datasets(prepared_root)
    yield prepared_root
    register_builtin_datasets()


def test_expected_covers_every_experiment():
    assert set(EXPECTED) == {experiment.name for experiment in INDEX}
    assert len(EXPECTED) == 122


@pytest.mark.parametrize("name", EXPECTED)
def test_settings_are_those_of_the_paper_and_the_authors(name):
    cfg = load(name)
    found = {key: value_of(cfg, key) for key in EXPECTED[name]}
    assert found == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_outputs_go_to_a_folder_of_the_experiments_name(name):
    """Unless it is the same run as another one: then the file adds nothing to it."""
    cfg = load(name)
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    if cfg.OUTPUT_DIR == f"outputs/{name}":
        assert content["OUTPUT_DIR"] == cfg.OUTPUT_DIR
    else:
        assert list(content) == ["_BASE_"]
        assert cfg.OUTPUT_DIR.removeprefix("outputs/") in EXPECTED


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(FOLDER).with_suffix("")))
def test_files_say_what_they_are_and_only_what_differs(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# "), "a comment first: which row of the paper"
    name = str(path.relative_to(FOLDER).with_suffix(""))
    if name.startswith(OWN):
        return
    content = yaml.safe_load(text)
    if not name.startswith("profiles/"):
        assert name in EXPECTED
    if "_BASE_" not in content:
        assert name in {
            "profiles/finetune_cuhk_sysu",
            "profiles/finetune_prw",
            "profiles/finetune_query_centric",
            "profiles/pretrain",
            "profiles/spnet_l_heads",
            "profiles/swin_b_trunk",
        }
        return
    # A base without a profile (heads, trunks) leaves Detectron2's version open.
    before = get_cfg()
    add_spnet_config(before)
    bases = content.pop("_BASE_")
    for base in [bases] if isinstance(bases, str) else bases:
        part = CfgNode.load_yaml_with_base(str(path.parent / base))
        before.merge_from_other_cfg(CfgNode(part))
    for key in _leaves(content):
        # What is said although it changes nothing, so that the row can be read from the file.
        if key not in ("MODEL.SPNET.INIT.CASCADE", "MODEL.SPNET.PATHWAY", *_PAIRS):
            assert value_of(before, key) != value_of(load(name), key), f"{key} repeats its base"


_PAIRS = ("MODEL.SPNET.QC.ANCHORS_PER_PAIR", "MODEL.SPNET.QC.PAIRS_PER_BATCH")


def _leaves(content: dict, prefix: str = "") -> list[str]:
    found = []
    for key, value in content.items():
        if isinstance(value, dict):
            found += _leaves(value, f"{prefix}{key}.")
        else:
            found.append(prefix + key)
    return found


def _model_settings(cfg: CfgNode):
    """What decides which parameters there are, and in which group."""
    options = cfg.MODEL.SPNET
    keys = ("EMBED_DIM", "REID_DIM", "NUM_CASCADES", "SEPARATE_HEADS", "ANCHOR_LOGITS")
    keys += ("CLS_LOGITS", "LWF")
    parts = [options[k] for k in keys], options.BACKBONE.NAME, options.BACKBONE.FREEZE
    twin = options.MOMENTUM_TWIN.ENABLED and options.BACKBONE.NAME == "convnext_tiny"
    return *parts, twin, cfg.SOLVER.BACKBONE_LR


# One experiment for every different model, and this project's own.
MODELS = [*unique(_model_settings), *(f"pets09/{p.stem}" for p in FOLDER.glob("pets09/*.yaml"))]


@pytest.mark.parametrize("name", MODELS)
def test_model_and_optimiser_build(name):
    """Full size, with random weights, on no device."""
    cfg = editable(name)
    cfg.MODEL.SPNET.BACKBONE.PRETRAINED = ""
    cfg.MODEL.DEVICE = "meta"
    if cfg.MODEL.SPNET.REID.NUM_IDENTITIES < 0:
        cfg.MODEL.SPNET.REID.NUM_IDENTITIES = 8
    with torch.device("meta"):
        model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    groups = {(g["lr"], g["weight_decay"]) for g in optimizer.param_groups}
    solver = cfg.SOLVER
    expected = {(solver.BASE_LR, solver.WEIGHT_DECAY)}
    if solver.BACKBONE_LR >= 0 and not cfg.MODEL.SPNET.BACKBONE.FREEZE:
        expected.add((solver.BACKBONE_LR, solver.BACKBONE_WEIGHT_DECAY))
    assert groups == expected
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == sum(p.numel() for g in optimizer.param_groups for p in g["params"])


def _data(cfg: CfgNode):
    return cfg.DATASETS.TRAIN, cfg.DATASETS.TEST, cfg.INPUT, cfg.DATALOADER, cfg.SOLVER.EPOCHS


@pytest.mark.parametrize("name", unique(_data))
def test_loaders_and_schedule_build(name, miniatures):
    cfg = editable(name)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 4
    batch = next(iter(build_train_loader(cfg)))
    side = cfg.INPUT.CROP_SIZE
    assert [tuple(x["image"].shape) for x in batch] == [(3, side, side)] * 4
    views = cfg.DATALOADER.VIEWS_PER_IMAGE
    assert len({x["image_id"] for x in batch}) == 4 // views
    (test_set,) = cfg.DATASETS.TEST
    assert next(iter(build_test_loader(cfg, test_set)))[0]["instances"].has("gt_boxes")
    iterations = iterations_per_epoch(cfg)
    resolve_schedule(cfg, iterations)
    assert cfg.SOLVER.MAX_ITER == cfg.SOLVER.EPOCHS * iterations
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=cfg.SOLVER.BASE_LR)
    scheduler = DefaultTrainer.build_lr_scheduler(cfg, optimizer)
    assert scheduler.get_last_lr()[0] == pytest.approx(cfg.SOLVER.BASE_LR * 0.001)


@pytest.mark.parametrize(
    "name, images, iterations, warmup",
    [
        ("table5/cuhk_sysu_classifier", 11206, 42_000, 1000),
        ("table5/prw_classifier", 5704, 21_390, 712),
        ("table8/cuhk_sysu_qc_finetune", 11206, 30 * 2802, 1000),
        ("table8/prw_qc_finetune", 5704, 30 * 1426, 1000),
        ("table5/pretrain_qc", 64115, 30 * 16029, 1000),
    ],
)
def test_length_of_the_published_runs(name, images, iterations, warmup):
    from spnet_d2.data.samplers import batches_per_epoch

    cfg = editable(name)
    views = cfg.DATALOADER.VIEWS_PER_IMAGE
    resolve_schedule(cfg, batches_per_epoch(images, cfg.SOLVER.IMS_PER_BATCH, views))
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS) == (iterations, warmup)


def _code_path(cfg: CfgNode):
    """What decides which code a training step runs, whatever the sizes."""
    options = cfg.MODEL.SPNET
    keys = ("PATHWAY", "NUM_CASCADES", "SEPARATE_HEADS", "ANCHOR_LOGITS", "CLS_LOGITS")
    keys += ("POSITIVE_NORM", "LWF", "MOMENTUM_TWIN")
    reid = [options.REID[k] for k in ("LOSS", "GT_ONLY", "ONLY")]
    different = options.REID_DIM == options.EMBED_DIM
    return [options[k] for k in keys], reid, different, options.BACKBONE.FREEZE


@pytest.mark.parametrize("name", unique(_code_path))
def test_one_training_iteration(name, miniatures):
    """With a tiny trunk and small images, every other setting the experiment's own."""
    cfg = editable(name)
    cfg.merge_from_list(settings(cfg))
    cfg.MODEL.SPNET.REID.NUM_IDENTITIES = 64
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    losses = model(next(iter(build_train_loader(cfg))))
    options = cfg.MODEL.SPNET
    expected = {
        "loss_anchor",
        "loss_reid",
        *(f"loss_box_{t}" for t in range(options.NUM_CASCADES + 1)),
    }
    expected |= {f"loss_cls_{t}" for t in range(1, options.NUM_CASCADES + 1)}
    expected |= {"loss_lwf"} if options.LWF.ENABLED else set()
    assert set(losses) == ({"loss_reid"} if options.REID.ONLY else expected)
    before = [p.detach().clone() for p in optimizer.param_groups[-1]["params"]]
    sum(losses.values()).backward()
    optimizer.step()
    after = optimizer.param_groups[-1]["params"]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


SEQNET = sorted(p.stem for p in FOLDER.glob("seqnet/*.yaml"))


@pytest.mark.parametrize("name", SEQNET)
def test_seqnet_and_seqnext_build_and_their_schedule_ends(name):
    cfg = editable(f"seqnet/{name}")
    assert cfg.OUTPUT_DIR == f"outputs/seqnet/{name}"
    assert cfg.MODEL.META_ARCHITECTURE.lower() == name.partition("_")[0]
    solver = cfg.SOLVER
    images = 11206 if "cuhk" in name else 5704
    iterations = images // solver.IMS_PER_BATCH
    assert solver.MAX_ITER % iterations == 0
    assert all(step % iterations == 0 and step < solver.MAX_ITER for step in solver.STEPS)
    cfg.MODEL.SPNET.BACKBONE.PRETRAINED = ""
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    found = sum(p.numel() for p in model.parameters()) / 1e6
    # Of the authors' models, whose frozen batch norms are no parameters.
    with_filter = {"resnet50_gfn": 69.19, "convnext_b_gfn": 148.03}
    expected = {"resnet50": 51.09, "convnext_b": 119.00, **with_filter}
    expected["seqnet_swin_b_lup"] = _seqnet_with_swin() / 1e6
    kind = re.sub("seqnext_(cuhk_sysu|prw)_|(?<=seqnet_)(cuhk_sysu|prw)_", "", name)
    assert found == pytest.approx(expected.get(kind, 48.42), rel=3e-3)


def _seqnet_with_swin() -> int:
    """Parameters, counted from the shapes in SOLIDER's files and the sizes of SeqNet's layers."""
    trunk = stage = 0
    for name, shape in solider_shapes(*SOLIDER_SWINS["solider_swin_b"]).items():
        if name.startswith(("stages.3", "stages.2.downsample", "semantic_embed_w.2", "norm3")):
            stage += math.prod(shape)
        elif name.startswith("semantic_embed_b.2"):
            stage += math.prod(shape)
        elif not name.startswith(("norm.", "norm0", "norm1", "head", "semantic_embed_w.3")):
            trunk += 0 if name.startswith("semantic_embed_b.3") else math.prod(shape)
    indices = 49 * 49
    trunk, stage = trunk - (2 + 2 + 18) * indices, stage - 2 * indices
    rpn = 512 * 512 * 9 + 512 + (15 + 60) * (512 + 1)
    predictors = (1024 + 1) * (2 + 8 + 8) + 2 * 8
    embedding = (512 + 1024 + 2) * 128 + 2 * 256 + 2
    return trunk + 2 * stage + rpn + predictors + embedding
