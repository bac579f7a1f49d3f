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
    _add_data(cfg)
    _add_solver(cfg)
    _add_schedule(cfg)
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
    cfg.MODEL.SPNET = CN()
    _add_architecture(cfg.MODEL.SPNET)
    _add_backbone(cfg.MODEL.SPNET)
    _add_reid(cfg.MODEL.SPNET)
    _add_start(cfg.MODEL.SPNET)
    _add_gallery_filter(cfg.MODEL.SPNET)
    _add_authors_constants(cfg.MODEL.SPNET)
    _add_inference(cfg)
    _add_small_data(cfg.MODEL.SPNET)
    _add_running(cfg.MODEL.SPNET)


# The paper's experiments: what projects_configs/ sets.


def _add_architecture(spnet: CN) -> None:
    # "OC": the bridge predicts the query (x_o = g_phi(x_a) - x_a); "QC": queries are given.
    spnet.PATHWAY = "OC"
    # Pathway of inference, "": the same.
    spnet.TEST_PATHWAY = ""
    # D, size of anchor and localisation embeddings.
    spnet.EMBED_DIM = 128
    # D_r, size of re-id embeddings. Shared heads need REID_DIM == EMBED_DIM.
    spnet.REID_DIM = 128
    # T, cascade stages after the anchors.
    spnet.NUM_CASCADES = 0
    # Own localisation box embedders ("sep") instead of the re-id embedder for all ("share").
    spnet.SEPARATE_HEADS = False
    # ||x_o|| -> logit: "fixed_norm" | "batch_norm" | "noscale".
    spnet.ANCHOR_LOGITS = "fixed_norm"
    # As ANCHOR_LOGITS, or "mlp", for the class heads that score detections.
    spnet.CLS_LOGITS = "fixed_norm"
    # Large norms mean person, instead of small ones (Table 9, "+").
    spnet.POSITIVE_NORM = False
    # K, anchors sampled per image in object-centric training (256 in pre-training). Every cascade
    # stage samples as many boxes per image, and so do both stages of SeqNet and SeqNeXt.
    spnet.ANCHORS_PER_IMAGE = 128

    # Query-centric training.
    spnet.QC = CN()
    # K, anchors sampled per (query, image) pair; 32 pairs x 64 = 8 images x 256. A quarter of it,
    # rounded down, is the most boxes of a pair that train re-id.
    spnet.QC.ANCHORS_PER_PAIR = 64
    # Pairs sampled per batch.
    spnet.QC.PAIRS_PER_BATCH = 32


def _add_backbone(spnet: CN) -> None:
    spnet.BACKBONE = CN()
    # Any timm model that `features_only=True` gives strides 8, 16, 32, or SOLIDER's
    # "solider_swin_tiny" | "solider_swin_small" | "solider_swin_base".
    spnet.BACKBONE.NAME = "convnext_tiny.fb_in1k"
    # "hub": timm downloads the weights; "torchvision": torchvision's ImageNet weights, as the
    # authors; "": random; else the path of a local weight file.
    spnet.BACKBONE.PRETRAINED = "hub"
    # Keep the trunk's weights fixed (FPN and heads still train).
    spnet.BACKBONE.FREEZE = False
    # Batch norms of trunk and RoI stage copies use their running statistics and do not train.
    spnet.BACKBONE.FREEZE_BN = False
    # p_max of stochastic depth, also in the RoI heads. -1: the reference's rate for this trunk.
    spnet.BACKBONE.DROP_PATH_RATE = -1.0


