"""What a run was made with: it is never continued, or taken for finished, with other settings."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spnet_d2.utils.atomic_io import write_json


@dataclass(frozen=True)
class Record:
    """A JSON file in a run's folder, which says what the run was made with."""

    file: Path

    def read(self) -> dict[str, Any] | None:
        """
        Its content; None where the run was never started.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            return json.loads(self.file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(f"{self.file} can't be read; remove it ({error}).") from error

    def write(self, content: dict[str, Any]) -> None:
        write_json(self.file, content, indent=1, allow_nan=True)

    def settle(self, settings: Mapping[str, Any]) -> None:
        """
        Remember what a run is made with, or check that it still is the same.

        Args:
            settings: plain values by name.

        Raises:
            ValueError: the run was made with other settings.
        """
        then = self.read()
        if then is None:
            self.write(dict(settings))
        elif changes := differences(then, settings):
            self.refuse(changes)

    def refuse(self, changes: str) -> None:
        """
        Stop rather than continue a run of other settings.

        Raises:
            ValueError: always; it names the folder and the changes.
        """
        raise ValueError(
            f"{self.file.parent} was made with other settings ({changes}). Choose another "
            "--output, repeat the old settings, or remove that folder."
        )


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Names of settings that differ with both values, the first five; "" if none does."""
    other = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    return ", ".join(f"{key} {_shown(then, key)} -> {_shown(now, key)}" for key in other[:5])


def _shown(settings: Mapping[str, Any], key: str) -> str:
    value = settings.get(key)
    return "unset" if value is None else str(value)
