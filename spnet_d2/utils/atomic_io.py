"""Files that are either complete or not there."""

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np


@contextmanager
def atomic_path(path: str | os.PathLike, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block ends without error.

    Parent folders are made. The temporary name keeps the suffix, so writers that choose the format
    by suffix work. On an error the temporary file is removed and ``path`` stays as it was.

    Args:
        path: of the file.
        durable: it survives a power failure, too. For one writer at a time: a killed one's
            temporary file, named ``PATH.part``, is overwritten by the next.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are private, a data set is readable like any other new file.
    name = f".{target.stem}.{uuid.uuid4().hex}{target.suffix}"
    part = target.with_name(f"{target.name}.part" if durable else name)
    try:
        yield part
        if durable:
            _sync(part)
        os.replace(part, target)
        if durable:
            # New names in a folder, where the system can do that.
            with suppress(OSError):
                _sync(target.parent)
    except OSError as error:
        # What a full disk raises names no file.
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(target)
        raise
    finally:
        part.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(
    path: str | os.PathLike, content: Any, indent: int | None = None, allow_nan: bool = False
) -> None:
    """Write ``content`` as JSON, atomically. NumPy scalars and arrays become plain numbers.

    Args:
        path: where.
        content: what.
        indent: spaces per level, for people to read, with names as they are; None: ASCII in one
            line.
        allow_nan: write NaN and infinity, which JSON does not have, but Python's reader knows.

    Raises:
        ValueError: for NaN or infinity, unless they are allowed.
        TypeError: for a value JSON has no form for.
    """
    # One `dumps` runs in C; `json.dump` would go through every token in Python.
    if indent is None:
        separators = (",", ":")
        text = json.dumps(content, default=_plain, allow_nan=allow_nan, separators=separators)
    else:
        text = json.dumps(
            content, default=_plain, allow_nan=allow_nan, indent=indent, ensure_ascii=False
        )
        text += "\n"
    write_text(path, text)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text, atomically.

    Names of files that are no UTF-8 (lone surrogates) are written as ``\\udce9``, which JSON
    reads back as the same name.
    """
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_image(path: str | os.PathLike, image: np.ndarray, options: Sequence[int] = ()) -> None:
    """Write an image in the format of the path's suffix, atomically.

    ``cv2.imwrite`` says nothing of a full disk, and leaves half an image there.

    Args:
        path: with a suffix OpenCV knows.
        image: (H, W, 3) uint8 BGR.
        options: as ``cv2.imwrite`` takes them.

    Raises:
        OSError: it could not be written.
    """
    _, data = cv2.imencode(Path(path).suffix, image, options)
    with atomic_path(path) as part:
        part.write_bytes(data.tobytes())


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r}")
