"""Re-id memories: what the re-id loss compares embeddings with."""

from .momentum_queue import MomentumQueueLoss
from .nt_xent import NTXentLoss
from .oim import OIMLoss

__all__ = ["MomentumQueueLoss", "NTXentLoss", "OIMLoss"]
