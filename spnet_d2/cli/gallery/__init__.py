"""Galleries of cameras and archives: index footage, search it, look after it.

    spnet-gallery index --source yard=yard.mp4 --source gate=frames/ --gallery outputs/gallery
    spnet-gallery search --gallery outputs/gallery --query scene.jpg --box 412,180,64,170 \\
        --output outputs/found
    spnet-gallery info --gallery outputs/gallery

In a checkout also as tools/gallery.py. docs/gallery.md is the manual.
"""

import argparse
import logging
import sys
from collections.abc import Callable

import spnet_d2  # noqa: F401  (before PyTorch: see spnet_d2/process.py)

# isort: split
from spnet_d2.cli.box_option import join_box
from spnet_d2.errors import exit_status
from spnet_d2.utils.text import make_output_safe

from . import calibrate, index, manage, search, serve

Add = Callable[[argparse._SubParsersAction], None]
_COMMANDS: tuple[Add, ...] = (
    index.add,
    search.add,
    calibrate.add,
    serve.add,
    manage.add,
)


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit status: 0, 1 after an error of the user's, 130 after Ctrl-C."""
    make_output_safe()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    words = sys.argv[1:] if argv is None else argv
    # Commands may start themselves again, in more processes.
    args = make_parser().parse_args(join_box(words), argparse.Namespace(argv=words))
    return exit_status("spnet-gallery", lambda: args.run(args))


def make_parser() -> argparse.ArgumentParser:
    """Of all commands; what it parses has the command's function as ``run``."""
    parser = argparse.ArgumentParser(
        prog="spnet-gallery",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in _COMMANDS:
        add(commands)
    return parser
