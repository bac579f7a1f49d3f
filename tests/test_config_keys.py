"""Keys that are set to no effect are refused, with the one that has it."""

import inspect
from pathlib import Path

import pytest
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model

from spnet_d2.config import add_spnet_config
from spnet_d2.config_checks import check_config
from spnet_d2.config_keys import INSTEAD, keys_and_values
from spnet_d2.config_node import REMOVED_KEYS, RENAMED_KEYS
from spnet_d2.config_reader import ConfigError, get_value, merge_settings, read_config
from spnet_d2.data.loaders import LOSS_IMS_PER_BATCH
from spnet_d2.data.self_supervised_boxes import NUM_BOXES
from spnet_d2.data.transforms import EROSION
from spnet_d2.modeling.losses import anchor_loss
from spnet_d2.modeling.lwf import LearningWithoutForgetting
from spnet_d2.modeling.proposal_generator import AnchorSampling, Selection
from spnet_d2.modeling.reid_losses.oim import OIMLoss
from spnet_d2.modeling.roi_heads import REID_IOU
from tests.modeling.tiny import tiny_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 128, "is 128, .* MODEL.SPNET.ANCHORS_PER_IMAGE"),
        ("MODEL.RPN.POST_NMS_TOPK_TEST", 500, "set TEST.DETECTIONS_PER_IMAGE instead"),
        ("MODEL.RPN.IN_FEATURES", ["p2"], "has no effect on SPNet"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[32]], "no effect on SPNet: the anchors are the paper's"),
        ("MODEL.BACKBONE.FREEZE_AT", 0, "set MODEL.SPNET.BACKBONE.FREEZE instead"),
        ("MODEL.FPN.OUT_CHANNELS", 128, "no effect on SPNet: the FPN is as wide as"),
        ("MODEL.RESNETS.DEPTH", 101, "set MODEL.SPNET.BACKBONE.NAME instead"),
        ("MODEL.MASK_ON", True, "MODEL.MASK_ON is True, which has no effect"),
        ("MODEL.KEYPOINT_ON", True, "MODEL.KEYPOINT_ON is True, which has no effect"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", 2, "is 2, expected one of 1"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", 80, "is 80, expected one of 1"),
        ("INPUT.CROP.ENABLED", True, "set INPUT.CROP_SIZE, with INPUT.AUG_TRAIN instead"),
        ("INPUT.MASK_FORMAT", "bitmask", "has no effect"),
        ("TEST.AUG.ENABLED", True, "TEST.AUG.ENABLED is True, which has no effect on SPNet: leave"),
        ("TEST.PRECISE_BN.ENABLED", True, "would fill the re-id memories"),
        ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "has no effect"),
        ("DATALOADER.ASPECT_RATIO_GROUPING", False, "has no effect"),
        ("VIS_PERIOD", 100, "VIS_PERIOD is 100, which has no effect"),
    ],
)
def test_detectron2_keys_that_do_nothing_here(key, value, message):
    with pytest.raises(ConfigError, match=f"{key}.*{message}" if key not in message else message):
        check_config(read_config(opts=[key, value]))


def test_what_stands_instead_is_there():
    known = dict(keys_and_values(read_config()))
    for text in [*INSTEAD.values(), *RENAMED_KEYS.values()]:
        assert set(text.replace(", with", "").split()) <= set(known)


def test_every_key_has_a_user():
    """A config of the project sets it, or the documentation says what it is for."""
    theirs = set(dict(keys_and_values(get_cfg())))
    ours = set(dict(keys_and_values(read_config()))) - theirs
    users = set()
    for file in ROOT.glob("projects_configs/*/*.yaml"):
        users |= set(dict(keys_and_values(CfgNode(yaml.safe_load(file.read_text())))))
    text = "".join(file.read_text() for file in [*ROOT.glob("docs/*.md"), *ROOT.glob("*.md")])
    # The gallery filter's have a table of their own.
    table = (ROOT / "docs/gallery_filter.md").read_text()
    group = "MODEL.SPNET.GFN."
    users |= {key for key in ours if key in text}
    users |= {key for key in ours if f"| `{key.removeprefix(group)}` |" in table}
    assert len(ours) > 50 and not ours - users


