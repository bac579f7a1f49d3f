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
import json
import sys
from pathlib import Path
from typing import Any

import spnet_d2  # noqa: F401  (before PyTorch: see spnet_d2/process.py)

# isort: split
from spnet_d2.adaptation.check import choose_floor, describe, measure
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
from spnet_d2.config_files import get_config_file
from spnet_d2.config_reader import read_config
from spnet_d2.errors import UserError, exit_status
from spnet_d2.predictors.options import add_two_stage_options
from spnet_d2.pretrained import pretrained_files
from spnet_d2.search import PersonSearchPredictor
from spnet_d2.search.two_stage import NetworkDetector, ReidModel
from spnet_d2.starter.pack import pack_weights
from spnet_d2.starter.recipe import train_part
from spnet_d2.utils.atomic_io import write_json, write_text
from spnet_d2.utils.text import make_output_safe

# Of the starter weights' boxes: lower ones often are no people (docs/starter.md).
_STARTER_SCORE = 0.7
WEIGHTS, CONFIG, REPORT = "adapted.pth", "config.yaml", "report.txt"


class OtherFootageError(UserError, ValueError):
    """An output folder with labels of other footage, or by other models."""


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_footage_options(parser)
    add_two_stage_options(parser)
    add("--min-score", type=float, help="least score of a label, instead of the detector's own")
    add("--pretrain-iterations", type=int, default=120, metavar="N", help="0: none (%(default)s)")
    add("--iterations", type=int, default=300, metavar="N", help="%(default)s")
    add("--num-gpus", type=int, help="0: on the CPU; default: 1 if there is one")
    add("--set", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="a setting")
    args = parser.parse_args(argv)
    if args.every < 1 or args.iterations < 1 or args.pretrain_iterations < 0:
        parser.error("--every and --iterations must be 1 or more, --pretrain-iterations 0 or more")
    if args.min_score is not None and not 0 <= args.min_score <= 1:
        parser.error(f"--min-score must lie between 0 and 1, found {args.min_score}")
    if args.num_gpus is None:
        args.num_gpus = _default_gpus()
    return args


def _default_gpus() -> int:
    # Not above: --help needs no PyTorch.
    import torch

    return min(1, torch.cuda.device_count())


def run(args: argparse.Namespace) -> None:
    """All parts, those that are done excepted.

    Raises:
        UserError: footage or a model that can't be used.
    """
    data = args.output / "data"
    fitting = _labelled(args, data)
    device = "cpu" if args.num_gpus == 0 else "cuda"
    common = ["DATASETS.FILES", str(data / FILES), "MODEL.DEVICE", device, *fitting]
    extra = [word for pair in args.set for word in pair]
    weights = _train(args, data, [*common, *extra])
    pack_weights(weights, args.output / WEIGHTS)
    _finish(args, [*common, *extra])


def _labelled(args: argparse.Namespace, data: Path) -> list[str]:
    """Label and write data sets, unless that is done; settings that fit the footage."""
    asked = _asked(args)
    done = data / "done.json"
    if done.is_file():
        found = json.loads(done.read_text(encoding="utf-8"))
        if found["asked"] != asked:
            raise OtherFootageError(
                f"{data} has labels of {found['asked']}, and now {asked} is asked for: choose "
                "another --output, or delete this one."
            )
        return found["settings"]
    config, weights = pretrained_files("starter")
    device = "cpu" if args.num_gpus == 0 else "cuda"
    starter = PersonSearchPredictor(
        read_config(config, ["MODEL.DEVICE", device]), weights=str(weights)
    )
    detector = NetworkDetector.from_yaml(args.detector, args.min_score) if args.detector else None
    reid = ReidModel.from_yaml(args.reid) if args.reid else None
    score = args.min_score
    if score is None:
        score = detector.min_score if detector else _STARTER_SCORE
    found = label_footage(args.sources, data, starter, detector, reid, args.every, score)
    print(found.report, end="")
    write_training_sets(found.partition, found.images, found.targets, data)
    settings = input_settings(found.partition)
    write_json(done, {"asked": asked, "settings": settings}, indent=1)
    return settings


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    """What the labels depend on."""
    return {
        "sources": [str(Path(source).absolute()) for source in args.sources],
        "every": args.every,
        "detector": args.detector and str(Path(args.detector).absolute()),
        "reid": args.reid and str(Path(args.reid).absolute()),
        "min_score": args.min_score,
    }


def _train(args: argparse.Namespace, data: Path, opts: list[str]) -> Path:
    """Both parts; the weights of the second."""
    weights = pretrained_files("starter")[1]
    if args.pretrain_iterations:
        part = [*opts, "MODEL.WEIGHTS", str(weights), "DATASETS.TRAIN", f"('{WEAK}',)"]
        part += _schedule(args.pretrain_iterations)
        weights = train_part("starter/adapt_qc", args.output / "pretrain", part, args.num_gpus)
    part = [*opts, "MODEL.WEIGHTS", str(weights), "DATASETS.TRAIN", f"('{TRAIN}',)"]
    part += ["MODEL.SPNET.REID.TARGETS", str(data / TARGETS)]
    part += _schedule(args.iterations)
    return train_part("starter/adapt_oc", args.output / "finetune", part, args.num_gpus)


def _schedule(iterations: int) -> list[str]:
    warmup = min(30, iterations // 5)
    return ["SOLVER.MAX_ITER", str(iterations), "SOLVER.WARMUP_ITERS", str(warmup)]


def _finish(args: argparse.Namespace, opts: list[str]) -> None:
    """Choose the least score, compare before and after, write config and report."""
    weights = args.output / WEIGHTS
    config = get_config_file("starter/adapt_oc")
    old_config, old_weights = pretrained_files("starter")
    figures = {}
    for name, file, trained in (("before", old_config, old_weights), ("after", config, weights)):
        cfg = read_config(file, opts)
        cfg.OUTPUT_DIR = str(args.output / "check" / name)
        figures[name] = measure(cfg, str(trained))
    cfg = read_config(config, opts)
    floor = choose_floor(cfg, str(weights))
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = round(floor.score, 3)
    cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = str(weights.absolute()), str(args.output)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    write_text(args.output / CONFIG, cfg.dump())
    text = describe(figures["before"], figures["after"], floor)
    text += f"use it: spnet-search --config-file {args.output / CONFIG} --weights {weights} ...\n"
    write_text(args.output / REPORT, text)
    print(text, end="")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    make_output_safe()
    args = parse_args(argv)
    return exit_status("adapt", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
