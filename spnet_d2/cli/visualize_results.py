"""Write an evaluation as one HTML file to look at; no model is run.

    python tools/visualize_results.py --annotations datasets/prw/coco/test.json \\
        --image-root datasets/prw/frames --protocol datasets/prw/retrieval/test.json \\
        --predictions predictions.npz --output report.html

Inputs are those of tools/evaluate.py, and the folder of the images. The report has a table of the
metrics, precision-recall, CMC and gallery-size curves, histograms of the similarities, and the
best, median and worst queries with what they found and missed. Images that cannot be read are
marked there and counted.
"""

import argparse
import logging
import sys
from pathlib import Path

from tqdm import tqdm

from spnet_d2.cli.scored_files import add_scored_files
from spnet_d2.data.person_search_json import ANNOTATIONS_HINT, load_person_search_json
from spnet_d2.errors import exit_status
from spnet_d2.evaluation import (
    ALL_PROTOCOL,
    VARIANTS,
    GroundTruth,
    Predictions,
    RetrievalProtocol,
    evaluate_predictions,
    format_table,
)
from spnet_d2.evaluation.prediction_checks import check_boxes, image_sizes
from spnet_d2.utils.text import make_output_safe
from spnet_d2.visualization import RankingRecorder, write_report


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_scored_files(parser)
    parser.add_argument(
        "--image-root", type=Path, required=True, help="folder that its file names are relative to"
    )
    parser.add_argument("--protocol", required=True, help=f'protocol JSON, or "{ALL_PROTOCOL}"')
    parser.add_argument(
        "--queries",
        type=int,
        default=5,
        metavar="N",
        help="best, median and worst queries shown, N of each at most (%(default)s)",
    )
    parser.add_argument("--output", type=Path, required=True, help="HTML file")
    args = parser.parse_args(argv)
    if args.queries < 0:
        parser.error(f"--queries must be 0 or more, found {args.queries}")
    return args


def run(args: argparse.Namespace) -> None:
    """Evaluate and write the report.

    Raises:
        OSError, ValueError: an input cannot be used.
    """
    # The quick checks first.
    predictions = Predictions.load(args.predictions)
    if not args.image_root.is_dir():
        raise FileNotFoundError(
            f"No folder {args.image_root.absolute()}: --image-root is the folder that the file "
            f"names in {args.annotations} are relative to."
        )
    records = load_person_search_json(args.annotations, args.image_root, ANNOTATIONS_HINT)
    truth = GroundTruth.from_dicts(records)
    check_boxes(predictions, truth, image_sizes(records), str(args.predictions))
    protocol = RetrievalProtocol.read(args.protocol, truth)
    variant = VARIANTS[args.protocol_variant]
    recorder = RankingRecorder(truth, protocol, variant)
    with tqdm(total=len(protocol.queries), desc="queries", disable=None, leave=False) as progress:

        def observe(ranking):
            recorder(ranking)
            progress.update()

        evaluation = evaluate_predictions(truth, [protocol], predictions, variant, None, observe)
    print(format_table(evaluation))
    missing = write_report(
        args.output,
        str(args.predictions),
        truth,
        protocol,
        evaluation,
        recorder,
        dict(enumerate(records)),  # ascending by id, as the numbers of the images are
        args.queries,
    )
    if missing:
        reason = next(iter(missing.values()))
        print(f"{len(missing)} images are marked as missing; first: {reason}", file=sys.stderr)
    print(f"report: {args.output}")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    make_output_safe()
    args = parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    return exit_status("visualize_results", lambda: run(args))
