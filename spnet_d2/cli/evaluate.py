"""Score any model's predictions by the protocols of person search; no model is run.

    python tools/evaluate.py --annotations datasets/prw/coco/test.json \\
        --protocol datasets/prw/retrieval/test.json --predictions predictions.npz --output DIR

--protocol takes files or "all" (every box searches all other images), several if wanted; the first
one gives the plain keys of metrics.json. predictions.npz holds image_ids (N,), boxes (N, 4) as
x1, y1, x2, y2 in pixels of the original image, scores (N,), embeddings (N, D), gt_annotation_ids
(M,) and gt_embeddings (M, D): at least the queries, and for the metrics with ground-truth boxes all
of them. Query-centric detections add query_annotation_ids (N,). Written to --output: metrics.json
and per_query.csv.
"""

import argparse
import logging
from pathlib import Path

from spnet_d2.cli.number_option import finite
from spnet_d2.cli.scored_files import add_scored_files
from spnet_d2.data.person_search_json import ANNOTATIONS_HINT, load_person_search_table
from spnet_d2.errors import exit_status
from spnet_d2.evaluation import (
    ALL_PROTOCOL,
    VARIANTS,
    Evaluation,
    ExtraMetrics,
    GroundTruth,
    KReciprocal,
    Predictions,
    RetrievalProtocol,
    evaluate_predictions,
    format_table,
    format_thresholds,
    write_metrics,
    write_per_query,
)
from spnet_d2.evaluation.prediction_checks import check_boxes, image_sizes
from spnet_d2.evaluation.protocols import protocol_name
from spnet_d2.utils.text import make_output_safe


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_scored_files(parser)
    parser.add_argument(
        "--protocol",
        action="extend",
        nargs="+",
        required=True,
        metavar="FILE",
        help=f'protocol JSON, or "{ALL_PROTOCOL}"',
    )
    parser.add_argument(
        "--cws", action="store_true", help="also rank by similarity times detection score"
    )
    parser.add_argument(
        "--cbgm",
        action="store_true",
        help="also rank with context bipartite graph matching (sum of cosines)",
    )
    parser.add_argument(
        "--seqnet-cbgm",
        action="store_true",
        help="the same as SeqNet released it (largest edge, weighted by detection scores)",
    )
    parser.add_argument(
        "--cbgm-sizes",
        type=int,
        nargs=2,
        metavar=("K1", "K2"),
        help="best boxes whose images are matched, people of the query's scene "
        "(10 3 for galleries listed per query, 30 4 for a shared one)",
    )
    parser.add_argument(
        "--gfn",
        action="store_true",
        help="also rank with the gallery filter's scores of scenes as a factor",
    )
    parser.add_argument(
        "--gfn-threshold",
        type=finite,
        metavar="SCORE",
        help="also rank without the scenes that score lower (people in them count as missed)",
    )
    parser.add_argument(
        "--rerank", action="store_true", help="also rank with k-reciprocal re-ranking"
    )
    parser.add_argument("--no-coco", action="store_true", help="leave out COCO's metrics")
    parser.add_argument("--output", type=Path, help="folder for metrics.json and per_query.csv")
    args = parser.parse_args(argv)
    names = [protocol_name(protocol) for protocol in args.protocol]
    if len(set(names)) < len(names):
        parser.error(f"protocols must differ in name, found {names}")
    return args


def run(args: argparse.Namespace) -> Evaluation:
    """Evaluate, print and write.

    Raises:
        FileNotFoundError, ValueError: an input cannot be used.
    """
    # The quick check of the predictions first.
    predictions = Predictions.load(args.predictions)
    table = load_person_search_table(args.annotations, ANNOTATIONS_HINT)
    truth = GroundTruth.from_table(table)
    check_boxes(predictions, truth, image_sizes(table.images), str(args.predictions))
    evaluation = evaluate_predictions(
        truth,
        [RetrievalProtocol.read(protocol, truth) for protocol in args.protocol],
        predictions,
        VARIANTS[args.protocol_variant],
        ExtraMetrics(
            cws=args.cws,
            cbgm=args.cbgm,
            seqnet_cbgm=args.seqnet_cbgm,
            gfn=args.gfn,
            gfn_threshold=args.gfn_threshold,
            cbgm_sizes=args.cbgm_sizes and tuple(args.cbgm_sizes),
            rerank=KReciprocal() if args.rerank else None,
            coco=not args.no_coco,
        ),
    )
    model = f" of model {predictions.made_by}" if predictions.made_by else ""
    print(f"{args.predictions}{model}, {args.protocol_variant} rules, percent")
    print(format_table(evaluation))
    print(format_thresholds(evaluation))
    if args.output:
        write_metrics(evaluation, args.output / "metrics.json")
        write_per_query(truth, evaluation, args.output / "per_query.csv")
        print(f"results: {args.output / 'metrics.json'}, {args.output / 'per_query.csv'}")
    return evaluation


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    make_output_safe()
    args = parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    return exit_status("evaluate", lambda: run(args))
