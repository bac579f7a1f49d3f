#!/usr/bin/env python
"""Prepare CUHK-SYSU: official files to the person-search JSON, below ``<dataset-dir>/coco`` and
``<dataset-dir>/retrieval``. The official files stay as they are; running again writes the same."""

import argparse
import contextlib
import logging
import os
from pathlib import Path

from spnet_d2.data.formats import cuhk_sysu
from spnet_d2.data.formats.corpus import CorpusError


def free_memory() -> float:
    """Bytes that this process may still take, infinite where the system doesn't say."""
    found = [float("inf")]
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        found.append(1024 * int(text.split("MemAvailable:")[1].split()[0]))
    # A container's limit.
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):
        used = int((group / "memory.current").read_text())
        found.append(int((group / "memory.max").read_text()) - used)
    return min(found)


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
        default=argparse.SUPPRESS,
        metavar="NAME",
        help="protocols to write; reading G4000 takes about 13 GB of memory, G2000 6.4 GB, G1000 "
        "3.2 GB, G500 1.6 GB, the others less (default: those that fit into the free memory)",
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
        protocols = getattr(args, "protocols", None)
        if protocols is None:
            protocols = cuhk_sysu.affordable(args.dataset_dir, free_memory())
        written = cuhk_sysu.prepare(args.dataset_dir, splits, protocols)
    except (CorpusError, OSError) as error:
        parser.exit(1, f"prepare_cuhk_sysu: {error}\n")
    print(f"{len(written)} files written below {args.dataset_dir}")


if __name__ == "__main__":
    main()