def _add_reid(spnet: CN) -> None:
    spnet.REID = CN()
    # "oim": look-up table and circular queue (fine-tuning); "momentum_queue": one row per
    # person, means of the momentum encoder's embeddings (pre-training); "nt_xent": the batch's
    # other people (the authors' code has it, no published run uses it; 1 / tau is 10 there);
    # "distillation": another model's embeddings of the training boxes (not of the paper); or a loss
    # of your own in REID_LOSSES (spnet_d2/modeling/reid_losses/).
    spnet.REID.LOSS = "oim"
    # 1 / tau, factor on the cosine similarities (10 in pre-training).
    spnet.REID.SCALE = 30.0
    # L, rows of the look-up table. -1: identities of the training set, or of the checkpoint.
    spnet.REID.NUM_IDENTITIES = -1
    # Rows of the circular queue of unknown people (5000 CUHK-SYSU, 500 PRW), or of the momentum
    # queue (65536).
    spnet.REID.QUEUE_SIZE = 5000
    # With "distillation": .npz with an embedding for each identity of the training set. Serving
    # needs none.
    spnet.REID.TARGETS = ""
    # Factor on loss_reid.
    spnet.REID.LOSS_WEIGHT = 1.0
    # Re-id trains on ground-truth boxes only (Table 6).
    spnet.REID.GT_ONLY = False
    # Drop every other loss (Table 6).
    spnet.REID.ONLY = False

    # The momentum encoder, a slow copy of backbone and re-id embedder that fills the momentum
    # queue.
    spnet.MOMENTUM_TWIN = CN()
    spnet.MOMENTUM_TWIN.ENABLED = False
    # Weight of the old parameter.
    spnet.MOMENTUM_TWIN.MOMENTUM = 0.9999

    # Learning without forgetting: keep classifying ImageNet as the pretrained trunk did (Figure 7).
    # The classifier comes with the trunk's weights, from where BACKBONE.PRETRAINED says.
    spnet.LWF = CN()
    spnet.LWF.ENABLED = False


def _add_start(spnet: CN) -> None:
    # How a run starts from MODEL.WEIGHTS of another SPNet.
    spnet.INIT = CN()
    # Cascade stages that the checkpoint lacks: "PT-Rep" replicates its first, "PT" leaves them as
    # they are built (Figure 8).
    spnet.INIT.CASCADE = "PT-Rep"
    # Bridges that MODEL.WEIGHTS lacks, as after query-centric pre-training: "zeros", as in the
    # paper; "least_squares", the maps from matched boxes' embeddings to their queries (not of it).
    spnet.INIT.BRIDGE = "zeros"


# Of another paper of the authors, for any SPNet on the OC pathway.


def _add_gallery_filter(spnet: CN) -> None:
    # Gallery Filter Network (Jaffe and Zakhor, WACV 2023): a score of every gallery scene.
    spnet.GFN = CN()
    spnet.GFN.ENABLED = False
    # "combined": scenes as a query sees them; "separate": a scene and a query ("base" in its
    # paper); "image": two scenes ("scene-only").
    spnet.GFN.MODE = "combined"
    # Of "combined", how a query sees a scene: "se", query-scene excitation; "sum" of both;
    # "identity".
    spnet.GFN.ACTIVATION = "se"
    # In training: "batch", embeddings of the batch's boxes; "oim", their rows of the look-up table.
    spnet.GFN.QUERIES = "batch"
    # For unknown people, scenes that share somebody with their own are no negatives.
    spnet.GFN.FILTER_NEGATIVES = True
    # Train with scenes of earlier batches, too; they are kept on the host.
    spnet.GFN.MEMORY = True
    # Factor on loss_gfn.
    spnet.GFN.LOSS_WEIGHT = 1.0


# Constants of the authors' code. No published run changes them.


def _add_authors_constants(spnet: CN) -> None:
    # "algo1": pairs of a person in other images, then in the query's own, then negative ones;
    # "algo2": without negative ones; "other" | "self" | "all": these positive pairs only.
    spnet.QC.MATCH_MODE = "algo1"


def _add_inference(cfg: CN) -> None:
    """Inference as in the authors' code; the paper gives no numbers."""
    # Score floor after the anchors (strict >).
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.5
    # Duplicates are boxes of a larger IoU. After the anchors, this many boxes stay at most.
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 0.5
    cfg.TEST.DETECTIONS_PER_IMAGE = 300
    cfg.MODEL.SPNET.TEST = test = CN()
    # "float32" | "float16" | "bfloat16": of convolutions and linear layers. On a CPU float16 is
    # bfloat16 where that is faster (amx_bf16), else float32. The authors evaluate in float16, as
    # the profiles do. float32 is exact on GPUs as well: no TF32.
    test.PRECISION = "float32"


# Small data: a few hundred boxes, a few hundred iterations. The defaults are the paper's.


