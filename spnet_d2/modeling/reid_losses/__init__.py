"""Re-id losses, some with a memory of people to compare embeddings with.

A new one is a file with a :class:`ReidLoss` under ``@REID_LOSSES.register("name")``, and its
import here (or, in a project of your own, before the config is read).
"""

from .distillation import DistillationLoss
from .momentum_queue import MomentumQueueLoss
from .nt_xent import NTXentLoss
from .oim import OIMLoss
from .registry import REID_LOSSES, ReidLoss, build_reid_loss, reid_loss_class

__all__ = [
    "REID_LOSSES",
    "DistillationLoss",
    "MomentumQueueLoss",
    "NTXentLoss",
    "OIMLoss",
    "ReidLoss",
    "build_reid_loss",
    "reid_loss_class",
]
