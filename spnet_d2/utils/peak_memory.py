"""The most memory that this process and its children held."""

import resource
import sys
from pathlib import Path

import torch

# Bytes of what getrusage counts in.
_UNIT = 1 if sys.platform == "darwin" else 1024


def peak_memory(device: torch.device) -> int:
    """Most bytes that this process held since its start: of the GPU's memory, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Not getrusage's: at its start a process inherits the peak of the one that started it.
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT


def peak_memory_of_children() -> int:
    """Most resident bytes of the largest child process that ended; 0: there was none."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * _UNIT
