"""Every config key SPNet adds to Detectron2's defaults, each with its symbol in the paper.

Keys of Detectron2 that SPNet uses with another default are set here too, so that a YAML of
``projects_configs/`` says only what differs from a paper profile.
"""

from detectron2.config import CfgNode as CN

from spnet_d2.config_node import REMOVED_KEYS, RENAMED_KEYS, ConfigNode, set_node_class


def add_spnet_config(cfg: CN) -> None:
    """Add SPNet's keys and defaults (the paper's SPNet-S fine-tuning profile) to ``cfg``."""
    _add_model(cfg)
    _add_input(cfg)
    _add_solver(cfg)
    for old, new in RENAMED_KEYS.items():
        if not cfg.key_is_renamed(old):
            cfg.register_renamed_key(old, new)
    for name in REMOVED_KEYS:
        if not cfg.key_is_deprecated(name):
            cfg.register_deprecated_key(name)
    # Of epochs and iterations whichever is named counts, also where Detectron2's own methods name
    # it.
    set_node_class(cfg, ConfigNode)


def _add_model(cfg: CN) -> None:
    cfg.MODEL.META_ARCHITECTURE = "SPNet"
    # RGB, applied by the model to 0..255 input (ImageNet statistics times 255).
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    cfg.MODEL.BACKBONE.NAME = "TimmFPN"
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "SwapPathProposalGenerator"
    cfg.MODEL.ROI_HEADS.NAME = "SPNetROIHeads"
    # One foreground class: person.
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1

    cfg.MODEL.SPNET = spnet = CN()
    # "OC": the bridge predicts the query (x_o = g_phi(x_a) - x_a); "QC": queries are given.
    spnet.PATHWAY = "OC"
    # Pathway of inference, "": the same.
    spnet.TEST_PATHWAY = ""
    # D, size of anchor and localisation embeddings.
    spnet.EMBED_DIM = 128
    # D_r, size of re-id embeddings. Shared heads need REID_DIM == EMBED_DIM.
    spnet.REID_DIM = 128
    # T, refinement rounds after the anchors.
    spnet.NUM_CASCADES = 0
    # Own localisation box embedders ("sep") instead of the re-id embedder for all ("share").
    spnet.SEPARATE_HEADS = False
    # Bias of the anchor embedder at the start: -log(99), as the authors set it. ||x_a|| is 52 then,
    # every anchor's logit -57. Short runs start nearer to FixedNorm's mean.
    spnet.ANCHOR_BIAS = -4.59511985013459
    # ||x_o|| -> logit: "fixed_norm" | "batch_norm" | "noscale".
    spnet.ANCHOR_LOGITS = "fixed_norm"
    # As ANCHOR_LOGITS, or "mlp", for the class heads that score detections.
    spnet.CLS_LOGITS = "fixed_norm"
    # Large norms mean person, instead of small ones (Table 9, "+").
    spnet.POSITIVE_NORM = False
    # "combiner": x_q_hat = W x_a + b, or "direct": x_o = W x_a + b.
    spnet.BRIDGE = "combiner"
    # K, anchors sampled per image in OC training (256 in OC pre-training).
    spnet.ANCHORS_PER_IMAGE = 128
    # alpha, gamma of the focal loss over all anchors.
    spnet.FOCAL_ALPHA = 0.5
    spnet.FOCAL_GAMMA = 1.0

    # Factors on loss_anchor and loss_box_t (see also REID.LOSS_WEIGHT).
    spnet.ANCHOR_LOSS_WEIGHT = 1.0
    spnet.BOX_LOSS_WEIGHT = 1.0

    # Query-centric training.
    spnet.QC = CN()
    # K, anchors sampled per (query, image) pair; 32 pairs x 64 = 8 images x 256.
    spnet.QC.ANCHORS_PER_PAIR = 64
    # Pairs sampled per batch.
    spnet.QC.PAIRS_PER_BATCH = 32
    # "algo1": pairs of a person in other images, then in the query's own, then negative ones;
    # "algo2": without negative ones; "other" | "self" | "all": these positive pairs only.
    spnet.QC.MATCH_MODE = "algo1"
    # Leave out anchors of other people, instead of taking them as negatives.
    spnet.QC.MATCH_CONSERVATIVE = False

    spnet.BACKBONE = CN()
    # Any timm model that `features_only=True` gives strides 8, 16, 32, or SOLIDER's
    # "solider_swin_tiny" | "solider_swin_small" | "solider_swin_base".
    spnet.BACKBONE.NAME = "convnext_tiny.fb_in1k"
    # "hub": timm downloads the weights; "torchvision": torchvision's ImageNet weights, as the
    # authors; "": random; else the path of a local weight file.
    spnet.BACKBONE.PRETRAINED = "hub"
    # p_max of stochastic depth, also in the RoI heads. -1: the reference's rate for this trunk.
    spnet.BACKBONE.DROP_PATH_RATE = -1.0
    # "kaiming", as the authors; "identity": p3 starts as the stride-16 map (short runs).
    spnet.BACKBONE.FPN_INIT = "kaiming"
    # How a RoI's features become a vector: "max" | "avg", "": as the authors with this trunk.
    spnet.BACKBONE.ROI_POOLING = ""
    # Horizontal stripes of a RoI that are pooled apart: more for data too small to learn a
    # body's layout from.
    spnet.BACKBONE.ROI_STRIPES = 1
    # Share of a RoI's width that isn't pooled, on either side: mostly background of a person's box.
    spnet.BACKBONE.ROI_MARGIN = 0.0
    # Keep the trunk's weights fixed (FPN and heads still train).
    spnet.BACKBONE.FREEZE = False
    # Keep the RoI heads' copies of the trunk's last stage fixed (their projections still train).
    spnet.BACKBONE.FREEZE_ROI_STAGE = False
    # Keep p3, which RoI features come from, as FPN_INIT makes it (all laterals, p3's output).
    spnet.BACKBONE.FREEZE_P3 = False
    # Batch norms of trunk and RoI stage copies use their running statistics and do not train.
    spnet.BACKBONE.FREEZE_BN = False

    spnet.REID = CN()
    # "oim": look-up table and circular queue (fine-tuning); "momentum_queue": one row per
    # person, means of the momentum twin's embeddings (pre-training); "nt_xent": the batch's other
    # people (the authors' code has it, no published run uses it; 1 / tau is 10 there).
    spnet.REID.LOSS = "oim"
    # 1 / tau, factor on the cosine similarities (10 in pre-training).
    spnet.REID.SCALE = 30.0
    # L, rows of the look-up table. -1: identities of the training set, or of the checkpoint.
    spnet.REID.NUM_IDENTITIES = -1
    # Rows of the circular queue of unknown people (5000 CUHK-SYSU, 500 PRW), or of the momentum
    # queue (65536).
    spnet.REID.QUEUE_SIZE = 5000
    # Weight of the old row in a look-up table update.
    spnet.REID.MOMENTUM = 0.5
    # A refined box this close to its target box trains re-id.
    spnet.REID.IOU_THRESH = 0.7
    spnet.REID.LOSS_WEIGHT = 1.0
    # Share of REID_DIM, rounded down, that comes from feat4, a RoI's features on p3. The rest comes
    # from feat5, what the stage copy makes of them; with 1.0 re-id has no stage copy.
    spnet.REID.FEAT4_SHARE = 0.5
    # Re-id trains on ground-truth boxes only (Table 6).
    spnet.REID.GT_ONLY = False
    # Sides of ground-truth boxes move by up to this share of the shorter one for re-id, where
    # detected boxes, which vary by themselves, are too few.
    spnet.REID.BOX_JITTER = 0.0
    # Drop every other loss (Table 6).
    spnet.REID.ONLY = False

    # Slow copy of backbone and re-id embedder that fills the momentum queue.
    spnet.MOMENTUM_TWIN = CN()
    spnet.MOMENTUM_TWIN.ENABLED = False
    # Weight of the old parameter.
    spnet.MOMENTUM_TWIN.MOMENTUM = 0.9999

    # Several processes: batch norms take their statistics over the batches of all, not each of its
    # own.
    spnet.SYNC_BN = False

    # Recompute the blocks of trunk and RoI stage copies in the backward pass instead of storing
    # them: the same numbers in a fifth of the memory, for up to a third more time.
    spnet.ACTIVATION_CHECKPOINTING = False

    # torch.compile trunk and RoI stages: minutes at the start, then less time for every step.
    spnet.COMPILE = False

    # Learning without forgetting: keep classifying ImageNet as the pretrained trunk did (Figure 7).
    # The classifier comes with the trunk's weights, from where BACKBONE.PRETRAINED says.
    spnet.LWF = CN()
    spnet.LWF.ENABLED = False
    spnet.LWF.TEMPERATURE = 2.0
    spnet.LWF.LOSS_WEIGHT = 1.0

    # How a run starts from MODEL.WEIGHTS of another SPNet.
    spnet.INIT = CN()
    # Cascade rounds that the checkpoint lacks: "PT-Rep" replicates its first, "PT" leaves them as
    # they are built (Figure 8).
    spnet.INIT.CASCADE = "PT-Rep"
    # Start from the checkpoint's momentum twin instead of its student.
    spnet.INIT.FROM_TWIN = False

    # Inference constants of the authors' code (the paper gives none).
    spnet.TEST = CN()
    # Anchors of smallest ||x_o|| kept per image before scoring.
    spnet.TEST.PRE_TOPK = 1000
    # Anchors of smallest ||x_o|| kept per query and image (query-centric).
    spnet.TEST.QUERY_TOPK = 100
    # Queries of an image searched at a time (query-centric): bounds memory, changes no result.
    spnet.TEST.QUERIES_PER_CHUNK = 64
    # Score floor after the first round (strict >).
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.5
    # Boxes kept by score before NMS, and after it.
    spnet.TEST.TOPK_CANDIDATES = 300
    cfg.TEST.DETECTIONS_PER_IMAGE = 300
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 0.5
    # "float32" | "float16" | "bfloat16": of convolutions and linear layers. On a CPU float16 is
    # bfloat16 where that is faster (amx_bf16), else float32. The authors evaluate in float16, as
    # the profiles do. float32 is exact on GPUs as well: no TF32.
    spnet.TEST.PRECISION = "float32"


