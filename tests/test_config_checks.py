"""Settings that can't work are refused, all at once, and those that ship are not."""

from pathlib import Path

import pytest

from spnet_d2.config_checks import check_config, check_data_sets
from spnet_d2.config_reader import ConfigError, merge_settings, read_config

CONFIGS = Path(__file__).resolve().parents[1] / "projects_configs"
NAN = float("nan")


def spnet(*settings) -> list:
    """Settings with the prefix that their keys share."""
    return [x if i % 2 else f"MODEL.SPNET.{x}" for i, x in enumerate(settings)]


def test_configs_that_ship():
    # Those of two_stage/ describe networks.
    paths = sorted(p for p in CONFIGS.rglob("*.yaml") if p.parent.name != "two_stage")
    assert len(paths) > 100
    for path in paths:
        cfg = read_config(path)
        check_config(cfg)
        # The study on strangers makes and registers its sets.
        if path.parent.name != "strangers":
            check_data_sets(cfg)


def test_processes_that_will_share_a_batch():
    cfg = read_config(opts=["SOLVER.IMS_PER_BATCH", 8])
    check_config(cfg, processes=4)
    check_config(cfg, training=False, processes=3)
    with pytest.raises(ConfigError, match="BATCH is 8, .* number of processes, 3, must divide it"):
        check_config(cfg, processes=3)