def test_detectron2_keys_that_count(tmp_path):
    cfg = read_config()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.7
    cfg.TEST.DETECTIONS_PER_IMAGE = 7
    cfg.SOLVER.STEPS = []
    cfg.SOLVER.GAMMA = 0.5
    cfg.INPUT.RANDOM_FLIP = "none"
    # As they are, if in the other kind of sequence.
    cfg.MODEL.RPN.IN_FEATURES = ("res4",)
    check_config(cfg)
    (tmp_path / "plain.yaml").write_text(get_cfg().dump())
    plain = dict(keys_and_values(read_config(tmp_path / "plain.yaml")))
    # What Detectron2's defaults say of other models troubles nobody.
    merge_settings(
        cfg,
        [
            x
            for key in plain
            if key.startswith("MODEL.R")
            for x in (key, plain[key])
            if key.split(".")[1] not in ("ROI_HEADS",)
        ],
    )
    check_config(cfg)


def test_components_of_ones_own_may_read_any_key(monkeypatch):
    from detectron2.modeling import ROI_HEADS_REGISTRY

    monkeypatch.setitem(ROI_HEADS_REGISTRY._obj_map, "MyHeads", type("MyHeads", (), {}))
    cfg = read_config(opts=["MODEL.ROI_HEADS.NAME", "MyHeads", "MODEL.MASK_ON", True])
    cfg.MODEL.SPNET.MY_KEY = 1
    check_config(cfg)


@pytest.mark.parametrize(
    ("section", "name", "message"),
    [
        ("MODEL.SPNET.TEST", "SCORE_THRESH", "is now MODEL.ROI_HEADS.SCORE_THRESH_TEST"),
        ("MODEL.SPNET.TEST", "NMS_THRESH", "is now MODEL.ROI_HEADS.NMS_THRESH_TEST"),
        ("MODEL.SPNET.TEST", "DETECTIONS_PER_IMAGE", "is now TEST.DETECTIONS_PER_IMAGE"),
        ("MODEL.SPNET.BACKBONE", "FPN_CHANNELS", "is no longer there"),
        ("MODEL.SPNET", "NUM_CASCADE", "similar ones: MODEL.SPNET.NUM_CASCADES"),
        ("MODEL.SPNET.QC", "XYZZY", "There is no key MODEL.SPNET.QC.XYZZY"),
        ("SOLVER", "EPOCH", "There is no key SOLVER.EPOCH; a similar one is SOLVER.EPOCHS"),
        ("SOLVER", "MAX_ITERS", "a similar one is SOLVER.MAX_ITER"),
        ("TEST", "PROTOCOL", "a similar one is TEST.PROTOCOLS"),
    ],
)
def test_names_that_are_not_there(section, name, message):
    """yacs takes any name that is assigned."""
    cfg = tiny_config()
    setattr(get_value(cfg, section), name, 1)
    for use in (check_config, build_model):
        with pytest.raises(
            ConfigError, match=f"{section}.{name}.*{message}" if section not in message else message
        ):
            use(cfg)


def test_keys_of_other_projects_are_left_alone():
    cfg = read_config()
    cfg.SOLVER.WARMUP_STYLE = "mine"
    cfg.INPUT.MY_AUG_TRAIN = "mine"
    cfg.MY_TASK = "search"
    check_config(cfg)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
        ("MODEL.BACKBONE.NAME", "build_resnet_backbone"),
        ("MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
        ("MODEL.PROPOSAL_GENERATOR.NAME", "RPN"),
    ],
)
def test_parts_of_other_models(key, name):
    cfg = tiny_config()
    merge_settings(cfg, [key, name])
    for use in (check_config, build_model, DefaultTrainer.build_model):
        with pytest.raises(ConfigError, match=f"{key} is '{name}', expected one of "):
            use(cfg)


