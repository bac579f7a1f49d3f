"""Adapt the starter weights to footage of your own cameras; nobody has to label anything.

    python tools/adapt.py frames/ hall.mp4 --output outputs/hall \\
        --detector projects_configs/two_stage/yolox_nano.yaml \\
        --reid projects_configs/two_stage/person_reidentification_retail_0287.yaml

1. Everyone is found, by --detector or else by the starter weights, and boxes of neighbouring frames
   are linked. The last tenth of each source is held out.
2. Query-centric pre-training: where people are in these places.
3. Object-centric fine-tuning: what they look like, as --reid says, or else the starter weights'
   own mean over each tracklet.
4. The least score of a detection is chosen on what was held out, and before and after are compared.

Written to --output: adapted.pth and config.yaml for all other tools, report.txt, the labels in
data/ (preview.jpg shows some), and the parts' folders. When it is stopped, the same command goes
on. docs/adapt.md has more.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import spnet_d2  # noqa: F401  (before PyTorch: see spnet_d2/process.py)

# isort: split
from spnet_d2.adaptation.check import check, choose_floor, describe
from spnet_d2.adaptation.labels import label_footage
from spnet_d2.adaptation.settings import input_settings
from spnet_d2.adaptation.training_sets import (
    FILES,
    TARGETS,
    TRAIN,
    WEAK,
    write_training_sets,
)
from spnet_d2.cli.footage_options import add_footage_options
from spnet_d2.cli.gpu_option import add_gpu_option, choose_gpus
from spnet_d2.cli.number_option import fraction
from spnet_d2.config_checks import check_config
from spnet_d2.config_files import get_config_file
from spnet_d2.config_reader import read_config
from spnet_d2.errors import exit_status
from spnet_d2.predictors.options import add_two_stage_options, build_detector
from spnet_d2.pretrained import pretrained_files
from spnet_d2.search import PersonSearchPredictor
from spnet_d2.search.two_stage import ReidModel
from spnet_d2.starter.pack import pack_weights
from spnet_d2.starter.recipe import train_part
from spnet_d2.utils.atomic_io import write_text
from spnet_d2.utils.run_record import Record, differences
from spnet_d2.utils.text import make_output_safe

# Of the starter weights' boxes: lower ones often are no people (docs/starter.md).
_STARTER_SCORE = 0.7
WEIGHTS, CONFIG, REPORT = "adapted.pth", "config.yaml", "report.txt"
_QC, _OC = "starter/adapt_qc", "starter/adapt_oc"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_footage_options(parser)
    add_two_stage_options(parser)
    add("--min-score", type=fraction, help="least score of a label, instead of the detector's own")
    add(
        "--pretrain-iterations",
        type=int,
        default=120,
        metavar="N",
        help="length of query-centric pre-training, 0: none (%(default)s)",
    )
    add(
        "--iterations",
        type=int,
        default=300,
        metavar="N",
        help="length of object-centric fine-tuning (%(default)s)",
    )
    add_gpu_option(parser)
    add(
        "--set",
        nargs=2,
        action="append",
        default=[],
        metavar=("KEY", "VALUE"),
        help="a setting of both trainings; may be given several times",
    )
    args = parser.parse_args(argv)
    if args.every < 1 or args.iterations < 1 or args.pretrain_iterations < 0:
        parser.error("--every and --iterations must be 1 or more, --pretrain-iterations 0 or more")
    args.num_gpus = choose_gpus(parser, args.num_gpus)
    return args


def run(args: argparse.Namespace) -> None:
    """All parts, those that are done excepted.

    Raises:
        UserError: footage, a model or a setting that can't be used.
    """
    # Settings are checked first, so that a wrong one shows at once, not after the labels.
    for config, _, opts in _trainings(args, []):
        check_config(read_config(get_config_file(config), opts), processes=max(1, args.num_gpus))
    fitting = _labelled(args)
    weights = pretrained_files("starter")[1]
    for config, output, opts in _trainings(args, fitting):
        start = ["MODEL.WEIGHTS", str(weights)]
        weights = train_part(config, output, [*start, *opts], args.num_gpus)
    pack_weights(weights, args.output / WEIGHTS)
    _finish(args, _common(args, fitting))


def _labelled(args: argparse.Namespace) -> list[str]:
    """Label and write data sets, unless that is done; settings that fit the footage."""
    data = args.output / "data"
    made_with, done = _made_with(args), Record(data / "done.json")
    if found := done.read():
        if changes := differences(found["made_with"], made_with):
            done.refuse(changes)
        settings: list[str] = found["settings"]
        return settings
    config, weights = pretrained_files("starter")
    detector = build_detector(args.detector, args.min_score) if args.detector else None
    reid = ReidModel.from_yaml(args.reid) if args.reid else None
    starter = PersonSearchPredictor(
        read_config(config, ["MODEL.DEVICE", _device(args)]), weights=str(weights)
    )
    score = args.min_score
    if score is None:
        score = detector.min_score if detector else _STARTER_SCORE
    labels = label_footage(args.sources, data, starter, detector, reid, args.every, score)
    print(labels.report, end="")
    write_training_sets(labels.partition, labels.images, labels.targets, data)
    settings = input_settings(labels.partition)
    done.write({"made_with": made_with, "settings": settings})
    return settings


def _made_with(args: argparse.Namespace) -> dict[str, Any]:
    """Options that the labels depend on."""
    detector = args.detector
    if detector and Path(detector).exists():
        detector = str(Path(detector).absolute())
    return {
        "footage": [str(Path(source).absolute()) for source in args.sources],
        "--every": args.every,
        "--detector": detector,
        "--reid": args.reid and str(args.reid.absolute()),
        "--min-score": args.min_score,
    }


def _device(args: argparse.Namespace) -> str:
    return "cuda" if args.num_gpus else "cpu"


def _common(args: argparse.Namespace, fitting: list[str]) -> list[str]:
    """Settings of all parts, those of the command line last."""
    files = str(args.output / "data" / FILES)
    extra = [word for pair in args.set for word in pair]
    return ["DATASETS.FILES", files, "MODEL.DEVICE", _device(args), *fitting, *extra]


def _trainings(args: argparse.Namespace, fitting: list[str]) -> list[tuple[str, Path, list[str]]]:
    """Config, output folder and settings of each training."""
    targets = str(args.output / "data" / TARGETS)
    pretrain = ["DATASETS.TRAIN", f"('{WEAK}',)", *_schedule(args.pretrain_iterations)]
    finetune = ["DATASETS.TRAIN", f"('{TRAIN}',)", "MODEL.SPNET.REID.TARGETS", targets]
    finetune += _schedule(args.iterations)
    common = _common(args, fitting)
    parts = [
        (_QC, args.output / "pretrain", [*pretrain, *common]),
        (_OC, args.output / "finetune", [*finetune, *common]),
    ]
    return parts if args.pretrain_iterations else parts[1:]


def _schedule(iterations: int) -> list[str]:
    warmup = min(30, iterations // 5)
    return ["SOLVER.MAX_ITER", str(iterations), "SOLVER.WARMUP_ITERS", str(warmup)]


def _finish(args: argparse.Namespace, opts: list[str]) -> None:
    """Choose the least score, compare before and after, write config and report."""
    weights, config = args.output / WEIGHTS, args.output / CONFIG
    cfg = read_config(get_config_file(_OC), opts)
    found = {}
    old_config, old_weights = pretrained_files("starter")
    old_cfg = read_config(old_config, opts)
    for name, tested, trained in (("before", old_cfg, old_weights), ("after", cfg, weights)):
        tested.OUTPUT_DIR = str(args.output / "check" / name)
        found[name] = check(tested, str(trained))
    floor = choose_floor(found["after"].predictions)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = round(floor.score, 3)
    cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = str(weights.absolute()), str(args.output)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    write_text(config, cfg.dump())
    text = describe(found["before"].metrics, found["after"].metrics, floor)
    text += f"use it: spnet-search --config-file {config} --weights {weights} ...\n"
    write_text(args.output / REPORT, text)
    print(text, end="")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    make_output_safe()
    args = parse_args(argv)
    return exit_status("adapt", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
