"""Equality of what a checkpoint holds."""

import torch


def assert_equal(left, right, where="checkpoint"):
    """Equality, bit by bit, of nested containers of tensors and plain values."""
    assert type(left) is type(right), where
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_equal(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for i, (a, b) in enumerate(zip(left, right)):
            assert_equal(a, b, f"{where}[{i}]")
    else:
        assert left == right, where
