"""Reading checkpoint files without running code from them, and without trusting damaged ones."""

import os
import re
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PosixPath
from typing import Any

import torch
from torch import Tensor, nn
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

# Values only, no code: what training scripts keep beside the tensors.
from spnet_d2.errors import UserError

_HARMLESS: list[Callable | tuple[Callable, str]] = [Namespace, PosixPath]
# What is written: nothing that another version of Python or PyTorch could fail to read.
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
_CONTAINERS = (dict, OrderedDict, Counter, list, tuple, set)
# How a zip archive begins.
_ZIP = b"PK\x03\x04"


class DamagedCheckpointError(UserError, ValueError):
    """A checkpoint file that is not, or no longer, what was written."""


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
        DamagedCheckpointError: it is cut off, changed or of another kind.
        ValueError: it holds other objects, which the message names.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"No checkpoint at {os.path.abspath(path)}.")
    # PyTorch's older files are no archives and have no checksums.
    damage = find_damage(path) if _begins_as_archive(path) else None
    if damage:
        raise DamagedCheckpointError(f"{path} ({os.path.getsize(path)} bytes) {damage}.")
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
        raise DamagedCheckpointError(
            f"{path} ({os.path.getsize(path)} bytes) can't be read as a PyTorch checkpoint of "
            "plain tensors and numbers. It may be cut off, or of another kind."
        ) from error


def find_damage(path: str | os.PathLike) -> str | None:
    """
    Compare a file of ``torch.save`` with the checksums in it.

    Such a file is a zip archive with a CRC-32 of every tensor. ``torch.load`` does not look at
    them: it gives back changed numbers without a word.

    Returns:
        What is wrong, as the end of a sentence about the file; None if nothing is.
    """
    if not _begins_as_archive(path):
        return "is not an archive as PyTorch writes it"
    try:
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
    # Broken archives raise almost anything, by where they are broken.
    except Exception as error:
        return f"is cut off or damaged ({error})"
    return f"is damaged: the checksum of its part {record} is wrong" if record else None


def _begins_as_archive(path: str | os.PathLike) -> bool:
    with open(path, "rb") as file:
        return file.read(len(_ZIP)) == _ZIP


def check_plain(content: Any, where: str = "checkpoint") -> None:
    """
    See that something will be readable by :func:`read_checkpoint` once it is written.

    Args:
        content: nested containers of tensors and plain values.
        where: what it is, for the error.

    Raises:
        TypeError: there is another object in it.
    """
    if type(content) in _CONTAINERS:
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in items:
            check_plain(key, f"{where}, a key")
            check_plain(value, f"{where}[{key!r}]")
    elif type(content) not in (*_PLAIN, Tensor, nn.Parameter):
        kind = type(content)
        raise TypeError(
            f"{where} is an object of {kind.__module__}.{kind.__qualname__}. Checkpoints hold "
            "tensors and plain Python values only, so that they can be read without running "
            "code: convert it in the state_dict() it comes from."
        )
