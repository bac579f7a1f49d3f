"""Re-id memories: what the re-id loss compares embeddings with."""

from .momentum_queue import MomentumQueueLoss
from .oim import OIMLoss

__all__ = ["MomentumQueueLoss", "OIMLoss"]
