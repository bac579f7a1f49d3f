"""Settings of every experiment, typed from the description of the authors' files.

Independent of the YAMLs: profiles and what each row changes, as the paper (section 4.2, Tables 2
and 7) and the authors' code have it. ``EXPECTED`` has all the keys that define an experiment.
"""

FT_C = {
    "DATASETS.TRAIN": ("cuhk_sysu_train",),
    "DATASETS.TEST": ("cuhk_sysu_test",),
    "TEST.PROTOCOLS": ("G100",),
    "MODEL.SPNET.PATHWAY": "OC",
    "MODEL.SPNET.TEST_PATHWAY": "",
    "MODEL.SPNET.BACKBONE.NAME": "convnext_tiny",
    "MODEL.SPNET.BACKBONE.PRETRAINED": "torchvision",
    "MODEL.SPNET.BACKBONE.FREEZE": False,
    "MODEL.SPNET.BACKBONE.FREEZE_BN": False,
    "MODEL.SPNET.EMBED_DIM": 128,
    "MODEL.SPNET.REID_DIM": 128,
    "MODEL.SPNET.SEPARATE_HEADS": False,
    "MODEL.SPNET.NUM_CASCADES": 0,
    "MODEL.SPNET.ANCHOR_LOGITS": "fixed_norm",
    "MODEL.SPNET.CLS_LOGITS": "fixed_norm",
    "MODEL.SPNET.POSITIVE_NORM": False,
    "MODEL.SPNET.BRIDGE": "combiner",
    "MODEL.SPNET.ANCHORS_PER_IMAGE": 128,
    "MODEL.SPNET.SMALL_DATA.BOX_LOSS_WEIGHT": 1.0,
    "MODEL.SPNET.REID.LOSS": "oim",
    "MODEL.SPNET.REID.SCALE": 30.0,
    "MODEL.SPNET.REID.NUM_IDENTITIES": 5532,
    "MODEL.SPNET.REID.QUEUE_SIZE": 5000,
    "MODEL.SPNET.REID.MOMENTUM": 0.5,
    "MODEL.SPNET.REID.LOSS_WEIGHT": 1.0,
    "MODEL.SPNET.REID.GT_ONLY": False,
    "MODEL.SPNET.REID.ONLY": False,
    "MODEL.SPNET.MOMENTUM_TWIN.ENABLED": False,
    "MODEL.SPNET.LWF.ENABLED": False,
    "MODEL.SPNET.INIT.FROM_TWIN": False,
    "MODEL.WEIGHTS": "",
    "SOLVER.OPTIMIZER": "ADAMW",
    "SOLVER.BASE_LR": 1e-4,
    "SOLVER.WEIGHT_DECAY": 5e-4,
    "SOLVER.BACKBONE_LR": -1.0,
    "SOLVER.BACKBONE_WEIGHT_DECAY": -1.0,
    "SOLVER.WEIGHT_DECAY_NORM": None,
    "SOLVER.WEIGHT_DECAY_BIAS": None,
    "SOLVER.IMS_PER_BATCH": 8,
    "SOLVER.EPOCHS": 30,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR",
    "SOLVER.WARMUP_ITERS": -1,
    "SOLVER.WARMUP_FACTOR": 0.001,
    "SOLVER.RESCALE_INTERVAL": True,
    "SOLVER.BASE_LR_END": 0.0,
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 10.0,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": 2.0,
    "SOLVER.AMP.ENABLED": True,
    "SOLVER.CHECKPOINT_EPOCHS": 30,
    "TEST.EVAL_EPOCHS": 5,
    "TEST.LOSS": False,
    "DATALOADER.VIEWS_PER_IMAGE": 1,
    "DATALOADER.NUM_WORKERS": 4,
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": False,
    "INPUT.AUG_TRAIN": "rrc2",
    "INPUT.AUG_TEST": "wrs",
    "INPUT.CROP_SIZE": 512,
    "INPUT.MIN_SIZE_TRAIN": (900,),
    "INPUT.MAX_SIZE_TRAIN": 1500,
    "INPUT.MIN_SIZE_TEST": 900,
    "INPUT.MAX_SIZE_TEST": 1500,
    "INPUT.RFC_PROB": 1.0,
    "INPUT.RSC_PROB": 1.0,
    "INPUT.RSC_EROSION": 0.1,
    "INPUT.MIN_VISIBILITY": 0.4,
    "INPUT.SSL_BOXES": "",
    "SEED": 0,
}
FT_P = FT_C | {
    "DATASETS.TRAIN": ("prw_train",),
    "DATASETS.TEST": ("prw_test",),
    "TEST.PROTOCOLS": ("test",),
    "MODEL.SPNET.REID.NUM_IDENTITIES": 483,
    "MODEL.SPNET.REID.QUEUE_SIZE": 500,
    "TEST.EVAL_EPOCHS": 30,
}
_PT = {k: v for k, v in FT_C.items() if k != "MODEL.SPNET.REID.NUM_IDENTITIES"} | {
    "DATASETS.TRAIN": ("cocopersons_train",),
    "DATASETS.TEST": ("cuhk_sysu_minival",),
    "TEST.PROTOCOLS": ("all",),
    "MODEL.SPNET.REID.LOSS": "momentum_queue",
    "MODEL.SPNET.REID.SCALE": 10.0,
    "MODEL.SPNET.REID.QUEUE_SIZE": 65536,
    "MODEL.SPNET.MOMENTUM_TWIN.ENABLED": True,
    "MODEL.SPNET.MOMENTUM_TWIN.MOMENTUM": 0.9999,
    "SOLVER.WEIGHT_DECAY": 1e-3,
    "SOLVER.BACKBONE_LR": 1e-5,
    "SOLVER.BACKBONE_WEIGHT_DECAY": 0.0,
    "SOLVER.CHECKPOINT_EPOCHS": 5,
    "TEST.EVAL_EPOCHS": 1,
    "DATALOADER.VIEWS_PER_IMAGE": 2,
    "INPUT.AUG_TRAIN": "rrc_scale",
    "INPUT.AUG_TEST": "none",
    "INPUT.SCALE_RANGE": (1.5, 3.0),
}
_QC = {
    "MODEL.SPNET.PATHWAY": "QC",
    "MODEL.SPNET.QC.ANCHORS_PER_PAIR": 64,
    "MODEL.SPNET.QC.PAIRS_PER_BATCH": 32,
    "MODEL.SPNET.QC.MATCH_MODE": "algo1",
    "MODEL.SPNET.QC.MATCH_CONSERVATIVE": False,
}
PT_OC = _PT | {"MODEL.SPNET.ANCHORS_PER_IMAGE": 256}
PT_QC = {k: v for k, v in _PT.items() if k != "MODEL.SPNET.ANCHORS_PER_IMAGE"} | _QC
PT_QC |= {"TEST.LOSS": True}
L = {
    "MODEL.SPNET.SEPARATE_HEADS": True,
    "MODEL.SPNET.REID_DIM": 2048,
    "MODEL.SPNET.NUM_CASCADES": 2,
}
FT = {"cuhk_sysu": FT_C, "prw": FT_P}
PT = {"oc": PT_OC, "qc": PT_QC}
BASE = {"MODEL.SPNET.BACKBONE.NAME": "convnext_base"}
SWIN = {"MODEL.SPNET.BACKBONE.NAME": "solider_swin_base"}
LUP = {"MODEL.SPNET.BACKBONE.PRETRAINED": "outputs/weights/solider_swin_base_lup.pth"}
RANDOM = {"MODEL.SPNET.BACKBONE.PRETRAINED": ""}
IN1K = {"MODEL.SPNET.BACKBONE.PRETRAINED": "hub"}
CROP_1024 = {"INPUT.CROP_SIZE": 1024, "TEST.EVAL_EPOCHS": 30}
EVERY_5 = {"TEST.EVAL_EPOCHS": 5}
ONE_RATE = {"SOLVER.BACKBONE_LR": -1.0, "SOLVER.BACKBONE_WEIGHT_DECAY": -1.0}
REP = {"MODEL.SPNET.INIT.CASCADE": "PT-Rep"}
NOT_REP = {"MODEL.SPNET.INIT.CASCADE": "PT"}


