"""SeqNet (Li and Miao, AAAI 2021) and SeqNeXt (Jaffe and Zakhor, WACV 2023), built from our parts.

Two-stage detectors whose second stage takes the first one's boxes, and embeds them for re-id.
"""

from .model import SeqNet, SeqNeXt

__all__ = ["SeqNeXt", "SeqNet"]