def old_yaml(path):
    path.write_text(
        "VERSION: 2\nMODEL:\n  ROI_HEADS: {SCORE_THRESH_TEST: 0.05}\n  SPNET:\n"
        "    BACKBONE: {FPN_CHANNELS: 0}\n"
        "    TEST: {SCORE_THRESH: 0.6, NMS_THRESH: 0.4, DETECTIONS_PER_IMAGE: 9}\n"
    )
    return path


def values(cfg):
    heads = cfg.MODEL.ROI_HEADS
    return heads.SCORE_THRESH_TEST, heads.NMS_THRESH_TEST, cfg.TEST.DETECTIONS_PER_IMAGE


def test_earlier_names_in_a_file(tmp_path, caplog):
    """Such as the config.yaml of an earlier run, which has Detectron2's own keys beside them."""
    path = old_yaml(tmp_path / "old.yaml")
    assert values(read_config(path)) == (0.6, 0.4, 9)
    (warning,) = [r.getMessage() for r in caplog.records if r.name.startswith("spnet_d2")]
    assert "MODEL.SPNET.TEST.NMS_THRESH is now MODEL.ROI_HEADS.NMS_THRESH_TEST" in warning
    cfg = get_cfg()
    add_spnet_config(cfg)
    cfg.merge_from_file(str(path))
    assert values(cfg) == (0.6, 0.4, 9)
    check_config(cfg)


def test_earlier_names_in_a_base(tmp_path):
    old_yaml(tmp_path / "old.yaml")
    (tmp_path / "new.yaml").write_text(
        "_BASE_: old.yaml\nMODEL:\n  ROI_HEADS: {SCORE_THRESH_TEST: 0.8}\n"
        "  SPNET: {TEST: {NMS_THRESH: 0.3}}\n"
    )
    assert values(read_config(tmp_path / "new.yaml")) == (0.8, 0.3, 9)


def test_earlier_names_among_settings(caplog):
    cfg = read_config(opts=["MODEL.SPNET.TEST.SCORE_THRESH", "0.25", "SEED", "3"])
    assert cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 0.25
    assert caplog.text.count("is now MODEL.ROI_HEADS.SCORE_THRESH_TEST") == 1
    with pytest.raises(KeyError, match="was renamed to MODEL.ROI_HEADS.SCORE_THRESH_TEST"):
        cfg.merge_from_list(["MODEL.SPNET.TEST.SCORE_THRESH", 0.25])


def test_keys_of_small_data_by_their_earlier_names(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "MODEL:\n  SPNET:\n    ANCHOR_BIAS: -1.0\n"
        "    BACKBONE: {ROI_STRIPES: 7, FPN_INIT: identity}\n    REID: {FEAT4_SHARE: 1.0}\n"
    )
    cfg = read_config(path, ["MODEL.SPNET.REID.BOX_JITTER", "0.2"])
    small = cfg.MODEL.SPNET.SMALL_DATA
    assert (small.ANCHOR_BIAS, small.ROI_STRIPES, small.FPN_INIT) == (-1.0, 7, "identity")
    assert (small.FEAT4_SHARE, small.BOX_JITTER) == (1.0, 0.2)
    check_config(cfg)


def test_two_keys_that_became_one(tmp_path):
    """As in the config.yaml of an earlier run, which has both."""
    path = tmp_path / "run.yaml"
    text = "MODEL: {SPNET: {SMALL_DATA: {FREEZE_P3: True, FREEZE_ROI_STAGE: %s}}}\n"
    path.write_text(text % True)
    assert read_config(path).MODEL.SPNET.SMALL_DATA.FREEZE_ROI
    path.write_text(text % False)
    with pytest.raises(ConfigError, match="both are now MODEL.SPNET.SMALL_DATA.FREEZE_ROI. Set"):
        read_config(path)


