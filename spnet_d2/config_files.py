"""Where the configs of ``projects_configs`` are: in a checkout, or in an installed package."""

import os
from pathlib import Path

_FOLDER = "projects_configs"
_PACKAGE = Path(__file__).resolve().parent


def project_root() -> Path:
    """The checkout that this package is part of, else the working folder."""
    return _PACKAGE.parent if (_PACKAGE.parent / _FOLDER).is_dir() else Path.cwd()


def config_folder() -> Path:
    """The folder of the project's configs; a wheel has it inside of the package."""
    inside = _PACKAGE / _FOLDER
    return inside if inside.is_dir() else _PACKAGE.parent / _FOLDER


def get_config_file(name: str) -> str:
    """
    Path of one of the project's configs, as ``detectron2.model_zoo.get_config_file`` for its own.

    Args:
        name: below ``projects_configs``, e.g. ``table5/prw_qc``; ``.yaml`` may be left out.

    Raises:
        FileNotFoundError: there is none of that name.
    """
    path = _packaged(name)
    if path is None:
        raise FileNotFoundError(f"No config {name!r} in {config_folder()}.")
    return str(path)


def find_config_file(file: str | os.PathLike) -> str:
    """``file`` itself if there is one, else the project's config of that name, if there is one."""
    if os.path.exists(file):
        return os.fspath(file)
    return str(_packaged(os.fspath(file)) or os.fspath(file))


def _packaged(name: str) -> Path | None:
    name = name.removeprefix(f"{_FOLDER}/")
    if os.path.isabs(name) or not name:
        return None
    candidates = [config_folder() / name, config_folder() / f"{name}.yaml"]
    return next((path for path in candidates if path.is_file()), None)
