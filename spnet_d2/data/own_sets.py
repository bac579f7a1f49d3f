"""A user's own data sets: a small YAML file that gives names to person-search JSONs.

::

    street_train:
      json: train.json
      images: ../street/frames
    street_test:
      json: test.json
      images: ../street/frames
      protocols:
        later: retrieval/later.json

Paths are relative to the YAML file; the first protocol is the default one. ``DATASETS.FILES`` lists
such files; every process of a job registers what is in them.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from spnet_d2.errors import UserError
from spnet_d2.utils.atomic_io import atomic_path

if TYPE_CHECKING:
    from detectron2.config import CfgNode

_KEYS = ("json", "images", "protocols")
_HELP = "datasets/README.md shows one."


class OwnSetsError(UserError, ValueError):
    """A file of data sets that can't be used; the message names it, and the set."""


@dataclass(frozen=True)
class OwnSet:
    """One data set: its JSON, the folder of its images, and protocols by name."""

    name: str
    json: Path
    images: Path
    protocols: dict[str, Path] = field(default_factory=dict)


# File of each set this process has registered.
_registered: dict[str, Path] = {}


def as_settings(opts: Sequence) -> list:
    """Settings of a command line, where ``DATASETS.FILES my.yaml`` needs no brackets."""
    opts = list(opts)
    for place in range(0, len(opts) - 1, 2):
        value = opts[place + 1]
        if opts[place] == "DATASETS.FILES" and isinstance(value, str) and value[:1] not in "([\"'":
            opts[place + 1] = (value,)
    return opts


def find_files(files: Iterable[str], config_file: str | os.PathLike | None = None) -> tuple:
    """Absolute paths: relative ones count from the working folder, else from the config file's."""
    beside = Path(config_file or ".").parent
    return tuple(
        os.path.abspath(file if os.path.exists(file) else _existing(beside / file) or file)
        for file in map(os.path.expanduser, files)
    )


def use_own_sets(cfg: "CfgNode", config_file: str | os.PathLike | None = None) -> None:
    """Register the data sets of ``cfg.DATASETS.FILES``, whose paths become absolute.

    Raises:
        OwnSetsError: as :func:`register_sets`.
    """
    # A config keeps its meaning in other folders.
    cfg.DATASETS.FILES = find_files(cfg.DATASETS.FILES, config_file)
    register_sets(cfg.DATASETS.FILES)


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None


def read_sets(file: str | os.PathLike) -> list[OwnSet]:
    """
    Read a file of data sets; nothing they name is opened.

    Raises:
        OwnSetsError: no such file, or not of this form.
    """
    file = Path(file)
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"No data sets at {file.absolute()} ({error.strerror}): DATASETS.FILES names it."
        raise OwnSetsError(message) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OwnSetsError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not content:
        raise OwnSetsError(
            f"{file}: expected names of data sets, each with json and images. {_HELP}"
        )
    return [_read_set(str(name), entry, file) for name, entry in content.items()]


def _read_set(name: str, entry: Any, file: Path) -> OwnSet:
    where = f"{file}: data set {name!r}"
    if not isinstance(entry, dict):
        raise OwnSetsError(f"{where} must have the keys json and images, found {entry!r}. {_HELP}")
    if unknown := set(entry) - set(_KEYS):
        found = ", ".join(map(str, sorted(unknown, key=str)))
        raise OwnSetsError(f"{where} has unknown keys: {found}; known are {', '.join(_KEYS)}.")
    for key in ("json", "images"):
        if not isinstance(entry.get(key), str):
            raise OwnSetsError(f"{where}: {key} must be a path, found {entry.get(key)!r}. {_HELP}")
    protocols = entry.get("protocols") or {}
    if not isinstance(protocols, dict) or not all(isinstance(v, str) for v in protocols.values()):
        raise OwnSetsError(f"{where}: protocols must be names with paths, found {protocols!r}.")
    folder = file.absolute().parent

    def path(text: str) -> Path:
        return Path(os.path.normpath(folder / Path(text).expanduser()))

    paths = {str(protocol): path(text) for protocol, text in protocols.items()}
    return OwnSet(name, path(entry["json"]), path(entry["images"]), paths)


def register_sets(files: Iterable[str | os.PathLike]) -> list[str]:
    """
    Register all sets of some files, and return their names.

    A file that isn't there is passed over: a trained model's config may outlive its data.
    :func:`check_sets` finds it where the data are needed.

    Raises:
        OwnSetsError: a file of another form, or a name that is taken.
    """
    # Not above: writing needs no catalogs, and they bring Detectron2.
    from spnet_d2.data.catalog import register_person_search, unregister

    names = []
    for file in map(Path, files):
        if not file.exists():
            continue
        for entry in read_sets(file):
            if _registered.get(entry.name) == file:
                # The file may have changed since.
                unregister(entry.name)
            try:
                register_person_search(
                    entry.name,
                    entry.json,
                    entry.images,
                    entry.protocols,
                    hint=f"It is the data set {entry.name!r} of {file}.",
                )
            except ValueError as error:
                taken = _registered.get(entry.name)
                by = f"by {taken}" if taken else "by this project or another package"
                raise OwnSetsError(
                    f"{file}: the name {entry.name!r} is taken {by}; choose another one."
                ) from error
            _registered[entry.name] = file
            names.append(entry.name)
    return names


def check_sets(files: Iterable[str | os.PathLike], used: Iterable[str]) -> None:
    """
    Look whether the data that will be used are there.

    Args:
        files: of data sets.
        used: names of the sets a job uses, others among them.

    Raises:
        OwnSetsError: a file is missing, or what it names; a protocol that can't be used.
    """
    from spnet_d2.data.person_search_json import load_protocol

    used = set(used)
    for file in files:
        for entry in read_sets(file):
            if entry.name not in used:
                continue
            where = f"{file}: data set {entry.name!r}"
            if not entry.json.is_file():
                raise OwnSetsError(f"{where}: no person-search JSON at {entry.json}.")
            if not entry.images.is_dir():
                raise OwnSetsError(f"{where}: no image folder at {entry.images}.")
            for name, path in entry.protocols.items():
                try:
                    load_protocol(path)
                except (OSError, ValueError) as error:
                    raise OwnSetsError(f"{where}: protocol {name!r}: {error}") from error


def write_sets(file: str | os.PathLike, sets: Iterable[OwnSet]) -> None:
    """
    Write sets to a file, in place of those of the same names; the others in it stay.

    What lies below the file's folder is named relative to it, other paths are absolute.

    Raises:
        OwnSetsError: the file is there, but of another form.
    """
    file = Path(file).absolute()
    known = {entry.name: entry for entry in (read_sets(file) if file.exists() else [])}
    known |= {entry.name: entry for entry in sets}
    content = {entry.name: _as_yaml(entry, file.parent) for entry in known.values()}
    with atomic_path(file) as part:
        part.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _as_yaml(entry: OwnSet, folder: Path) -> Mapping[str, Any]:
    def text(path: Path) -> str:
        path = Path(os.path.abspath(path))
        inside = path == folder or folder in path.parents
        return os.path.relpath(path, folder) if inside else str(path)

    content: dict[str, Any] = {"json": text(entry.json), "images": text(entry.images)}
    if entry.protocols:
        content["protocols"] = {name: text(path) for name, path in entry.protocols.items()}
    return content
