#!/usr/bin/env python3
"""Convert annotations in another format to the person-search JSON.

    python datasets/convert.py --from mot MOT17/train datasets/street --protocol later --gap 2s
    python datasets/convert.py --from coco instances.json datasets/shop --person person
    python datasets/convert.py --from cvat task/annotations.xml datasets/hall --images hall.mp4

Formats: mot (MOTChallenge, DanceTrack, CVAT's MOT), coco, voc, yolo, crowdhuman, labelstudio (its
JSON), cvat (XML 1.1 for images or video). OUT gets annotations.json, train.json and test.json with
a split, retrieval/NAME.json with a protocol, preview.jpg, report.txt, and datasets.yaml, which
makes the sets known to every tool:

    tools/visualize_data.py --dataset street --output outputs/street \\
        DATASETS.FILES datasets/street/datasets.yaml

Look at preview.jpg, and at what the report says was left out. Images are copied with --copy only.
"""

import argparse
import importlib.util
import re
import sys
from pathlib import Path

if __name__ == "__main__":
    # No model is run, and PyTorch and Detectron2 take longer to start than most conversions: this
    # process uses the package's modules without running its __init__, which imports them.
    _spec = importlib.util.find_spec("spnet_d2")
    if _spec:
        sys.modules["spnet_d2"] = importlib.util.module_from_spec(_spec)
        # The one thing of it that helps here, too.
        from spnet_d2.process import prepare_process

        prepare_process()

from spnet_d2.data.formats.convert import (
    READERS,
    Choices,
    Source,
    build_partition,
    heldout,
    read_source,
)
from spnet_d2.data.formats.convert.crowdhuman import KINDS
from spnet_d2.data.formats.convert.output import Conversion, write_conversion
from spnet_d2.errors import is_users

PROTOCOLS = ("other_images", "other_cameras", "later")
# Options that only one format knows: destination and reader's argument.
FORMAT_OPTIONS = {
    "detections": ("mot", "detections"),
    "min_score": ("mot", "min_score"),
    "sequences": ("mot", "sequences"),
    "box": ("crowdhuman", "kind"),
    "first_pixel": ("voc", "first_pixel"),
}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--from", dest="format", choices=list(READERS), required=True, help="format of IN")
    add("source", type=Path, metavar="IN", help="folder or file")
    add("output", type=Path, metavar="OUT", help="folder for the result")
    add("--name", help="name of the data set (default: the name of OUT)")
    add("--images", type=Path, help="folder of the images (cvat: or the video)")
    add("--copy-images", action="store_true", help="copy the images used to OUT/images")
    add(
        "--skip-bad-images",
        action="store_true",
        help="leave out images that are missing, unreadable or of another size, and count them",
    )
    add("--person", nargs="+", default=[], metavar="CLASS", help="classes that are people")
    add(
        "--ignore-class",
        nargs="+",
        default=[],
        metavar="CLASS",
        help="classes that become ignore regions",
    )
    add(
        "--identity",
        default="track",
        metavar="WHAT",
        help="what tells people apart: track (default), label (each class is one person), none, or "
        "the name of an attribute",
    )
    add(
        "--shared-ids",
        action="store_true",
        help="the same track number in two sequences is the same person",
    )
    add("--step", type=int, default=1, metavar="N", help="keep every N-th frame of a sequence")
    add("--drop-empty", action="store_true", help="leave out images without a person")
    add(
        "--min-visibility",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="people less visible become ignore regions (mot, crowdhuman, coco)",
    )
    add(
        "--min-height",
        type=float,
        default=0.0,
        metavar="PIXELS",
        help="smaller people become ignore regions",
    )
    add("--test-share", type=int, metavar="PERCENT", help="hold out this share of the images")
    add("--test-sequences", nargs="+", metavar="NAME", help="hold out these sequences")
    add(
        "--protocol",
        choices=PROTOCOLS,
        help="who is searched where: every known box in all other images, in other cameras, or in "
        "images at least --gap away",
    )
    add("--gap", type=heldout.Gap.parse, metavar="N|Ns", help="frames, or seconds with an s")
    add("--sequences", nargs="+", metavar="NAME", help="mot: take these sequences only")
    add(
        "--detections",
        action="store_true",
        default=None,
        help="mot: read det.txt instead of gt.txt",
    )
    add("--min-score", type=float, help="mot: drop detections below this score")
    add("--box", choices=list(KINDS), help="crowdhuman: which box of a person (full)")
    add("--first-pixel", type=int, choices=(0, 1), help="voc: number of the first pixel")
    args = parser.parse_args(argv)
    _check(args, parser)
    return args


def _check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    for option, (format_, _) in FORMAT_OPTIONS.items():
        if getattr(args, option) is not None and args.format != format_:
            parser.error(f"--{option.replace('_', '-')} is of --from {format_} only")
    if args.step < 1:
        parser.error(f"--step must be at least 1, found {args.step}")
    if not 0 <= args.min_visibility <= 1:
        parser.error(f"--min-visibility must be 0 to 1, found {args.min_visibility}")
    if args.min_score is not None and not args.detections:
        parser.error("--min-score needs --detections: ground truth has no scores")
    if args.test_share is not None and args.test_sequences:
        parser.error("either --test-share or --test-sequences")
    if args.test_share is not None and not 1 <= args.test_share <= 99:
        parser.error(f"--test-share must be 1 to 99 percent, found {args.test_share}")
    if (args.protocol == "later") != (args.gap is not None):
        parser.error("--protocol later and --gap belong together")
    # Names of sets stand in command lines and file names.
    args.name = args.name or re.sub(r"\W+", "_", args.output.absolute().name)


def read(args: argparse.Namespace) -> Source:
    """Read IN by the reader of its format."""
    options = {
        argument: getattr(args, option)
        for option, (_, argument) in FORMAT_OPTIONS.items()
        if getattr(args, option) is not None
    }
    return read_source(args.format, args.source, args.images, args.skip_bad_images, **options)


def convert(args: argparse.Namespace) -> str:
    """
    Do everything and return the report.

    Raises:
        OSError, ValueError: something can't be used or written.
    """
    source = read(args)
    choices = Choices(
        persons=args.person,
        ignored=args.ignore_class,
        identity=args.identity,
        shared_ids=args.shared_ids,
        min_visibility=args.min_visibility,
        min_height=args.min_height,
        step=args.step,
        drop_empty=args.drop_empty,
    )
    whole, tally = build_partition(source, choices)
    partitions = {"annotations": whole}
    if args.test_sequences:
        partitions |= heldout.split_by_sequence(whole, args.test_sequences)
    elif args.test_share is not None:
        partitions |= heldout.split_by_share(whole, args.test_share)
    searched = partitions.get("test", whole)
    protocol = None
    if args.protocol == "later":
        protocol = heldout.later_or_elsewhere(searched, args.gap)
    elif args.protocol:
        protocol = getattr(heldout, args.protocol)(searched)
    info = {"description": f"converted from {args.format}: {args.source}"}
    conversion = Conversion(
        source, partitions, tally, args.protocol or "", protocol, args.copy_images, info
    )
    return write_conversion(conversion, args.output, args.name)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_args(argv)
    try:
        print(convert(args), end="")
    except Exception as error:
        if not is_users(error):
            raise
        print(f"convert: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
