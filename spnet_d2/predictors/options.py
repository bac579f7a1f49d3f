"""
Command-line options that choose a predictor: an SPNet, as it was trained or exported, or a detector
with a re-id model.
"""

import argparse
from pathlib import Path

from spnet_d2.config_files import find_config_file
from spnet_d2.errors import UserError
from spnet_d2.export.graph_files import RUNTIMES
from spnet_d2.export.predictor import OnnxPredictor
from spnet_d2.search.two_stage import NetworkDetector, ReidModel, TwoStagePredictor
from spnet_d2.utils.settings_option import add_settings_option

TORCHVISION = "torchvision:"


class PredictorChoiceError(UserError, ValueError):
    """Options that name no predictor, or two."""


def add_predictor_options(parser: argparse.ArgumentParser, settings: bool = True) -> None:
    """
    Options and, at the end, KEY VALUE settings.

    Args:
        parser: of the tool.
        settings: False for tools whose sources come first: argparse can't tell them apart.
    """
    add = parser.add_argument
    add("--config-file", type=Path, help="an SPNet's config")
    add("--weights", type=Path, help="the SPNet's checkpoint (MODEL.WEIGHTS)")
    add_exported_options(parser)
    add_two_stage_options(parser)
    add("--min-score", type=float, help="least detection score, instead of the model's own")
    parser.set_defaults(opts=[])
    if settings:
        add_settings_option(parser)


def add_two_stage_options(parser: argparse.ArgumentParser) -> None:
    """Those of a detector with a re-id model."""
    add = parser.add_argument
    add(
        "--detector",
        metavar="YAML",
        help="a detector in an ONNX or OpenVINO file (docs/two_stage.md), or torchvision:NAME, "
        "one of torchvision's COCO detectors",
    )
    add(
        "--reid",
        type=Path,
        metavar="YAML",
        help="a re-id model in an ONNX or OpenVINO file, for --detector's boxes",
    )


def add_exported_options(parser: argparse.ArgumentParser) -> None:
    """Those of a model in a folder of ``tools/export.py``."""
    add = parser.add_argument
    add(
        "--exported",
        type=Path,
        metavar="DIR",
        help="instead, the folder of a model exported by tools/export.py",
    )
    add(
        "--runtime",
        choices=RUNTIMES,
        default=RUNTIMES[0],
        help="what --exported runs in (%(default)s)",
    )


def build_predictor(args: argparse.Namespace, needs_reid: bool = True):
    """
    The predictor that the options name. Only an SPNet as it was trained takes PyTorch, Detectron2
    and a config.

    Args:
        args: with the options of :func:`add_predictor_options`.
        needs_reid: a detector alone is not enough.

    Returns:
        Anything with the interface of ``PersonSearchPredictor``; what it finds has its
        ``min_score`` at least.

    Raises:
        UserError: the options don't fit together, or something they name can't be used.
    """
    if args.min_score is not None and not 0 <= args.min_score <= 1:
        raise PredictorChoiceError(f"--min-score must lie between 0 and 1, found {args.min_score}.")
    if args.exported:
        return _build_exported(args)
    if args.detector is None:
        return _build_spnet(args)
    if args.config_file or args.weights:
        raise PredictorChoiceError("Give either --detector, or an SPNet by --config-file.")
    if needs_reid and args.reid is None:
        raise PredictorChoiceError("--detector needs --reid, the YAML file of a re-id model.")
    reid = ReidModel.from_yaml(args.reid) if args.reid else None
    return TwoStagePredictor(build_detector(args.detector, args.min_score), reid)


def build_detector(name: str, min_score: float | None = None):
    """
    What ``--detector`` names.

    Args:
        name: a YAML file, or ``torchvision:NAME``.
        min_score: of a detection, instead of the detector's own.

    Raises:
        UserError: the file, or what it names, can't be used.
    """
    if not name.startswith(TORCHVISION):
        return NetworkDetector.from_yaml(name, min_score)
    # Not above: it brings PyTorch.
    from spnet_d2.search.torchvision_detector import TorchvisionDetector

    return TorchvisionDetector.load(name.removeprefix(TORCHVISION), min_score)


def _build_exported(args: argparse.Namespace) -> OnnxPredictor:
    # Settings at the end may be those of data sets.
    given = [n for n in ("config_file", "weights", "detector", "reid") if getattr(args, n)]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise PredictorChoiceError(
            f"--exported is a model with all of its settings; leave out {options}."
        )
    return OnnxPredictor(args.exported, args.runtime, args.min_score)


def _build_spnet(args: argparse.Namespace):
    if args.config_file is None:
        raise PredictorChoiceError(
            "No predictor: give --config-file and --weights of an SPNet, --exported DIR "
            "(docs/export.md), or --detector YAML and --reid YAML (docs/two_stage.md)."
        )
    if args.reid:
        raise PredictorChoiceError("--reid belongs to --detector; an SPNet embeds people itself.")
    config_file = Path(find_config_file(args.config_file))
    if not config_file.is_file():
        raise PredictorChoiceError(
            f"No config file at {config_file.absolute()}; give --config-file. A training run "
            "writes config.yaml into its output folder."
        )
    # Not above: they bring PyTorch and Detectron2.
    from spnet_d2.config_reader import read_config
    from spnet_d2.search.predictor import PersonSearchPredictor

    cfg = read_config(config_file, args.opts)
    if args.min_score is not None:
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = args.min_score
    weights = str(args.weights) if args.weights else None
    # An option of few tools.
    untrained = getattr(args, "allow_untrained", False)
    return PersonSearchPredictor(cfg, weights=weights, allow_untrained=untrained)
