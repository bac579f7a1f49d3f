"""Reading checkpoint files without running code from them."""

import os
import re
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PosixPath
from typing import Any

import torch
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

# Values only, no code: what training scripts keep beside the tensors.
_HARMLESS = [Namespace, PosixPath]


@contextmanager
def _harmless_classes() -> Iterator[None]:
    """``torch.load(weights_only=True)`` takes these classes too, inside of the block only."""
    before = get_safe_globals()
    add_safe_globals(_HARMLESS)
    try:
        yield
    finally:
        clear_safe_globals()
        add_safe_globals(before)


def read_checkpoint(path: str | os.PathLike) -> Any:
    """
    Read a PyTorch checkpoint onto the CPU. Nothing in it is run.

    Args:
        path: a file of ``torch.save``.

    Returns:
        What was saved. Beside tensors and plain values, an ``argparse.Namespace``
        (hyper-parameters) and paths are read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is cut off or of another kind, or holds other objects, which it names.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"No checkpoint at {os.path.abspath(path)}.")
    try:
        with _harmless_classes():
            return torch.load(path, map_location="cpu", weights_only=True)
    # Broken files raise almost anything, by where they are broken.
    except Exception as error:
        found = re.search(r"(?:GLOBAL |Unsupported class |but got <class ')([\w.]+)", str(error))
        if found:
            raise ValueError(
                f"{path} holds an object of {found[1]} beside its tensors. Reading it could run "
                "code, so it was not read. If you know where the file comes from, write its "
                'weights alone to another file once: python -c "import torch; c = torch.load('
                f"{path!r}, map_location='cpu', weights_only=False); "
                "torch.save(c.get('state_dict', c), 'weights.ckpt')\""
            ) from error
        raise ValueError(
            f"{path} ({os.path.getsize(path)} bytes) can't be read as a PyTorch checkpoint of "
            "plain tensors and numbers. It may be cut off, or of another kind."
        ) from error
