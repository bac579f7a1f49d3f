"""Parts of SPNet that SeqNet and SeqNeXt don't have: switching one on is an error, not ignored."""

from collections.abc import Iterator

from detectron2.config import CfgNode

from spnet_d2.config_reader import get_value

# What these models do, whatever the config says.
_FIXED = {
    "PATHWAY": "OC",
    "MOMENTUM_TWIN.ENABLED": False,
    "LWF.ENABLED": False,
    "REID.LOSS": "oim",
    "REID.LOSS_WEIGHT": 1.0,
    "REID.ONLY": False,
    "REID.GT_ONLY": False,
    "BACKBONE.FREEZE": False,
    "BACKBONE.FREEZE_BN": False,
    "COMPILE": False,
    "ACTIVATION_CHECKPOINTING": False,
}


def seqnet_problems(cfg: CfgNode) -> Iterator[str]:
    """A sentence for each setting that SeqNet or SeqNeXt would not follow."""
    name = cfg.MODEL.META_ARCHITECTURE
    for key, fixed in _FIXED.items():
        value = get_value(cfg, f"MODEL.SPNET.{key}")
        if value != fixed:
            yield f"MODEL.SPNET.{key} is {value!r}, but {name} has {fixed!r} alone: leave it out."
    if cfg.MODEL.SPNET.TEST_PATHWAY == "QC":
        yield f"MODEL.SPNET.TEST_PATHWAY is 'QC', but {name} detects everybody: leave it out."
    steps = cfg.SOLVER.ACCUMULATION_STEPS
    if steps > 1:
        yield (
            f"SOLVER.ACCUMULATION_STEPS is {steps}, but {name} takes a batch as a whole: set it to "
            "1, with fewer SOLVER.IMS_PER_BATCH."
        )