def _add_input(cfg: CN) -> None:
    cfg.INPUT.FORMAT = "RGB"
    # Window resize ("wrs"): shorter side to MIN, longer side at most MAX.
    cfg.INPUT.MIN_SIZE_TRAIN = (900,)
    cfg.INPUT.MAX_SIZE_TRAIN = 1500
    cfg.INPUT.MIN_SIZE_TEST = 900
    cfg.INPUT.MAX_SIZE_TEST = 1500
    # "wrs" | "rrc2" (fine-tuning) | "rrc_scale" (pre-training) | "rrc" (older, unpublished).
    cfg.INPUT.AUG_TRAIN = "rrc2"
    # "wrs" | "none" (native size: how the authors validate pre-training).
    cfg.INPUT.AUG_TEST = "wrs"
    # R, side of the square training crop.
    cfg.INPUT.CROP_SIZE = 512
    # Odds of the focused crop (RFC2) and of the crop that keeps all boxes (RSC).
    cfg.INPUT.RFC_PROB = 1.0
    cfg.INPUT.RSC_PROB = 1.0
    # Share cut off every side of every box before RSC takes their union.
    cfg.INPUT.RSC_EROSION = 0.1
    # rrc_scale's factor: (1.5, 3.0) is how the authors trained, (0.5, 2.0) what the paper says.
    cfg.INPUT.SCALE_RANGE = (1.5, 3.0)
    # A box needs this share of its area inside the crop to be kept.
    cfg.INPUT.MIN_VISIBILITY = 0.4
    # Self-supervised: random boxes instead of the annotations, new ones every epoch, each a person
    # of its own. "": off; "basic": anywhere; "iou": hardly overlapping; "overlap": in pairs of IoU
    # 0.6. For the momentum queue; a look-up table does not know such people.
    cfg.INPUT.SSL_BOXES = ""
    # Random boxes per image.
    cfg.INPUT.SSL_NUM_BOXES = 10
    # With "iou": no patches that are plain or look like an earlier one of the image.
    cfg.INPUT.SSL_DISTINCTIVE = False
    # Repeat the authors' 8-bit detour of normalised images, train and test.
    cfg.INPUT.EXACT_8BIT = False


