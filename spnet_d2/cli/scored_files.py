"""Options of command lines that score predictions."""

import argparse
from pathlib import Path

from spnet_d2.evaluation import VARIANTS


def add_scored_files(parser: argparse.ArgumentParser) -> None:
    """A data set, predictions for it, and the rules they are scored by."""
    add = parser.add_argument
    add("--annotations", type=Path, required=True, help="person-search JSON")
    add("--predictions", type=Path, required=True, help=".npz file")
    add(
        "--protocol-variant",
        choices=list(VARIANTS),
        default="original",
        help="rules of published metrics, or without their known mistakes (%(default)s)",
    )
