"""Settings that SeqNet and SeqNeXt don't follow: changing one is an error, not ignored."""

from collections.abc import Iterator

from detectron2.config import CfgNode

from spnet_d2.config_keys import default_of, keys_and_values
from spnet_d2.config_reader import get_value

_SECTION = "MODEL.SPNET."
# Of this project's keys of models, those that they read, and those that others keep in order.
_READ = (
    *("BACKBONE.NAME", "BACKBONE.PRETRAINED", "BACKBONE.DROP_PATH_RATE", "BACKBONE.FREEZE"),
    *("BACKBONE.FREEZE_BN", "SMALL_DATA.FREEZE_ROI", "ANCHORS_PER_IMAGE"),
    *("REID.NUM_IDENTITIES", "REID.QUEUE_SIZE", "REID.SCALE", "REID_DIM", "EMBED_DIM"),
    *("GFN.ENABLED", "GFN.MODE", "GFN.ACTIVATION", "GFN.QUERIES", "GFN.FILTER_NEGATIVES"),
    *("GFN.MEMORY", "GFN.LOSS_WEIGHT", "TEST_PATHWAY", "TEST.PRECISION"),
)
# Parts of SPNet that others may put another class in place of.
_PARTS = ("MODEL.BACKBONE.NAME", "MODEL.PROPOSAL_GENERATOR.NAME", "MODEL.ROI_HEADS.NAME")


def seqnet_problems(cfg: CfgNode) -> Iterator[str]:
    """A sentence for each setting that SeqNet or SeqNeXt would not follow."""
    name = cfg.MODEL.META_ARCHITECTURE
    own = (key for key, _ in keys_and_values(cfg.MODEL.SPNET) if key not in _READ)
    for key in (*(_SECTION + key for key in own), *_PARTS):
        value, fixed = get_value(cfg, key), default_of(key)
        # A key that nobody declared is another check's.
        if fixed is not None and value != fixed:
            yield f"{key} is {value!r}, which {name} does not follow: leave it at {fixed!r}."
    if cfg.MODEL.SPNET.TEST_PATHWAY == "QC":
        yield f"MODEL.SPNET.TEST_PATHWAY is 'QC', but {name} detects everybody: leave it out."
    steps = cfg.SOLVER.ACCUMULATION_STEPS
    if steps > 1:
        yield (
            f"SOLVER.ACCUMULATION_STEPS is {steps}, but {name} takes a batch as a whole: set it to "
            "1, with fewer SOLVER.IMS_PER_BATCH."
        )
