#!/usr/bin/env python
"""Prepare CUHK-SYSU: official files to the person-search JSON, below ``<dataset-dir>/coco`` and
``<dataset-dir>/retrieval``. The official files stay as they are; running again writes the same."""

import argparse
import logging
import os
from pathlib import Path

from spnet_d2.data.formats import cuhk_sysu
from spnet_d2.data.formats.corpus import CorpusError


def main(arguments: list[str] | None = None) -> None:
    root = os.environ.get("DETECTRON2_DATASETS", "datasets")
    default = cuhk_sysu.Splits()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--dataset-dir",
        type=Path,
        default=Path(root) / "cuhk",
        help="folder with Image/, annotation/",
    )
    parser.add_argument(
        "--mini-components",
        type=int,
        default=default.mini_components,
        help="groups of four images in minitrain and in minival",
    )
    parser.add_argument(
        "--val-gallery-size",
        type=int,
        default=default.gallery_size,
        help="images per query of the val protocol",
    )
    parser.add_argument(
        "--protocols",
        nargs="+",
        choices=list(cuhk_sysu.PROTOCOLS),
        default=list(cuhk_sysu.PROTOCOLS),
        metavar="NAME",
        help="protocols to write; reading TestG4000.mat takes about 13 GB of memory, G100 0.4 GB",
    )
    args = parser.parse_args(arguments)
    for name, least in (("val_gallery_size", 1), ("mini_components", 1)):
        if getattr(args, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    splits = cuhk_sysu.Splits(
        mini_components=args.mini_components, gallery_size=args.val_gallery_size
    )
    try:
        written = cuhk_sysu.prepare(args.dataset_dir, splits, args.protocols)
    except (CorpusError, OSError) as error:
        parser.exit(1, f"prepare_cuhk_sysu: {error}\n")
    print(f"{len(written)} files written below {args.dataset_dir}")


if __name__ == "__main__":
    main()
