"""A job's config from a YAML file and the settings of a command line, or one clear error."""

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, reduce
from typing import Any

from detectron2.config import CfgNode, get_cfg
from yaml import YAMLError

from spnet_d2.config import add_spnet_config
from spnet_d2.config_files import config_folder, find_config_file
from spnet_d2.config_node import RENAMED_KEYS, warn_of_renamed
from spnet_d2.data.own_sets import as_settings, use_own_sets
from spnet_d2.errors import UserError


class ConfigError(UserError, ValueError):
    """A config file or a setting that can't be used; the message names it."""


def read_config(config_file: str | os.PathLike | None = None, opts: Sequence = ()) -> CfgNode:
    """
    The project's defaults, then a YAML file, then settings.

    Data sets of ``DATASETS.FILES`` are registered: what reads a config knows their names.

    Args:
        config_file: a path, or a name below ``projects_configs`` such as ``table5/prw_qc``; its
            ``_BASE_`` files come first; empty: none.
        opts: KEY VALUE after KEY VALUE.

    Raises:
        ConfigError: no such file, no YAML, an unknown key, or a value of another type; data sets of
            ``DATASETS.FILES`` that can't be registered.
    """
    cfg = get_cfg()
    add_spnet_config(cfg)
    if config_file:
        config_file = find_config_file(config_file)
        if not os.path.isfile(config_file):
            raise ConfigError(
                f"No config file at {os.path.abspath(config_file)}, nor one of that name in "
                f"{config_folder()}."
            )
        with _explained(cfg, f"Cannot use the config file {config_file}"):
            # Never unsafe YAML, which runs whatever code it contains.
            cfg.merge_from_file(os.fspath(config_file), allow_unsafe=False)
    merge_settings(cfg, opts)
    with _explained(cfg, "Cannot use DATASETS.FILES"):
        use_own_sets(cfg, config_file)
    return cfg


def merge_settings(cfg: CfgNode, opts: Sequence) -> None:
    """
    Settings on top of a config.

    Args:
        cfg: changed in place.
        opts: KEY VALUE after KEY VALUE; a key may have its earlier name.

    Raises:
        ConfigError: as :func:`read_config`.
    """
    opts = list(opts)
    if len(opts) % 2:
        raise ConfigError(f"Settings are KEY VALUE pairs, found {len(opts)} words: {opts}.")
    warn_of_renamed([key for key in opts[0::2] if key in RENAMED_KEYS])
    opts[0::2] = [RENAMED_KEYS.get(key, key) for key in opts[0::2]]
    with _explained(cfg, "Cannot use the settings"):
        cfg.merge_from_list(as_settings(opts))


def get_value(cfg: CfgNode, key: str) -> Any:
    """The value of a key that is written with dots, as in settings."""
    return reduce(getattr, key.split("."), cfg)


@contextmanager
def _explained(cfg: CfgNode, what: str) -> Iterator[None]:
    try:
        yield
    # How yacs and PyYAML report unknown keys, values of another type, and files of another kind.
    except (AssertionError, KeyError, OSError, ValueError, YAMLError) as error:
        # A KeyError's text is in quotes.
        message = str(error.args[0] if isinstance(error, KeyError) else error)
        raise ConfigError(f"{what}: {message}{_similar(cfg, message)}") from error
    except RecursionError as error:
        raise ConfigError(f"{what}: its _BASE_ files name each other in a circle.") from error
    except (AttributeError, TypeError) as error:
        expected = "expected sections with keys, as in projects_configs/"
        raise ConfigError(f"{what}: {expected} ({error}).") from error
    # yacs takes None for a value of any type.
    if unset := [key for key in _keys(cfg) if get_value(cfg, key) is None and key in _needed()]:
        expected = type(_needed()[unset[0]]).__name__
        raise ConfigError(f"{what}: {', '.join(unset)} can't be None, expected {expected}.")


@cache
def _needed() -> dict[str, Any]:
    """Defaults of all keys that have one other than None."""
    cfg = get_cfg()
    add_spnet_config(cfg)
    values = {key: get_value(cfg, key) for key in _keys(cfg)}
    return {key: value for key, value in values.items() if value is not None}


def _similar(cfg: CfgNode, message: str) -> str:
    """Known keys like the unknown one of a message."""
    unknown = re.search(r"Non-existent (?:config )?key: ([\w.]+)", message)
    if not unknown:
        return ""
    close = difflib.get_close_matches(unknown[1], list(_keys(cfg)), n=3)
    names = f"; similar ones: {', '.join(close)}" if close else ""
    return f"{names}. spnet_d2/config.py has every key of this project"


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name
