#!/usr/bin/env python
"""Prepare COCOPersons: COCO 2017 instances to the person-search JSON, below ``<dataset-dir>/coco``.
With ``--crops PARTITION``: cut every person of a prepared partition out instead."""

import argparse
import logging
import os
from pathlib import Path

from spnet_d2.data.formats import cocopersons
from spnet_d2.data.formats.corpus import CorpusError
from spnet_d2.data.formats.person_crops import export_crops


def main(arguments: list[str] | None = None) -> None:
    root = os.environ.get("DETECTRON2_DATASETS", "datasets")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--dataset-dir",
        type=Path,
        default=Path(root) / "coco",
        help="folder with annotations/, train2017/, val2017/",
    )
    parser.add_argument(
        "--partition",
        choices=("persons", "all"),
        default="persons",
        help="all: every category and crowds, written to cocoa/",
    )
    parser.add_argument(
        "--no-noise",
        action="store_true",
        help="leave the partitions with missing and spurious labels out",
    )
    parser.add_argument(
        "--crops",
        metavar="PARTITION",
        help="write crops/PARTITION/person/*.png of a prepared partition, such as train or val",
    )
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if args.crops:
            corpus = cocopersons.open_corpus(args.dataset_dir)
            folder = "val2017" if args.crops == "val" else "train2017"
            count, failures = export_crops(corpus, args.crops, folder)
            print(f"{count} crops written below {args.dataset_dir}, {len(failures)} failed")
            return
        samples = cocopersons.Samples(noise=not args.no_noise)
        written = cocopersons.prepare(args.dataset_dir, samples, args.partition == "all")
    except (CorpusError, OSError) as error:
        parser.exit(1, f"prepare_cocopersons: {error}\n")
    print(f"{len(written)} files written below {args.dataset_dir}")


if __name__ == "__main__":
    main()