def test_data_sets_that_nobody_registered():
    cfg = read_config(opts=["DATASETS.TRAIN", ("prw_trian",)])
    similar = r"DATASETS.TRAIN has 'prw_trian', which is not .* Similar ones: prw_train, .*README"
    with pytest.raises(ConfigError, match=similar):
        check_data_sets(cfg)
    check_data_sets(cfg, training=False)
    # Code, too, forgets the comma.
    cfg.DATASETS.TRAIN = "prw_train"
    with pytest.raises(ConfigError, match=r"TRAIN is 'prw_train', expected .*: \('prw_train',\)"):
        check_data_sets(cfg)
    cfg.DATASETS.TRAIN = (5,)
    with pytest.raises(ConfigError, match=r"TRAIN is \(5,\), expected a tuple of names, as text"):
        check_data_sets(cfg)
    merge_settings(cfg, ["DATASETS.TEST", ("prw_test", "?")])
    with pytest.raises(ConfigError, match="DATASETS.TEST has '[?]', which is not registered. data"):
        check_data_sets(cfg, training=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (spnet("ANCHOR_LOGITS", "mlp"), "ANCHOR_LOGITS is 'mlp', expected one of fixed_norm, .*m."),
        (spnet("CLS_LOGITS", "norm"), "CLS_LOGITS is 'norm', expected one of fixed_norm, .*mlp."),
        (spnet("PATHWAY", "CQ"), "MODEL.SPNET.PATHWAY is 'CQ', expected one of OC, QC"),
        (spnet("TEST_PATHWAY", "CQ"), "TEST_PATHWAY is 'CQ', expected one of '', OC, QC"),
        (spnet("QC.MATCH_MODE", "algo3"), "QC.MATCH_MODE is 'algo3', expected one of algo1, "),
        (spnet("SMALL_DATA.FPN_INIT", "zeros"), "FPN_INIT is 'zeros', expected one of kaiming, "),
        (spnet("SMALL_DATA.FEAT4_SHARE", 0.0), "FEAT4_SHARE is 0.0, expected a share of REID_DIM"),
        (spnet("NUM_CASCADES", -1), "MODEL.SPNET.NUM_CASCADES is -1, expected 0 to 100"),
        (spnet("NUM_CASCADES", 10**9), "NUM_CASCADES is 1000000000, expected 0 to 100"),
        (spnet("EMBED_DIM", 10**19), "EMBED_DIM is 1.*, expected a number below 2,147,483,648"),
        (
            spnet("ANCHORS_PER_IMAGE", 10**7),
            "ANCHORS_PER_IMAGE is 10.*, expected 1,000,000 or less",
        ),
        (["TEST.PROTOCOLS", (1,)], r"TEST.PROTOCOLS is \(1,\), expected a tuple of names, as text"),
        (["SEED", 2**32], "SEED is 4294967296, expected 0 to 4294967295, or -1"),
        (["DATALOADER.NUM_WORKERS", 10**9], "NUM_WORKERS is 1000000000, expected 0 to 1024"),
        (spnet("ANCHORS_PER_IMAGE", 0), "ANCHORS_PER_IMAGE must be 1 or more, found 0"),
        (spnet("TEST.PRECISION", "half"), "TEST.PRECISION is 'half', .* float32, float16, bfloat"),
        (["SOLVER.AMP.PRECISION", "float32"], "AMP.PRECISION is 'float32', .* float16, bfloat16"),
        (["SOLVER.ON_BAD_BATCH", "go"], "SOLVER.ON_BAD_BATCH is 'go', expected one of stop, skip"),
        (["TEST.EMBEDDING_DTYPE", "half"], "EMBEDDING_DTYPE is 'half', expected one of float32, "),
        (["DATALOADER.ON_CORRUPT_IMAGE", "go"], "ON_CORRUPT_IMAGE is 'go', .* stop, skip"),
        (["INPUT.FORMAT", "BGR"], "INPUT.FORMAT is 'BGR', expected one of RGB"),
        (["MODEL.DEVICE", "gpu"], "MODEL.DEVICE is 'gpu', expected cpu, cuda or one such as cuda:"),
        (["MODEL.META_ARCHITECTURE", "SPnet"], "META_ARCHITECTURE is 'SPnet', expected SPNet or"),
        (["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"], "'GeneralizedRCNN', expected SPNet or a"),
        (["MODEL.BACKBONE.NAME", "TimmFpn"], "BACKBONE.NAME is 'TimmFpn', expected .*TimmFPN"),
        (["MODEL.ROI_HEADS.NAME", "Heads"], "ROI_HEADS.NAME is 'Heads', expected .*SPNetROIHeads"),
        (["MODEL.PROPOSAL_GENERATOR.NAME", "S"], "GENERATOR.NAME is 'S', .*SwapPathProposalGen"),
        (spnet("MOMENTUM_TWIN.MOMENTUM", -0.1), "MOMENTUM_TWIN.MOMENTUM is -0.1, expected 0 to 1"),
        (
            ["MODEL.ROI_HEADS.NMS_THRESH_TEST", 50.0],
            "NMS_THRESH_TEST is 50.0, expected 0 to 1",
        ),
        (["MODEL.ROI_HEADS.SCORE_THRESH_TEST", NAN], "SCORE_THRESH_TEST is nan, expected 0 to 1"),
        (spnet("INIT.CASCADE", "rep"), "INIT.CASCADE is 'rep', expected one of PT-Rep, PT"),
        (spnet("REID.SCALE", 0.0), "MODEL.SPNET.REID.SCALE is 0.0, expected more than 0"),
        (
            spnet("REID.SCALE", float("inf")),
            "REID.SCALE is inf, expected more than 0, and a finite",
        ),
        (spnet("REID.LOSS_WEIGHT", float("inf")), "REID.LOSS_WEIGHT is inf, expected 0 or more"),
        (spnet("BACKBONE.DROP_PATH_RATE", 1.5), "DROP_PATH_RATE is 1.5, expected 1 or less"),
        (spnet("SMALL_DATA.ANCHOR_BIAS", NAN), "ANCHOR_BIAS is nan, expected -1000 to 1000"),
        (
            ["MODEL.PIXEL_MEAN", [103.5]],
            r"PIXEL_MEAN is \(103.5,\), expected three numbers, of red",
        ),
        (["MODEL.PIXEL_STD", [1.0, 0.0, 1.0]], r"PIXEL_STD is .*, expected three numbers above 0"),
        (["MODEL.PIXEL_STD", ["1", "1", "x"]], "PIXEL_STD is .*, expected three numbers above 0"),
        (["INPUT.MIN_SIZE_TEST", 0], "INPUT.MIN_SIZE_TEST, .* of 1 or more, found"),
        (["INPUT.AUG_TEST", "crop"], "INPUT.AUG_TEST must be"),
        (["DATALOADER.NUM_WORKERS", -1], "DATALOADER.NUM_WORKERS is -1, expected 0 to 1024"),
        (spnet("REID_DIM", 256), "SEPARATE_HEADS is False.*EMBED_DIM is 128 .*REID_DIM 256"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_refused_in_every_job(settings, message, training):
    with pytest.raises(ConfigError, match=message):
        check_config(read_config(opts=settings), training)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (spnet("REID.LOSS", "momentum_queue"), "REID.LOSS is momentum.*TWIN.ENABLED.* is False"),
        (["INPUT.SSL_BOXES", "iou"], "SSL_BOXES is iou, but MODEL.SPNET.REID.LOSS oim"),
        (spnet("REID.ONLY", True, "LWF.ENABLED", True), "REID.ONLY drops .*SPNET.LWF.ENABLED"),
        (spnet("REID.ONLY", True, "REID.LOSS_WEIGHT", 0.0), "REID.ONLY .*REID.LOSS_WEIGHT is 0"),
        (["SOLVER.ACCUMULATION_STEPS", 3], "BATCH is 8, but SOLVER.ACCUMULATION_STEPS 3 times"),
        (["SOLVER.ACCUMULATION_STEPS", 0], "BATCH is 8, but SOLVER.ACCUMULATION_STEPS 0 times"),
        (["SOLVER.ACCUMULATION_STEPS", -1], "BATCH is 8, but SOLVER.ACCUMULATION_STEPS -1 times"),
        (["DATALOADER.VIEWS_PER_IMAGE", 3], "IMS_PER_BATCH is 8.*DATALOADER.VIEWS_PER_IMAGE 3 "),
        (
            ["SOLVER.REFERENCE_WORLD_SIZE", 3],
            "REFERENCE_WORLD_SIZE is 3, .* divides .*PER_BATCH, 8",
        ),
        (["SOLVER.BASE_LR", -1e-4], "SOLVER.BASE_LR is -0.0001, expected 0 or more"),
        (["SOLVER.WEIGHT_DECAY_NORM", -0.1], "WEIGHT_DECAY_NORM is -0.1, expected 0 or more"),
        (["SOLVER.WEIGHT_DECAY_NORM", "x"], "WEIGHT_DECAY_NORM is 'x', expected 0 or more"),
        (["SOLVER.MOMENTUM", NAN], "SOLVER.MOMENTUM is nan, expected 0 to 1"),
        (["INPUT.CROP_SIZE", 0], "INPUT.CROP_SIZE. must be 1 pixel or more"),
        (["INPUT.RANDOM_FLIP", "vertical"], "INPUT.RANDOM_FLIP must be"),
        (["INPUT.MIN_SIZE_TRAIN", ("x",)], "INPUT: .*not supported between"),
        (["DATALOADER.VIEWS_PER_IMAGE", 2, "SOLVER.ACCUMULATION_STEPS", 8], "STEPS 8 .*IMAGE 2 "),
    ],
)
def test_refused_before_training_only(settings, message):
    cfg = read_config(opts=settings)
    with pytest.raises(ConfigError, match=message):
        check_config(cfg)
    check_config(cfg, training=False)


@pytest.mark.parametrize(
    "settings",
    [
        spnet("REID_DIM", 256, "SEPARATE_HEADS", True),
        spnet("REID.LOSS", "momentum_queue", "MOMENTUM_TWIN.ENABLED", True),
        ["INPUT.SSL_BOXES", "iou", *spnet("REID.LOSS_WEIGHT", 0.0)],
        ["INPUT.SSL_BOXES", "iou", *spnet("REID.LOSS", "nt_xent")],
        spnet("MOMENTUM_TWIN.MOMENTUM", 1.0),
        ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0],
    ],
)
def test_allowed(settings):
    check_config(read_config(opts=settings))


def test_all_at_once():
    cfg = read_config()
    merge_settings(cfg, [*spnet("PATHWAY", "none", "REID.SCALE", -1.0), "INPUT.SSL_BOXES", "iou"])
    with pytest.raises(ConfigError, match=r"PATHWAY is .*REID.SCALE is .*SSL_BOXES is iou"):
        check_config(cfg)
