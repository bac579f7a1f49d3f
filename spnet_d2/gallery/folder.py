"""The folder of a gallery on disk: its manifest, and the lock of its one writer."""

import json
import os
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import portalocker

from .errors import GalleryError, storage_errors
from .people import People
from .store import GallerySettings

MANIFEST = "gallery.json"
# Of the manifest and of what it lists.
VERSION = 1
_FORMAT = "spnet_d2 gallery"
_LOCK = "writer.lock"


def create_folder(path: Path, engine: str, settings: GallerySettings, state: dict) -> None:
    """
    Make an empty gallery.

    Raises:
        GalleryError: there is a gallery, or something else, or the folder can't be written.
    """
    with storage_errors(path, "making the gallery"):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            what = "a gallery" if (path / MANIFEST).is_file() else "something else"
            raise GalleryError(f"There is {what} at {path}; name a new or an empty folder.")
        path.mkdir(parents=True, exist_ok=True)
        head = {"format": _FORMAT, "version": VERSION, "engine": engine}
        write_durably(path / MANIFEST, _json({**head, **asdict(settings), **state}))


def read_manifest(path: Path) -> dict[str, Any]:
    """
    What the folder holds.

    Raises:
        GalleryError: no gallery, an unknown version, a damaged manifest.
    """
    return read_versioned(path / MANIFEST, _FORMAT, VERSION)


def read_versioned(file: Path, form: str, version: int, hint: str = "") -> dict[str, Any]:
    """
    The JSON file that makes a folder a gallery.

    Args:
        file: in that folder.
        form: its ``format``.
        version: its ``version``.
        hint: what to do where there is none.

    Raises:
        GalleryError: the file isn't there, is damaged, or has another format or version.
    """
    try:
        content = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise GalleryError(f"No gallery at {file.parent}: it has no {file.name}.{hint}") from None
    except ValueError as error:
        raise GalleryError(f"{file} is damaged ({error}); put back a copy of it.") from error
    except OSError as error:
        raise GalleryError(f"{file} can't be read: {error.strerror}.") from error
    if not isinstance(content, dict) or content.get("format") != form:
        raise GalleryError(f"{file} is not of a gallery.")
    if content.get("version") != version:
        raise GalleryError(
            f"The gallery {file.parent} has version {content.get('version')}, and this program "
            f"knows version {version}: use the spnet_d2 that made it, or index again."
        )
    return content


def settings_of(manifest: dict[str, Any]) -> GallerySettings:
    return GallerySettings(manifest["dimension"], manifest["fingerprint"], manifest["score_floor"])


class WriterLock:
    """
    The right to write a gallery, which one program has at a time.

    The system takes it back when the program ends, however it ends.

    Raises:
        GalleryError: another program has it, or the folder can't be written.
    """

    def __init__(self, path: Path):
        file = path / _LOCK
        with storage_errors(path, "opening for writing"):
            self._file = open(file, "a+", encoding="utf-8")  # noqa: SIM115
            try:
                portalocker.lock(
                    self._file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING
                )
            except portalocker.exceptions.LockException as error:
                self._file.close()
                holder = file.read_text(encoding="utf-8").strip() or "unknown"
                raise GalleryError(
                    f"Another program writes the gallery {path} (process {holder}); wait until it "
                    "has finished, or open it for reading."
                ) from error
            self._file.truncate(0)
            self._file.write(f"{os.getpid()}\n")
            self._file.flush()

    def release(self) -> None:
        self._file.close()


class FolderStore:
    """What the stores in a folder share: manifest, settings and the writer's lock."""

    def __init__(self, path: str | os.PathLike, write: bool):
        self._path = Path(path).resolve()
        self.address = str(self._path)
        # Read again under the lock: another writer may just have finished.
        read_manifest(self._path)
        self._lock = WriterLock(self._path) if write else None
        try:
            self._manifest = read_manifest(self._path)
            self.settings = settings_of(self._manifest)
        except BaseException:
            self.close()
            raise

    def _check_writes(self) -> None:
        if self._lock is None:
            raise GalleryError(f"The gallery {self.address} is not open for writing.")

    def _ids_for(self, people: People) -> np.ndarray:
        """(N,) ids of people who are about to be added."""
        self._check_writes()
        self.settings.check_people(people, self.address)
        first = self._manifest["next_id"]
        return np.arange(first, first + len(people))

    def close(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """The commit of every change: readers see the old manifest or the new one."""
    write_durably(path / MANIFEST, _json(manifest))


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode("utf-8")


def write_durably(path: Path, content: bytes) -> None:
    """Write a file that is complete or not there, also after a power cut."""
    part = part_of(path)
    try:
        with open(part, "wb") as file:
            file.write(content)
            sync(file)
        os.replace(part, path)
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """Where a file is written before it gets its name."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def sync(file) -> None:
    file.flush()
    os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    # Windows has no such thing for folders.
    if os.name == "posix":
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
