"""A job's config from a YAML file and the settings of a command line, or one clear error."""

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any

from detectron2.config import CfgNode, get_cfg
from yaml import YAMLError

from spnet_d2.config import add_spnet_config
from spnet_d2.errors import UserError


class ConfigError(UserError, ValueError):
    """A config file or a setting that can't be used; the message names it."""


def read_config(config_file: str | os.PathLike | None = None, opts: Sequence = ()) -> CfgNode:
    """
    The project's defaults, then a YAML file, then settings.

    Args:
        config_file: its ``_BASE_`` files come first; empty: none.
        opts: KEY VALUE after KEY VALUE.

    Raises:
        ConfigError: no such file, no YAML, an unknown key, or a value of another type.
    """
    cfg = get_cfg()
    add_spnet_config(cfg)
    if config_file:
        if not os.path.isfile(config_file):
            raise ConfigError(f"No config file at {os.path.abspath(config_file)}.")
        with _explained(cfg, f"Cannot use the config file {config_file}"):
            # Never unsafe YAML, which runs whatever code it contains.
            cfg.merge_from_file(os.fspath(config_file), allow_unsafe=False)
    merge_settings(cfg, opts)
    return cfg


def merge_settings(cfg: CfgNode, opts: Sequence) -> None:
    """
    Settings on top of a config.

    Args:
        cfg: changed in place.
        opts: KEY VALUE after KEY VALUE.

    Raises:
        ConfigError: as :func:`read_config`.
    """
    opts = list(opts)
    if len(opts) % 2:
        raise ConfigError(f"Settings are KEY VALUE pairs, found {len(opts)} words: {opts}.")
    with _explained(cfg, "Cannot use the settings"):
        cfg.merge_from_list(opts)


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
    except (AttributeError, TypeError) as error:
        expected = "expected sections with keys, as in projects_configs/"
        raise ConfigError(f"{what}: {expected} ({error}).") from error


def _similar(cfg: CfgNode, message: str) -> str:
    """Known keys like the unknown one of a message."""
    unknown = re.search(r"Non-existent (?:config )?key: ([\w.]+)", message)
    if not unknown:
        return ""
    names = difflib.get_close_matches(unknown[1], _keys(cfg), n=3)
    names = f"; similar ones: {', '.join(names)}" if names else ""
    return f"{names}. spnet_d2/config.py has every key of this project"


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name
