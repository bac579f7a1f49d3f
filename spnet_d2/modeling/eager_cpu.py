"""Where modules compute by operators of their own, which are faster on CPUs."""

import torch
from torch import Tensor


def is_eager_on_cpu(*tensors: Tensor) -> bool:
    """
    Whether these are float32 on a CPU, and no graph is being made.

    Exported and compiled models keep to the operators that all runtimes know, whatever their sizes,
    which a comparison of sizes would fix: so ask this first.
    """
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return False
    return all(x.device.type == "cpu" and x.dtype == torch.float32 for x in tensors)
