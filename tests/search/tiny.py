"""Config of a tiny SPNet for search."""

from detectron2.config import get_cfg

from spnet_d2.config import add_spnet_config


def tiny_config():
    cfg = get_cfg()
    add_spnet_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.SPNET.BACKBONE.NAME = "test_efficientnet"
    cfg.MODEL.SPNET.BACKBONE.PRETRAINED = ""
    cfg.MODEL.SPNET.EMBED_DIM = cfg.MODEL.SPNET.REID_DIM = 16
    cfg.MODEL.SPNET.REID.NUM_IDENTITIES = 5
    cfg.MODEL.SPNET.REID.QUEUE_SIZE = 8
    # Untrained scores lie anywhere.
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 96, 160
    return cfg
