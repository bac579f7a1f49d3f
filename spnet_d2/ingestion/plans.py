"""Units of folders that are planned and not done: processes that start later plan the same ones.

A folder's images get their numbers when they are planned. A process that planned anew while others
work would put the same images into other units, and they would be indexed twice.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import portalocker

from spnet_d2.gallery.errors import GalleryError, storage_errors
from spnet_d2.utils.atomic_io import write_json

from .units import Unit


class Plans:
    """In a folder that all processes see: a file per source."""

    def __init__(self, folder: Path):
        self._folder = folder

    def read(self, source: str) -> list[Unit]:
        """What was planned, done since or not."""
        try:
            content = json.loads(self._file(source).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        except ValueError as error:
            raise GalleryError(
                f"{self._file(source)} is damaged ({error}): delete it while nobody indexes."
            ) from error
        return [Unit.from_json(unit) for unit in content]

    def write(self, source: str, units: Sequence[Unit]) -> None:
        """Keep a plan until :meth:`remove`."""
        if units:
            with storage_errors(self._folder, "planning in"):
                self._folder.mkdir(exist_ok=True)
                write_json(self._file(source), [unit.to_json() for unit in units])

    def remove(self, source: str) -> None:
        """When all of it is done, or the source is deleted."""
        self._file(source).unlink(missing_ok=True)

    def _file(self, source: str) -> Path:
        # Names of sources have any letters.
        return self._folder / f"{hashlib.sha256(source.encode()).hexdigest()[:24]}.json"


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Wait for a lock that the system takes back when its process ends."""
    with storage_errors(path.parent, "locking"):
        file = open(path, "a", encoding="utf-8")  # noqa: SIM115
    with file:
        portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE)
        yield