@pytest.mark.parametrize(
    ("key", "constant", "other"),
    [
        ("MODEL.SPNET.FOCAL_ALPHA", 0.5, 0.25),
        ("MODEL.SPNET.FOCAL_GAMMA", 1.0, 2.0),
        ("MODEL.SPNET.ANCHOR_LOSS_WEIGHT", 1.0, 3.0),
        ("MODEL.SPNET.REID.IOU_THRESH", 0.7, 0.5),
        ("MODEL.SPNET.LWF.TEMPERATURE", 2.0, 1.0),
        ("MODEL.SPNET.LWF.LOSS_WEIGHT", 1.0, 0.0),
        ("MODEL.SPNET.REID.MOMENTUM", 0.5, 0.9),
        ("MODEL.SPNET.BRIDGE", "combiner", "direct"),
        ("MODEL.SPNET.QC.MATCH_CONSERVATIVE", False, True),
        ("MODEL.SPNET.INIT.FROM_TWIN", False, True),
        ("MODEL.SPNET.TEST.PRE_TOPK", 1000, 50),
        ("MODEL.SPNET.TEST.QUERY_TOPK", 100, 50),
        ("MODEL.SPNET.TEST.TOPK_CANDIDATES", 300, 50),
        ("INPUT.RFC_PROB", 1.0, 0.0),
        ("INPUT.RSC_EROSION", 0.1, 0.0),
        ("INPUT.SSL_NUM_BOXES", 10, 4),
        ("INPUT.SSL_DISTINCTIVE", False, True),
        ("TEST.LOSS_AUG", "wrs", "rrc2"),
        ("TEST.LOSS_IMS_PER_BATCH", 6, 4),
    ],
)
def test_a_setting_that_became_a_constant(tmp_path, key, constant, other):
    """An old file may say what is done anyway; another value is not silently dropped."""

    def in_a_file(value):
        *sections, name = key.split(".")
        content = {name: value}
        for section in reversed(sections):
            content = {section: content}
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    read_config(in_a_file(constant), [key, str(constant)])
    message = f"{key} is .*{other}.*always {constant!r}"
    with pytest.raises(ConfigError, match=message):
        read_config(in_a_file(other))
    with pytest.raises(ConfigError, match=message):
        read_config(opts=[key, str(other)])


def test_constants_are_what_the_code_uses():
    loss = inspect.signature(anchor_loss).parameters
    lwf = inspect.signature(LearningWithoutForgetting).parameters
    assert (loss["alpha"].default, loss["gamma"].default) == (0.5, 1.0)
    assert lwf["temperature"].default == 2.0
    assert REID_IOU == 0.7
    table = inspect.signature(OIMLoss).parameters
    assert table["momentum"].default == REMOVED_KEYS["MODEL.SPNET.REID.MOMENTUM"]
    kept = Selection()
    for key, found in (
        ("PRE_TOPK", kept.pre_topk),
        ("QUERY_TOPK", kept.query_topk),
        ("TOPK_CANDIDATES", kept.topk_candidates),
    ):
        assert found == REMOVED_KEYS[f"MODEL.SPNET.TEST.{key}"]
    conservative = AnchorSampling().match_conservative
    assert conservative is REMOVED_KEYS["MODEL.SPNET.QC.MATCH_CONSERVATIVE"]
    for key, found in (
        ("RSC_EROSION", EROSION),
        ("SSL_NUM_BOXES", NUM_BOXES),
    ):
        assert found == REMOVED_KEYS[f"INPUT.{key}"]
    assert LOSS_IMS_PER_BATCH == REMOVED_KEYS["TEST.LOSS_IMS_PER_BATCH"]


def test_what_says_it_now(tmp_path):
    with pytest.raises(ConfigError, match="INPUT.SSL_BOXES distinctive does what True did"):
        read_config(opts=["INPUT.SSL_DISTINCTIVE", "True"])
    # It never changed a result.
    read_config(opts=["MODEL.SPNET.TEST.QUERIES_PER_CHUNK", "7"])
