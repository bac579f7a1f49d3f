"""SPNet's modules; importing this registers them with Detectron2."""

from .backbone import TimmFPN, create_trunk
from .proposal_generator import SwapPathProposalGenerator
from .roi_heads import SPNetROIHeads
from .seqnet import SeqNet, SeqNeXt
from .spnet import SPNet

__all__ = [
    "SPNet",
    "SPNetROIHeads",
    "SeqNeXt",
    "SeqNet",
    "SwapPathProposalGenerator",
    "TimmFPN",
    "create_trunk",
]
