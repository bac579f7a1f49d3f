"""What the readers of official files share: MATLAB structures, image headers, one kind of error."""

import json
import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import UnidentifiedImageError
from scipy.io import loadmat
from tqdm import tqdm

from spnet_d2.data.image_reader import upright_size
from spnet_d2.errors import UserError

logger = logging.getLogger(__name__)

# Unknown people are numbered from here on, above every known id of CUHK-SYSU (5532) and PRW (933).
FIRST_UNKNOWN_ID = 5555
# How taking a structure apart, reading numbers and reading a file fail.
_MALFORMED = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)


class CorpusError(UserError, ValueError):
    """An official file is missing or not as distributed."""


@dataclass(frozen=True)
class Corpus:
    """Name, folder and origin of a corpus, for error messages.

    Attributes:
        name: as people call it.
        root: folder with the official files.
        origin: where to get them.
    """

    name: str
    root: Path
    origin: str

    def error(self, path: Path, message: str) -> CorpusError:
        """One message: the file, the place looked at, what is wrong and where to get the corpus."""
        return CorpusError(
            f"{self.name}: {message}\n  file: {os.path.abspath(path)}\n"
            f"  looked under: {os.path.abspath(self.root)} (--dataset-dir)\n"
            f"  get the corpus: {self.origin}"
        )

    def require(self, relative: str) -> Path:
        """Path of an official file or folder; raises :class:`CorpusError` if it is not there."""
        path = self.root / relative
        if not path.exists():
            raise self.error(path, f"{relative} is missing; the layout is in datasets/README.md")
        return path

    @contextmanager
    def reading(self, path: Path, expected: str) -> Iterator[None]:
        """Turn the errors of taking a malformed structure apart into :class:`CorpusError`."""
        try:
            yield
        except CorpusError:
            raise
        except _MALFORMED as error:
            message = f"malformed, expected {expected} ({type(error).__name__}: {error})"
            raise self.error(path, message) from error

    def load_mat(self, relative: str, names: Sequence[str]) -> np.ndarray:
        """The first of the variables ``names`` that a MATLAB v5 file holds."""
        path = self.require(relative)
        try:
            content = loadmat(path)
        except Exception as error:  # scipy raises a different class for each kind of damage
            message = f"not a readable MATLAB v5 file ({type(error).__name__}: {error})"
            raise self.error(path, message) from error
        for name in names:
            if name in content:
                return content[name]
        found = [name for name in content if not name.startswith("__")]
        message = f"expected variable {' or '.join(names)}, found {found}"
        raise self.error(path, message)

    def load_json(self, relative: str, keys: Sequence[str]) -> dict[str, Any]:
        """A JSON object that has ``keys``."""
        path = self.require(relative)
        try:
            content = json.loads(path.read_bytes())
        # Python's reader has a limit of nested brackets.
        except (ValueError, OSError, RecursionError) as error:
            raise self.error(path, f"not readable JSON ({error})") from error
        if not isinstance(content, dict) or not set(keys) <= content.keys():
            raise self.error(path, f"expected a JSON object with {', '.join(keys)}")
        return content

    def image_sizes(self, folder: str, names: Sequence[str]) -> list[tuple[int, int]]:
        """(width, height) of images, from the file headers, upright (EXIF)."""
        root = self.require(folder)

        def size(name: str) -> tuple[int, int]:
            try:
                return upright_size(root / name)
            except FileNotFoundError:
                message = f"image {name} is missing from {folder}"
                raise self.error(root / name, message) from None
            except (UnidentifiedImageError, OSError) as error:
                raise self.error(root / name, f"not a readable image ({error})") from error

        # Cold disks answer several requests at once much sooner than one after the other.
        pool = ThreadPoolExecutor(max_workers=8)
        try:
            progress = tqdm(
                pool.map(size, names),
                total=len(names),
                desc=f"{self.name} image headers",
                disable=None,
            )
            return list(progress)
        finally:
            pool.shutdown(cancel_futures=True)


def elements(array: Any) -> list:
    """The entries of a MATLAB vector, whichever way it lies; one entry needs no special case."""
    return list(np.asarray(array).reshape(-1))


Entries = TypeVar("Entries", bound=Collection)


def some(entries: Entries) -> Entries:
    """The argument; raises ``ValueError`` if it is empty, where no real file is."""
    if not entries:
        raise ValueError("it lists nothing")
    return entries


def text(value: Any) -> str:
    """A MATLAB string or a cell around one; raises ``TypeError`` for anything else."""
    value = np.asarray(value)
    while value.dtype == object and value.size == 1:
        value = np.asarray(value.reshape(-1)[0])
    if value.size != 1 or value.dtype.kind != "U":
        raise TypeError(f"expected one string, found {value!r}")
    return str(value.reshape(-1)[0])


def texts(values: np.ndarray) -> list[str]:
    """Many MATLAB strings; as :func:`text`, but quick for millions of plain ones."""
    found = [value.item() if value.size == 1 else None for value in values.reshape(-1)]
    plain = [value for value in found if type(value) is str]
    return plain if len(plain) == len(found) else [text(value) for value in values.reshape(-1)]


def integer_box(value: Any) -> tuple[int, int, int, int] | None:
    """A MATLAB box as x, y, w, h, truncated to integers; None for an empty one.

    MATLAB stores the smallest type that fits (uint8, uint16), where x + w would overflow, so the
    values are widened before anything else.
    """
    numbers = np.asarray(value)
    if numbers.size == 0:
        return None
    if numbers.size != 4:
        raise ValueError(f"expected a box x, y, w, h, found {numbers!r}")
    return tuple(integers(numbers.reshape(-1)).tolist())


def integers(numbers: np.ndarray) -> np.ndarray:
    """Numbers cut to int32; raises ``ValueError`` where that can't hold them, as with NaN."""
    numbers = np.asarray(numbers)
    wide = numbers.astype(np.float64)
    if not (np.abs(wide) < 2**31).all():
        raise ValueError(f"expected numbers of pixels, found {numbers.tolist()}")
    return numbers.astype(np.int32)


def log_counts(corpus: Corpus, counts: Mapping[str, int], published: Mapping[str, int]) -> None:
    """Log what was found beside the published count, as a warning where a corpus is smaller."""
    for name, count in counts.items():
        expected = published.get(name)
        level = logging.WARNING if expected is not None and count < expected else logging.INFO
        note = "" if expected is None else f" (published: {expected})"
        logger.log(level, "%s: %s %d%s", corpus.name, name, count, note)
