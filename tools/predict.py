#!/usr/bin/env python3
"""Write any predictor's predictions for a registered data set; tools/evaluate.py scores them.

    python tools/predict.py --dataset pets09_test --output outputs/spnet.npz \\
        --config-file outputs/demo/config.yaml --weights outputs/demo/model_final.pth
    python tools/predict.py --dataset street_test --output outputs/baseline.npz \\
        --detector projects_configs/two_stage/yolox_nano.yaml \\
        --reid projects_configs/two_stage/osnet_x0_25_msmt17.yaml \\
        DATASETS.FILES datasets/street/datasets.yaml

A two-stage predictor is a detector and a re-id model, each a network file with a small YAML
(docs/two_stage.md). Data sets of one's own come by DATASETS.FILES. A stopped run goes on from what
was done when the same command is given again.
"""

import argparse
import logging
import sys
from pathlib import Path

import spnet_d2  # noqa: F401  (before PyTorch: see spnet_d2/process.py)

# isort: split
from detectron2.data import DatasetCatalog, MetadataCatalog

from spnet_d2.config_reader import read_config
from spnet_d2.data.catalog import EVALUATOR_TYPE
from spnet_d2.errors import UserError, exit_status
from spnet_d2.evaluation.predict import predict_dataset
from spnet_d2.search.choose import add_predictor_options, build_predictor, least_score
from spnet_d2.utils.text import make_output_safe


class UnknownDataSetError(UserError, ValueError):
    """A data set that is not registered, or not for person search."""


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, metavar="NAME", help="a registered data set")
    parser.add_argument("--output", type=Path, required=True, help=".npz file to write")
    add_predictor_options(parser)
    args = parser.parse_args(argv)
    if args.output.suffix != ".npz":
        parser.error(f"--output must end in .npz, found {args.output}")
    return args


def run(args: argparse.Namespace) -> None:
    """Predict and write.

    Raises:
        OSError, ValueError, ImportError: something given can't be used.
    """
    cfg = read_config(args.config_file, args.opts)
    metadata = _metadata(args.dataset)
    dicts = DatasetCatalog.get(args.dataset)
    predictor = build_predictor(args, cfg)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = args.output.with_suffix(".unfinished.npz")
    min_score = least_score(args, cfg, predictor)
    predictions = predict_dataset(predictor, dicts, min_score, unfinished)
    predictions.save(args.output)
    print(
        f"{args.output}: {len(predictions.scores)} people in {len(dicts)} images, "
        f"{len(predictions.gt_annotation_ids)} annotated boxes embedded, by model "
        f"{predictions.made_by}"
    )
    protocols = list(metadata.protocols.values()) or ["all"]
    print(
        "score them with: python tools/evaluate.py --annotations "
        f"{metadata.person_search_file} --protocol {protocols[0]} --predictions {args.output}"
    )


def _metadata(name: str):
    known = [n for n in MetadataCatalog.list() if _is_person_search(n)]
    if name not in known:
        raise UnknownDataSetError(
            f"No person-search data set {name!r}; there are {', '.join(known)}. DATASETS.FILES "
            "brings sets of your own (datasets/README.md)."
        )
    return MetadataCatalog.get(name)


def _is_person_search(name: str) -> bool:
    return MetadataCatalog.get(name).get("evaluator_type") == EVALUATOR_TYPE


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    make_output_safe()
    args = parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    return exit_status("predict", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
