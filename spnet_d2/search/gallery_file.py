"""The ``.npz`` file of a gallery: its checks, and the images it was made from.

F frames, N people, S skipped files, as in :class:`~.gallery.Gallery`.
"""

import os
import zipfile
import zlib
from typing import Any

import numpy as np

from spnet_d2.errors import SearchInputError
from spnet_d2.utils.atomic_io import atomic_path

# Of the file's content; 1 had no settings, and paths of the folder of that day.
VERSION = 2
# Of a model with a gallery filter.
SCENES = ("scene_embeddings", "scene_fuser")
TEXTS = ("source", "fingerprint", "settings", "left_out")
# Only this much of a file is read to tell whether its content changed.
_CHECKED_BYTES = 2**26
_PIECE = 2**20


def write_arrays(path: str | os.PathLike, values: dict) -> None:
    """Write a gallery's fields, atomically.

    Args:
        path: of the file.
        values: by name; ``relative_files`` is made anew for the folder of ``path``.
    """
    folder = os.path.dirname(os.path.abspath(path))
    files = values["frame_files"].tolist()
    # One relative path per file, not per frame of a video.
    relative = {file: relative_path(file, folder) for file in set(files)}
    values = {**values, "relative_files": np.array([relative[file] for file in files], np.str_)}
    if values["frame_stamps"] is None:
        values["frame_stamps"] = np.full((len(files), 3), -1, np.int64)
    arrays: dict[str, Any] = {k: np.asarray(v) for k, v in values.items() if v is not None}
    with atomic_path(path) as part, open(part, "wb") as file:
        np.savez(file, version=np.asarray(VERSION), **arrays)


def read_arrays(path: str | os.PathLike, names: list[str]) -> dict:
    """
    A gallery's fields as :func:`write_arrays` wrote them; files that moved with it are found.

    Raises:
        SearchInputError: no such file, not a gallery, one of another version, or one whose
            parts don't fit together.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        with archive:
            check_version(archive)
            there = [n for n in names if n in archive.files or n not in SCENES]
            arrays = {name: archive[name] for name in there}
        check_arrays(arrays)
    except FileNotFoundError:
        raise SearchInputError(f"No gallery file at {os.path.abspath(path)}.") from None
    # numpy reports what is no archive, or holds pickles, in several ways.
    except (KeyError, ValueError, AttributeError, OSError, EOFError, zipfile.BadZipFile) as e:
        raise SearchInputError(
            f"{path} is not a gallery written by Gallery.save: {e}. Build it again."
        ) from e
    plain = {name: arrays.pop(name).item() for name in (*TEXTS, "min_score", "every")}
    folder = os.path.dirname(os.path.abspath(path))
    files = where_they_are(arrays["frame_files"], arrays["relative_files"], folder)
    return {**plain, **arrays, "frame_files": files}


def stamp_of(file: str) -> tuple[int, int, int]:
    """(size, time of change in ns, checksum) of a file; -1 three times if there is none."""
    try:
        stat = os.stat(file)
        return stat.st_size, stat.st_mtime_ns, checksum(file)
    except OSError:
        return -1, -1, -1


def checksum(file: str) -> int:
    """Of the first ``_CHECKED_BYTES`` bytes."""
    value = 0
    with open(file, "rb") as opened:
        for _ in range(_CHECKED_BYTES // _PIECE):
            value = zlib.crc32(opened.read(_PIECE), value)
    return value


def relative_path(file: str, folder: str) -> str:
    try:
        return os.path.relpath(file, folder)
    except ValueError:  # another drive of Windows
        return file


def where_they_are(files: np.ndarray, relative: np.ndarray, folder: str) -> np.ndarray:
    """Absolute paths of the frames' files: as they were, or else as seen from the index."""
    found = {}
    for file, path in set(zip(files.tolist(), relative.tolist())):
        beside = os.path.normpath(os.path.join(folder, path))
        found[file] = beside if not os.path.exists(file) and os.path.exists(beside) else file
    return np.array([found[file] for file in files.tolist()], np.str_)


def check_version(archive) -> None:
    if "version" in archive.files:
        version = int(archive["version"])
    elif {"frame_files", "embeddings", "fingerprint"} <= set(archive.files):
        version = 1
    else:
        raise ValueError(f"it holds {', '.join(archive.files) or 'nothing'}")
    if version != VERSION:
        raise ValueError(
            f"it is of version {version} of the format, and this program reads version {VERSION}"
        )


def check_arrays(arrays: dict[str, np.ndarray]) -> None:
    """Raise ``ValueError`` unless shapes and kinds are those of a :class:`Gallery`."""
    frames, people = (
        arrays[name].shape[0] if arrays[name].ndim else 0 for name in ("frame_files", "scores")
    )
    width = arrays["embeddings"].shape[1:2]
    shapes = {
        "source": ((), "U"),
        "fingerprint": ((), "U"),
        "settings": ((), "U"),
        "left_out": ((), "U"),
        "min_score": ((), "f"),
        "every": ((), "i"),
        "skipped": ((arrays["skipped"].size,), "U"),
        "frame_numbers": ((frames,), "i"),
        "frame_files": ((frames,), "U"),
        "frame_times": ((frames,), "f"),
        "frame_stamps": ((frames, 3), "i"),
        "relative_files": ((frames,), "U"),
        "frame_index": ((people,), "i"),
        "boxes": ((people, 4), "f"),
        "scores": ((people,), "f"),
        "embeddings": ((people, *(width or (0,))), "f"),
    }
    scene = arrays[SCENES[0]].shape[1:2] if SCENES[0] in arrays else ()
    # Three rows, or two of a filter that adds.
    fuser_rows = 2 if SCENES[1] in arrays and len(arrays[SCENES[1]]) == 2 else 3
    of_scenes = {SCENES[0]: ((frames, *scene), "f"), SCENES[1]: ((fuser_rows, *scene), "f")}
    shapes |= {name: expected for name, expected in of_scenes.items() if name in arrays}
    for name, (shape, kind) in shapes.items():
        found = arrays[name]
        if found.shape != shape or found.dtype.kind != kind:
            raise ValueError(
                f"{name} has shape {found.shape} and type {found.dtype}, expected {shape} and kind "
                f"{kind!r}"
            )
    places = arrays["frame_index"]
    if people and not 0 <= places.min() <= places.max() < frames:
        raise ValueError(f"frame_index must lie in 0..{frames - 1}")
