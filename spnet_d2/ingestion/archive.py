"""A gallery as one ZIP: to move it to another machine, or into another engine.

Rows are written independently of the store's engine; cases and the audit log stay where they are.
"""

import io
import json
import re
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from spnet_d2.gallery import GalleryError, GallerySettings, People
from spnet_d2.gallery.errors import storage_errors
from spnet_d2.utils.atomic_io import atomic_path

from .home import GalleryHome

_VERSION = 1
_ROWS = 20_000
# Nothing else is taken from an archive, wherever its names point to.
_FILES = re.compile(
    r"sources\.json|calibration\.json|units/[0-9a-f]{24}\.json|thumbnails/[0-9a-f]{2}/[0-9a-f]{24}\.zip"
)


def export_gallery(home: GalleryHome, path: Path, thumbnails: bool = True) -> int:
    """
    Write a gallery into a ZIP.

    Args:
        home: the gallery.
        path: of the ZIP; one that is there is replaced, whole or not at all.
        thumbnails: whether crops of people are in it.

    Returns:
        Rows written.

    Raises:
        GalleryError: it can't be written.
    """
    with home.writing() as store:
        home.commit(store)
        ids = store.find()
        with (
            storage_errors(path, "writing"),
            atomic_path(path) as part,
            zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive,
        ):
            described = {
                "version": _VERSION,
                "rows": len(ids),
                "settings": vars(home.settings),
                "model": home.model,
            }
            archive.writestr("gallery.json", json.dumps(described, indent=1))
            for number, start in enumerate(range(0, len(ids), _ROWS)):
                people = store.fetch(ids[start : start + _ROWS])
                archive.writestr(f"people/{number:06d}.npz", _packed(people))
            for file in sorted(home.path.rglob("*")):
                name = file.relative_to(home.path).as_posix()
                if _FILES.fullmatch(name) and (thumbnails or not name.startswith("thumbnails/")):
                    archive.write(file, name)
    home.close()
    return len(ids)


def import_gallery(path: Path, folder: Path, engine: str = "exact") -> GalleryHome:
    """
    Make a gallery of :func:`export_gallery`'s ZIP.

    Args:
        path: the ZIP.
        folder: new or empty.
        engine: of the new gallery's store.

    Raises:
        GalleryError: the ZIP can't be used, or there is something in the folder.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            described = _described(archive, path)
            settings = GallerySettings(**described["settings"])
            home = GalleryHome.create(folder, settings, described["model"], engine)
            _fill(home, archive, described["rows"], path)
    except FileNotFoundError as error:
        raise GalleryError(f"No file at {path}.") from error
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        if isinstance(error, GalleryError):
            raise
        raise GalleryError(f"{path} is damaged, or no exported gallery ({error}).") from error
    return home


def _described(archive: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    described = json.loads(archive.read("gallery.json"))
    if described["version"] != _VERSION:
        raise GalleryError(
            f"{path} has version {described['version']}, and this program knows {_VERSION}."
        )
    return described


def _fill(home: GalleryHome, archive: zipfile.ZipFile, rows: int, path: Path) -> None:
    names = sorted(archive.namelist())
    with home.writing() as store:
        for name in names:
            if re.fullmatch(r"people/\d{6}\.npz", name):
                store.add(_unpacked(archive.read(name)))
        count = store.count()
    if count != rows:
        raise GalleryError(f"{path} has {count} of {rows} rows: export again.")
    for name in names:
        if _FILES.fullmatch(name):
            with (
                storage_errors(home.path, "writing"),
                atomic_path(home.path / name) as part,
            ):
                part.write_bytes(archive.read(name))


def _packed(people: People) -> bytes:
    columns = {field.name: getattr(people, field.name) for field in fields(People)}
    buffer = io.BytesIO()
    # Objects in memory, plain characters in the file.
    np.savez(buffer, **{k: v.astype(str) if v.dtype == object else v for k, v in columns.items()})
    return buffer.getvalue()


def _unpacked(data: bytes) -> People:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        columns = [file[field.name] for field in fields(People)]
    return People(*(c.astype(object) if c.dtype.kind == "U" else c for c in columns))
