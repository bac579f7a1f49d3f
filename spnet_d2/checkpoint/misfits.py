"""What of a file's tensors doesn't fit a model, in words."""

from collections.abc import Collection, Mapping

from torch import Tensor


def misfits(
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    missing: Collection[str],
    unexpected: Collection[str],
) -> str:
    """
    Args:
        found: the file's tensors by the model's names.
        expected: the model's.
        missing, unexpected: names that only one of them has, without those that may be.

    Returns:
        How many are missing, too much or of another shape, and which come first; empty: none.
    """
    misshaped = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    kinds = {"missing": missing, "too much": unexpected, "of another shape": misshaped}
    return "; ".join(
        f"{len(names)} {kind}, the first: {', '.join(list(names)[:3])}"
        for kind, names in kinds.items()
        if names
    )
