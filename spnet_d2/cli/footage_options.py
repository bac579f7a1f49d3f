"""Options of tools that label footage."""

import argparse
from pathlib import Path


def add_footage_options(parser: argparse.ArgumentParser) -> None:
    """Where footage is, how much of it to take, and where the result goes."""
    add = parser.add_argument
    add("sources", nargs="+", metavar="FOLDER|VIDEO", help="footage, one camera each")
    add("--output", type=Path, required=True, help="folder for the result")
    add("--every", type=int, default=1, metavar="N", help="take each N-th frame (%(default)s)")
