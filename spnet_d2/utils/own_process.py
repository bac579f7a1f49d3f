"""Trainings in processes of their own."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

_TRAIN = "from spnet_d2.cli.train_net import run; run()"


def train_command(config_file: str | Path) -> list[str]:
    """What trains a config file, or continues; options and KEY VALUE settings may follow."""
    return [sys.executable, "-c", _TRAIN, "--resume", "--config-file", str(config_file)]


def with_this_package(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which Python finds ``spnet_d2`` as this process did, installed or not."""
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([package, *filter(None, [environment.get("PYTHONPATH")])])
    return {**environment, "PYTHONPATH": path}
