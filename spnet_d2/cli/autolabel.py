"""Label people in footage by a detector: boxes for pre-training, with nobody drawing any.

    python tools/autolabel.py frames/ --output datasets/street \\
        --detector projects_configs/two_stage/yolox_nano.yaml
    python tools/autolabel.py hall.mp4 street.mp4 --every 10 --tracklets --output datasets/mine \\
        --detector projects_configs/two_stage/yolox_nano.yaml \\
        --reid projects_configs/two_stage/osnet_x0_25_msmt17.yaml
    python tools/autolabel.py frames/ --output datasets/street \\
        --detector torchvision:fasterrcnn_mobilenet_v3_large_320_fpn

The detector is a network file with a small YAML (docs/two_stage.md), one of torchvision's COCO
detectors, or an SPNet (--config-file and --weights, or --exported). --output gets annotations.json,
preview.jpg, report.txt and datasets.yaml, which makes the set known to every tool (DATASETS.FILES).
The images of a single folder stay where they are; frames of videos, and images of several folders,
are put into --output/images.

Without --tracklets every box is a person of its own, which query-centric pre-training takes. With
it the boxes of neighbouring frames are linked, so that object-centric training has identities; a
re-id model (--reid) makes them better. When it is stopped, the same command goes on.
"""

import argparse
import logging
import re
from pathlib import Path

import spnet_d2  # noqa: F401  (before PyTorch: see spnet_d2/process.py)

# isort: split
from spnet_d2.cli.footage_options import add_footage_options
from spnet_d2.cli.number_option import cosine, fraction, not_negative
from spnet_d2.data.person_search_json import load_person_search_table
from spnet_d2.data.tracklets import LinkRules
from spnet_d2.errors import exit_status
from spnet_d2.predictors.options import add_predictor_options, build_predictor
from spnet_d2.search.autolabel import (
    Choices,
    compare_labels,
    describe_quality,
    find_people,
    write_labels,
)
from spnet_d2.utils.atomic_io import write_text
from spnet_d2.utils.text import make_output_safe


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_footage_options(parser)
    add("--name", help="name of the data set (default: the name of --output)")
    add(
        "--min-height",
        type=not_negative,
        default=0.0,
        metavar="PIXELS",
        help="leave out boxes smaller than this (%(default)g)",
    )
    add("--drop-empty", action="store_true", help="leave out frames in which nobody is found")
    add("--tracklets", action="store_true", help="link boxes of neighbouring frames")
    add(
        "--min-iou",
        type=fraction,
        default=LinkRules.min_iou,
        help="least IoU of boxes that are linked (%(default)s)",
    )
    add(
        "--min-similarity",
        type=cosine,
        default=LinkRules.min_similarity,
        help="least cosine similarity of boxes that are linked (%(default)s)",
    )
    add(
        "--max-gap",
        type=int,
        default=LinkRules.max_gap,
        metavar="N",
        help="a tracklet ends after N frames without its person (%(default)s)",
    )
    add(
        "--min-length",
        type=int,
        default=Choices.min_length,
        metavar="N",
        help="people of tracklets with fewer boxes are unknown (%(default)s)",
    )
    add("--truth", type=Path, metavar="JSON", help="labels of the same images, to compare with")
    add_predictor_options(parser, settings=False)
    args = parser.parse_args(argv)
    for option in ("every", "max_gap", "min_length"):
        if getattr(args, option) < 1:
            parser.error(f"--{option.replace('_', '-')} must be 1 or more")
    args.name = args.name or re.sub(r"\W+", "_", args.output.absolute().name)
    return args


def run(args: argparse.Namespace) -> None:
    """Find everyone, label and write.

    Raises:
        OSError, ValueError, ImportError: something given can't be used.
    """
    truth = load_person_search_table(args.truth) if args.truth else None
    predictor = build_predictor(args, needs_reid=False)
    galleries, names = find_people(
        predictor, args.sources, args.output, args.every, predictor.min_score
    )
    rules = LinkRules(args.min_iou, args.min_similarity, args.max_gap)
    choices = Choices(
        min_height=args.min_height,
        drop_empty=args.drop_empty,
        tracklets=rules if args.tracklets else None,
        min_length=args.min_length,
    )
    partition, report = write_labels(galleries, names, args.output, args.name, choices)
    if truth is not None:
        report += describe_quality(compare_labels(partition, truth))
        write_text(args.output / "report.txt", report)
    print(report, end="")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    make_output_safe()
    args = parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    return exit_status("autolabel", lambda: run(args))