def _add_solver(cfg: CN) -> None:
    # YAML files that give names to data sets of your own (spnet_d2/data/own_sets.py).
    cfg.DATASETS.FILES = ()
    cfg.DATASETS.TRAIN = ("cuhk_sysu_train",)
    cfg.DATASETS.TEST = ("cuhk_sysu_test",)
    # Retrieval protocols to report, "" = the data set's own default one. With several test sets, a
    # name is for those that have it, "set:protocol" for one.
    cfg.TEST.PROTOCOLS = ()
    # At every evaluation also the training losses on the test set, as val/loss_...
    cfg.TEST.LOSS = False
    # Images in one of its batches, pairs that share a person; and their augmentation.
    cfg.TEST.LOSS_IMS_PER_BATCH = 6
    cfg.TEST.LOSS_AUG = "wrs"
    # "float32" | "float16": of the embeddings that evaluation keeps and writes. Query-centric
    # evaluation of a whole corpus keeps millions.
    cfg.TEST.EMBEDDING_DTYPE = "float32"
    # Independently augmented views of each image in a batch (a, a, b, b, ...).
    cfg.DATALOADER.VIEWS_PER_IMAGE = 1
    # An image that is damaged or missing: "stop", or "skip" it: training takes the data set's next,
    # evaluation finds nobody in it.
    cfg.DATALOADER.ON_CORRUPT_IMAGE = "stop"
    # Images without boxes are trained on, as the authors do.
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False

    # Of convolutions and linear layers in training, where SOLVER.AMP.ENABLED: "float16" (GPUs
    # only), with a scaled loss, as the authors; or "bfloat16".
    cfg.SOLVER.AMP.PRECISION = "float16"
    # A batch whose losses or gradient are infinite or NaN: "stop" the run, or "skip" the batch.
    cfg.SOLVER.ON_BAD_BATCH = "stop"
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    cfg.SOLVER.IMS_PER_BATCH = 8
    # Equal parts that a batch is cut into where it doesn't fit into memory; gradients add up.
    cfg.SOLVER.ACCUMULATION_STEPS = 1
    cfg.SOLVER.BASE_LR = 1e-4
    cfg.SOLVER.WEIGHT_DECAY = 5e-4
    # Norms and biases decay like everything else.
    cfg.SOLVER.WEIGHT_DECAY_NORM = None
    cfg.SOLVER.WEIGHT_DECAY_BIAS = None
    # Own learning rate and decay of the trunk ("mixed LR", pre-training). -1: as the rest.
    cfg.SOLVER.BACKBONE_LR = -1.0
    cfg.SOLVER.BACKBONE_WEIGHT_DECAY = -1.0
    # The length of a run and its periods: in epochs or in iterations, whichever is named last
    # (command line, then a file, then its _BASE_). The other one becomes 0, until training sets
    # the iterations that the epochs amount to.
    cfg.SOLVER.MAX_ITER = 0
    cfg.SOLVER.EPOCHS = 30
    # Both 0: only the final checkpoint.
    cfg.SOLVER.CHECKPOINT_PERIOD = 0
    cfg.SOLVER.CHECKPOINT_EPOCHS = 5
    # Both 0: only at the end.
    cfg.TEST.EVAL_EPOCHS = 0
    cfg.TEST.EVAL_PERIOD = 0
    # Iterations between backups, of which the newest two stay while a run goes on; 0: none.
    cfg.SOLVER.BACKUP_PERIOD = 10000
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"
    cfg.SOLVER.BASE_LR_END = 0.0
    # -1: min(1000, iterations of an epoch - 1).
    cfg.SOLVER.WARMUP_ITERS = -1
    cfg.SOLVER.WARMUP_FACTOR = 0.001
    # The cosine starts where the warm-up ends.
    cfg.SOLVER.RESCALE_INTERVAL = True
    # Global L2 norm over all parameters (Detectron2's own "norm" clips each one apart).
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 10.0
    cfg.SEED = 0
