"""The option that says which gallery."""

import argparse
from pathlib import Path

from spnet_d2.gallery import GalleryError
from spnet_d2.gallery.address import gallery_folder


def add_gallery(parser: argparse.ArgumentParser, text: str | None = None) -> None:
    """``--gallery DIR``; ``text``: its help."""
    parser.add_argument("--gallery", type=_folder, required=True, metavar="DIR", help=text)


def _folder(text: str) -> Path:
    try:
        return gallery_folder(text)
    except GalleryError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
