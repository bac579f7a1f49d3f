"""Write any predictor's predictions for annotated images; tools/evaluate.py scores them.

    python tools/predict.py --dataset pets09_test --output outputs/spnet.npz \\
        --config-file outputs/demo/config.yaml --weights outputs/demo/model_final.pth
    python tools/predict.py --dataset street_test --output outputs/baseline.npz \\
        --detector projects_configs/two_stage/yolox_nano.yaml \\
        --reid projects_configs/two_stage/osnet_x0_25_msmt17.yaml \\
        DATASETS.FILES datasets/street/datasets.yaml
    python tools/predict.py --annotations people.json --images frames/ \\
        --output outputs/exported.npz --exported outputs/demo_onnx

A two-stage predictor is a detector and a re-id model, each a network file with a small YAML
(docs/two_stage.md). Data sets of one's own come by DATASETS.FILES, or by --annotations and
--images, which take no Detectron2. A stopped run goes on from what was done when the same command
is given again.
"""

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import spnet_d2  # noqa: F401  (before PyTorch: see spnet_d2/process.py)

# isort: split
from spnet_d2.data.person_search_json import ANNOTATIONS_HINT, load_person_search_json
from spnet_d2.errors import UserError, exit_status
from spnet_d2.evaluation import ALL_PROTOCOL
from spnet_d2.evaluation.predict import predict_dataset
from spnet_d2.predictors.options import add_predictor_options, build_predictor
from spnet_d2.requirements_check import require_detectron2
from spnet_d2.utils.text import make_output_safe


class UnknownDataSetError(UserError, ValueError):
    """A data set that is not registered, or not for person search."""


@dataclass(frozen=True)
class Annotated:
    """
    Images with annotations.

    Attributes:
        dicts: an image each.
        annotations: the file.
        protocol: that its evaluation starts with.
    """

    dicts: list[dict[str, Any]]
    annotations: Path
    protocol: str


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--dataset",
        metavar="NAME",
        help="a registered data set; or give --annotations and --images",
    )
    add("--annotations", type=Path, metavar="JSON", help="person-search JSON")
    add("--images", type=Path, metavar="FOLDER", help="folder of its images")
    add("--output", type=Path, required=True, help=".npz file to write")
    add_predictor_options(parser)
    args = parser.parse_args(argv)
    if args.output.suffix != ".npz":
        parser.error(f"--output must end in .npz, found {args.output}")
    if bool(args.dataset) == bool(args.annotations):
        parser.error("give either --dataset NAME, or --annotations JSON and --images FOLDER")
    if bool(args.annotations) != bool(args.images):
        parser.error("--annotations and --images go together")
    return args


def run(args: argparse.Namespace) -> None:
    """Predict and write.

    Raises:
        OSError, ValueError, ImportError: something given can't be used.
    """
    found = _registered(args) if args.dataset else _of_file(args)
    predictor = build_predictor(args)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = args.output.with_suffix(".unfinished.npz")
    predictions = predict_dataset(predictor, found.dicts, predictor.min_score, unfinished)
    predictions.save(args.output)
    print(
        f"{args.output}: {len(predictions.scores)} people in {len(found.dicts)} images, "
        f"{len(predictions.gt_annotation_ids)} annotated boxes embedded, by model "
        f"{predictions.made_by}"
    )
    print(
        "score them with: python tools/evaluate.py --annotations "
        f"{found.annotations} --protocol {found.protocol} --predictions {args.output}"
    )


def _of_file(args: argparse.Namespace) -> Annotated:
    dicts = load_person_search_json(args.annotations, args.images, ANNOTATIONS_HINT)
    return Annotated(dicts, args.annotations, ALL_PROTOCOL)


def _registered(args: argparse.Namespace) -> Annotated:
    """A data set of Detectron2's catalogs, or of DATASETS.FILES among the settings."""
    require_detectron2()
    # Not above: exported models and two-stage predictors do without.
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from spnet_d2.config_reader import read_config
    from spnet_d2.data.catalog import EVALUATOR_TYPE

    # Which registers the user's own sets.
    read_config(args.config_file, args.opts)
    known = [
        name
        for name in MetadataCatalog.list()
        if MetadataCatalog.get(name).get("evaluator_type") == EVALUATOR_TYPE
    ]
    if args.dataset not in known:
        raise UnknownDataSetError(
            f"No person-search data set {args.dataset!r}; there are {', '.join(known)}. "
            "DATASETS.FILES brings sets of your own (datasets/README.md)."
        )
    metadata = MetadataCatalog.get(args.dataset)
    protocol = next(iter(metadata.protocols.values()), ALL_PROTOCOL)
    dicts = DatasetCatalog.get(args.dataset)
    return Annotated(dicts, Path(metadata.person_search_file), protocol)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    make_output_safe()
    args = parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    return exit_status("predict", lambda: run(args))
