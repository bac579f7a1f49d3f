"""Re-id memories: what the re-id loss compares embeddings with."""

from .oim import OIMLoss

__all__ = ["OIMLoss"]