def after(experiment: str) -> dict:
    """Starts from the last epoch of a pre-training."""
    return {"MODEL.WEIGHTS": f"outputs/{experiment}/model_final.pth"}


EXPECTED: dict[str, dict] = {}

for corpus, ft in FT.items():
    # Table 1
    EXPECTED[f"table1/{corpus}_resnet50"] = (
        ft | L | CROP_1024 | {"MODEL.SPNET.BACKBONE.NAME": "resnet50"}
    )
    # Table 3, top
    large = ft | L | BASE | CROP_1024
    EXPECTED[f"table3/{corpus}_classifier"] = large
    for pathway in PT:
        EXPECTED[f"table3/{corpus}_{pathway}"] = large | REP | after(f"table3/pretrain_{pathway}")
    # Table 3, bottom
    swin = ft | L | SWIN | EVERY_5
    crops = "outputs/weights/solider_swin_base_{}_coco.pth"
    EXPECTED[f"table3_swin_b/{corpus}_scratch"] = swin | RANDOM
    EXPECTED[f"table3_swin_b/{corpus}_lup"] = swin | LUP
    EXPECTED[f"table3_swin_b/{corpus}_in1k"] = swin | IN1K
    for init in ("lup", "in1k"):
        EXPECTED[f"table3_swin_b/{corpus}_{init}_coco"] = swin | {
            "MODEL.SPNET.BACKBONE.PRETRAINED": crops.format(init)
        }
        for pathway in PT:
            EXPECTED[f"table3_swin_b/{corpus}_{pathway}_{init}"] = (
                swin | RANDOM | REP | after(f"table3_swin_b/pretrain_{pathway}_{init}")
            )
    # Table 5
    EXPECTED[f"table5/{corpus}_random"] = ft | RANDOM
    EXPECTED[f"table5/{corpus}_classifier"] = ft
    for pathway in PT:
        EXPECTED[f"table5/{corpus}_{pathway}"] = ft | after(f"table5/pretrain_{pathway}")
    # Table 6
    for key in ("oc_reid_only", "oc_reid_gt", "qc_reid_gt"):
        EXPECTED[f"table6/{corpus}_{key}"] = ft | after(f"table6/pretrain_{key}")
    # Table 8
    qc = {k: v for k, v in ft.items() if k != "MODEL.SPNET.ANCHORS_PER_IMAGE"} | _QC
    qc |= {"DATALOADER.VIEWS_PER_IMAGE": 2, "TEST.EVAL_EPOCHS": 30}
    EXPECTED[f"table8/{corpus}_qc_finetune"] = qc
    EXPECTED[f"table8/{corpus}_qc_finetune_pretrained"] = qc | after("table5/pretrain_qc")
    # Table 9
    batch_norm = {
        "MODEL.SPNET.ANCHOR_LOGITS": "batch_norm",
        "MODEL.SPNET.CLS_LOGITS": "batch_norm",
    }
    positive = {"MODEL.SPNET.POSITIVE_NORM": True}
    EXPECTED[f"table9/{corpus}_batchnorm_neg"] = ft | batch_norm
    EXPECTED[f"table9/{corpus}_batchnorm_pos"] = ft | batch_norm | positive
    EXPECTED[f"table9/{corpus}_fixednorm_pos"] = ft | positive
    # Figure 7
    for pathway in PT:
        for key in ("uniform_lr", "mixed_lr_lwf", "frozen"):
            EXPECTED[f"figure7/{corpus}_{pathway}_{key}"] = ft | after(
                f"figure7/pretrain_{pathway}_{key}"
            )
        EXPECTED[f"figure7/{corpus}_{pathway}_mixed_lr"] = ft | after(f"table5/pretrain_{pathway}")
    # The authors' inference/ files
    EXPECTED[f"inference/{corpus}_spnet_s"] = ft | after(f"figure7/{corpus}_qc_mixed_lr_lwf")
    EXPECTED[f"inference/{corpus}_spnet_l"] = large | after(f"table3/{corpus}_qc")

