"""Reading pickles and torch files of unknown origin: arrays of numbers, and nothing else.

A pickle may name any function and have it called. Here only what builds numpy arrays of plain
numbers may be named, in numpy's old and new spelling; anything else is refused by its name.
"""

import _codecs
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from spnet_d2.evaluation.peers.errors import DumpError

_RECONSTRUCT = np.ndarray(0).__reduce__()[0]
_SCALAR = np.float32(0).__reduce__()[0]
# Python 2 wrote __builtin__, numpy 1 numpy.core.
_ALLOWED = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _RECONSTRUCT for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _SCALAR for core in ("core", "_core")},
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("builtins", "bytes"): bytes,
    ("__builtin__", "bytes"): bytes,
    ("_codecs", "encode"): _codecs.encode,
    ("collections", "OrderedDict"): OrderedDict,
}
_DTYPES = ("float16", "float32", "float64", "uint8", "int32", "int64", "bool")


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise DumpError(f"names {module}.{name}, which is no array of numbers")
        return _ALLOWED[module, name]


def load_pickle(path: str | Path) -> Any:
    """
    Read a pickle of numpy arrays, lists and dicts, of Python 2 or 3.

    Raises:
        DumpError: no such file, damaged, or it names anything else.
    """
    try:
        with open(path, "rb") as file:
            # Python 2's text is bytes; this keeps keys text and arrays whole.
            return _ArraysOnly(file, encoding="latin1").load()
    except DumpError as error:
        raise DumpError(f"{path} was not loaded: it {error}.") from error
    except OSError as error:
        raise DumpError(f"{path} cannot be read ({error.strerror}).") from error
    # A damaged pickle fails in any way.
    except Exception as error:
        message = f"{path} is no pickle, or damaged ({type(error).__name__}: {error})."
        raise DumpError(message) from error


def load_torch(path: str | Path) -> Any:
    """
    Read a torch file, old or new, of tensors, numpy arrays, lists and dicts.

    Raises:
        DumpError: no such file, damaged, or it names anything else.
    """
    import torch

    allowed: list[Any] = [
        _RECONSTRUCT,
        (_RECONSTRUCT, "numpy.core.multiarray._reconstruct"),
        (_RECONSTRUCT, "numpy._core.multiarray._reconstruct"),
        _SCALAR,
        (_SCALAR, "numpy.core.multiarray.scalar"),
        np.ndarray,
        np.dtype,
        bytes,
        *(type(np.dtype(name)) for name in _DTYPES),
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DumpError(f"{path} cannot be read ({error.strerror or error}).") from error
    except Exception as error:
        # PyTorch's own words advise to load the file unsafely.
        refused = re.search(r"GLOBAL (\S+)|but got <class '(\S+)'>", str(error))
        reason = (
            f"it names {refused[1] or refused[2]}, which is no array of numbers"
            if refused
            else f"it is no torch file, or damaged ({type(error).__name__})"
        )
        raise DumpError(f"{path} was not loaded as tensors and arrays: {reason}.") from error


def load_any(path: str | Path) -> Any:
    """:func:`load_torch` for files called so, else :func:`load_pickle`."""
    torch_file = Path(path).suffix in (".pth", ".pt", ".tar")
    return load_torch(path) if torch_file else load_pickle(path)
