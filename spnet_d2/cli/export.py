"""Export a trained SPNet as ONNX, to detect and search where there is no PyTorch.

    python tools/export.py --config-file outputs/demo/config.yaml \\
        --weights outputs/demo/model_final.pth --output outputs/demo_onnx

Written to --output: detector.onnx, embedder.onnx, model.json and, where the model has them, the
graphs of its cascade and of query-centric search (docs/export.md says what goes in and what comes
out). The folder takes the model's place in search, evaluation and code: --exported DIR. Settings
may follow at the end as KEY VALUE pairs; MODEL.SPNET.TEST_PATHWAY QC exports query-centric search.
"""

import argparse
import logging
from pathlib import Path

# First: says what is missing, where exported models alone run.
from spnet_d2 import add_spnet_config  # noqa: F401

# isort: split
from spnet_d2.config_files import find_config_file
from spnet_d2.config_reader import read_config
from spnet_d2.errors import exit_status
from spnet_d2.export.convert import check_packages, export_model
from spnet_d2.export.precision import PRECISIONS, to_float16
from spnet_d2.export.single_file import add_single_file
from spnet_d2.search import PersonSearchPredictor
from spnet_d2.utils.settings_option import add_settings_option
from spnet_d2.utils.text import make_output_safe


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", type=Path, required=True, help="the model's config")
    add("--weights", type=Path, help="its checkpoint (MODEL.WEIGHTS)")
    add("--output", type=Path, required=True, help="folder to write to")
    add(
        "--single-file",
        action="store_true",
        help="also search.onnx: images to boxes, scores and embeddings, NMS inside",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="number type of backbone, FPN and anchor convolution (%(default)s)",
    )
    add(
        "--device",
        choices=("cpu", "other"),
        default="cpu",
        help="what it runs on: large 3 x 3 convolutions are as CPUs do them fastest, or as the "
        "operator that TensorRT and the like know (%(default)s)",
    )
    add("--licence", default="", help="licence of the weights, for model.json")
    add_settings_option(parser)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """
    Export.

    Raises:
        OSError, ValueError, ImportError: something given can't be used.
    """
    check_packages()
    cfg = read_config(find_config_file(args.config_file), args.opts)
    cfg.MODEL.DEVICE = "cpu"
    # What is exported is in float32 before it is anything else.
    cfg.MODEL.SPNET.TEST.PRECISION = "float32"
    weights = str(args.weights) if args.weights else None
    predictor = PersonSearchPredictor(cfg, weights=weights, image_format="RGB")
    # Float16 is not for CPUs.
    for_cpus = args.device == "cpu" and args.precision == "float32"
    description = export_model(predictor, cfg, args.output, args.licence, for_cpus)
    if args.precision == "float16":
        description = to_float16(args.output)
    if args.single_file:
        description = add_single_file(args.output)
    for file in sorted(args.output.glob("*.onnx")):
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    print(
        f"{args.output}: {description.precision}, fingerprint {description.fingerprint}; use it by "
        f"--exported {args.output}"
    )


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    make_output_safe()
    args = parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("spnet_d2.export").setLevel(logging.INFO)
    return exit_status("export", lambda: run(args))