for pathway, pt in PT.items():
    EXPECTED[f"table3/pretrain_{pathway}"] = pt | BASE
    # The authors' rule for the trunk's learning rate misses Swin's parameters.
    EXPECTED[f"table3_swin_b/pretrain_{pathway}_in1k"] = pt | SWIN | IN1K | ONE_RATE
    EXPECTED[f"table3_swin_b/pretrain_{pathway}_lup"] = pt | SWIN | LUP | ONE_RATE
    EXPECTED[f"table5/pretrain_{pathway}"] = pt
    EXPECTED[f"figure7/pretrain_{pathway}_mixed_lr"] = pt
    EXPECTED[f"figure7/pretrain_{pathway}_uniform_lr"] = pt | ONE_RATE
    EXPECTED[f"figure7/pretrain_{pathway}_mixed_lr_lwf"] = pt | {
        "MODEL.SPNET.LWF.ENABLED": True,
    }
    # 1 / tau stays 10, other than in the authors' OC file.
    EXPECTED[f"figure7/pretrain_{pathway}_frozen"] = pt | {"MODEL.SPNET.BACKBONE.FREEZE": True}
    for percent in (20, 60, 100, 140, 180):
        EXPECTED[f"figure6/pretrain_{pathway}_p{percent}"] = pt | {
            "DATASETS.TRAIN": (f"cocopersons_train_p{percent}",),
            "SOLVER.EPOCHS": 20,
        }
        EXPECTED[f"figure6/cuhk_sysu_{pathway}_p{percent}"] = FT_C | after(
            f"figure6/pretrain_{pathway}_p{percent}"
        )

