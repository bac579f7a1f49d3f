#!/usr/bin/env python
"""Prepare PRW: official files to the person-search JSON, below ``<dataset-dir>/coco`` and
``<dataset-dir>/retrieval``. The official files stay as they are; running again writes the same."""

import argparse
import logging
import os
from pathlib import Path

from spnet_d2.data.formats import prw
from spnet_d2.data.formats.corpus import CorpusError


def main(arguments: list[str] | None = None) -> None:
    root = os.environ.get("DETECTRON2_DATASETS", "datasets")
    default = prw.Splits()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--dataset-dir",
        type=Path,
        default=Path(root) / "prw",
        help="folder with frames/, annotations/",
    )
    parser.add_argument(
        "--same-cam-own-frame",
        action="store_true",
        help="keep the query's own frame in its same_cam_id gallery, as the paper's code does",
    )
    parser.add_argument(
        "--ignored-people",
        type=int,
        default=default.ignored_people,
        help="most frequent people left out when frames are grouped for the val partition",
    )
    parser.add_argument(
        "--val-gallery-size",
        type=int,
        default=default.gallery_size,
        help="frames per query of the val protocol",
    )
    args = parser.parse_args(arguments)
    for name, least in (("val_gallery_size", 1), ("ignored_people", 0)):
        if getattr(args, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    splits = prw.Splits(ignored_people=args.ignored_people, gallery_size=args.val_gallery_size)
    try:
        written = prw.prepare(args.dataset_dir, splits, args.same_cam_own_frame)
    except (CorpusError, OSError) as error:
        parser.exit(1, f"prepare_prw: {error}\n")
    print(f"{len(written)} files written below {args.dataset_dir}")


if __name__ == "__main__":
    main()