def _add_small_data(spnet: CN) -> None:
    spnet.SMALL_DATA = small = CN()
    # Bias of the anchor embedder at the start: -log(99), as the authors set it. ||x_a|| is 52 then,
    # every anchor's logit -57. Short runs start nearer to FixedNorm's mean.
    small.ANCHOR_BIAS = -4.59511985013459
    # Factor on loss_box_t.
    small.BOX_LOSS_WEIGHT = 1.0
    # "kaiming", as the authors; "identity": p3 starts as the stride-16 map.
    small.FPN_INIT = "kaiming"
    # Keep RoI features fixed: p3 as FPN_INIT makes it (all laterals, p3's output), and the RoI
    # heads' copies of the trunk's last stage. Their projections still train.
    small.FREEZE_ROI = False
    # How a RoI's features become a vector: "max" | "avg", "": as the authors with this trunk.
    small.ROI_POOLING = ""
    # Horizontal stripes of a RoI that are pooled apart: more for data too small to learn a
    # body's layout from.
    small.ROI_STRIPES = 1
    # Share of a RoI's width that isn't pooled, on either side: mostly background of a person's box.
    small.ROI_MARGIN = 0.0
    # Share of REID_DIM, rounded down, that comes from feat4, a RoI's features on p3. The rest comes
    # from feat5, what the stage copy makes of them; with 1.0 re-id has no stage copy.
    small.FEAT4_SHARE = 0.5
    # Sides of ground-truth boxes move by up to this share of the shorter one for re-id, where
    # detected boxes, which vary by themselves, are too few.
    small.BOX_JITTER = 0.0


# How a machine runs it. The numbers stay the same, but for SYNC_BN.


def _add_running(spnet: CN) -> None:
    # Several processes: batch norms take their statistics over the batches of all, not each of its
    # own.
    spnet.SYNC_BN = False
    # torch.compile trunk and RoI stages: minutes at the start, then less time for every step.
    spnet.COMPILE = False
    # Recompute the blocks of trunk and RoI stage copies in the backward pass instead of storing
    # them: the same numbers in a fifth of the memory, for up to a third more time.
    spnet.ACTIVATION_CHECKPOINTING = False


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
    # Odds of the crop that keeps all boxes (RSC), those of the focused crop (RFC2) being 1.
    cfg.INPUT.RSC_PROB = 1.0
    # rrc_scale's factor: (1.5, 3.0) is how the authors trained, (0.5, 2.0) what the paper says.
    cfg.INPUT.SCALE_RANGE = (1.5, 3.0)
    # A box needs this share of its area inside the crop to be kept. SeqNeXt's final runs: 0.6.
    cfg.INPUT.MIN_VISIBILITY = 0.4
    # Self-supervised: random boxes instead of the annotations, new ones every epoch, each a person
    # of its own. "": off; "basic": anywhere; "iou": hardly overlapping; "distinctive": the same,
    # and no patches that are plain or look like an earlier one of the image; "overlap": in pairs
    # of IoU 0.6. For the momentum queue; a look-up table does not know such people.
    cfg.INPUT.SSL_BOXES = ""
    # Repeat the authors' 8-bit detour of normalised images, train and test.
    cfg.INPUT.EXACT_8BIT = False


def _add_data(cfg: CN) -> None:
    # YAML files that give names to data sets of your own (spnet_d2/data/own_sets.py).
    cfg.DATASETS.FILES = ()
    cfg.DATASETS.TRAIN = ("cuhk_sysu_train",)
    cfg.DATASETS.TEST = ("cuhk_sysu_test",)
    # Retrieval protocols to report, "" = the data set's own default one. With several test sets, a
    # name is for those that have it, "set:protocol" for one.
    cfg.TEST.PROTOCOLS = ()
    # At every evaluation also the training losses on the test set, as val/loss_...: of pairs of
    # images that share a person, resized as for a test.
    cfg.TEST.LOSS = False
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
    cfg.SEED = 0


def _add_solver(cfg: CN) -> None:
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
    # Global L2 norm over all parameters (Detectron2's own "norm" clips each one apart).
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 10.0


def _add_schedule(cfg: CN) -> None:
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