GT_ONLY = {"MODEL.SPNET.REID.GT_ONLY": True}
EXPECTED["table6/pretrain_oc_reid_only"] = PT_OC | GT_ONLY | {"MODEL.SPNET.REID.ONLY": True}
EXPECTED["table6/pretrain_oc_reid_gt"] = PT_OC | GT_ONLY
EXPECTED["table6/pretrain_qc_reid_gt"] = PT_QC | GT_ONLY

SEP = {"MODEL.SPNET.SEPARATE_HEADS": True}
C2 = {"MODEL.SPNET.NUM_CASCADES": 2}
QC_PRETRAINED = after("table5/pretrain_qc")
EXPECTED |= {
    "figure8/cuhk_sysu_c0_share_d128": FT_C,
    "figure8/cuhk_sysu_c0_share_d128_pt": FT_C | QC_PRETRAINED,
    "figure8/cuhk_sysu_c0_sep_d128": FT_C | SEP,
    "figure8/cuhk_sysu_c0_sep_d128_pt": FT_C | SEP | QC_PRETRAINED,
    "figure8/cuhk_sysu_c2_share_d128": FT_C | C2,
    "figure8/cuhk_sysu_c2_share_d128_pt_rep": (
        FT_C | C2 | REP | after("figure7/pretrain_qc_mixed_lr_lwf")
    ),
    "figure8/cuhk_sysu_c2_sep_d128": FT_C | C2 | SEP,
    "figure8/cuhk_sysu_c2_sep_d128_pt_rep": FT_C | C2 | SEP | REP | QC_PRETRAINED,
    "figure8/cuhk_sysu_c2_sep_d2048": FT_C | L,
    "figure8/cuhk_sysu_c2_sep_d2048_pt": FT_C | L | NOT_REP | QC_PRETRAINED,
    "figure8/cuhk_sysu_c2_sep_d2048_pt_rep": FT_C | L | REP | QC_PRETRAINED,
    "figure8/cuhk_sysu_cascade2n": FT_C | L,
    "figure8/prw_cascade2n": FT_P | L | EVERY_5,
}
