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
from spnet_d2.data.image_reader import is_image_name, read_image
from spnet_d2.errors import UserError, exit_status
from spnet_d2.export.convert import check_packages, export_model
from spnet_d2.export.description import ExportedModelError
from spnet_d2.export.precision import PRECISIONS, to_float16, to_int8
from spnet_d2.export.single_file import add_single_file
from spnet_d2.search import PersonSearchPredictor
from spnet_d2.utils.text import make_output_safe


class ExportOptionsError(UserError, ValueError):
    """Options that don't fit together."""


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
        help="of trunk, FPN and anchor convolution (%(default)s)",
    )
    add(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="images that int8 is calibrated on: 20 to 100 of the scenes to be searched",
    )
    add("--licence", default="", help="of the weights, noted in model.json")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="settings")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """
    Export.

    Raises:
        OSError, ValueError, ImportError: something given can't be used.
    """
    if (args.precision == "int8") != bool(args.calibration):
        raise ExportOptionsError("--calibration DIR belongs to --precision int8, which needs it.")
    check_packages()
    frames = calibration_files(args.calibration) if args.calibration else []
    cfg = read_config(find_config_file(args.config_file), args.opts)
    cfg.MODEL.DEVICE = "cpu"
    # What is exported is in float32 before it is anything else.
    cfg.MODEL.SPNET.TEST.PRECISION = "float32"
    weights = str(args.weights) if args.weights else None
    predictor = PersonSearchPredictor(cfg, weights=weights, image_format="RGB")
    description = export_model(predictor, cfg, args.output, args.licence)
    if args.precision == "float16":
        description = to_float16(args.output)
    elif args.precision == "int8":
        description = to_int8(args.output, (read_image(file) for file in frames))
    if args.single_file:
        description = add_single_file(args.output)
    for file in sorted(args.output.glob("*.onnx")):
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    print(
        f"{args.output}: {description.precision}, fingerprint {description.fingerprint}; use it by "
        f"--exported {args.output}"
    )


def calibration_files(folder: Path) -> list[Path]:
    """The images of a folder, in order."""
    if not folder.is_dir():
        raise ExportedModelError(f"No folder of images for calibration at {folder.absolute()}.")
    files = sorted(file for file in folder.iterdir() if is_image_name(file.name))
    if not files:
        raise ExportedModelError(f"{folder} has no images for calibration.")
    return files


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    make_output_safe()
    args = parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("spnet_d2.export").setLevel(logging.INFO)
    return exit_status("export", lambda: run(args))
