#!/usr/bin/env python3
"""Train starter weights: query-centric on weak boxes of strangers, then object-centric.

    python tools/make_starter.py --data coco=DIR --data mot15=DIR:3 --reid reid.yaml \\
        --video clip.mp4 --detector yolox.yaml

--data names a folder with annotations.json (person-search JSON, datasets/README.md) and images/;
with :3 each third image is taken. Identities are not used: a re-id model (--reid) gives each box's
target embedding, and a detector (--detector) finds the people of --video. What is finished is
skipped, what was interrupted goes on from its last checkpoint. Written to --output: data/,
pretrain/, finetune/, large/, mean.pth, the mean of the last two's weights in half precision, and
starter.pth, the same with its re-id projections fitted once more (docs/starter.md).
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import spnet_d2  # noqa: F401  (before PyTorch: see spnet_d2/process.py)

# isort: split
import numpy as np

from spnet_d2.cli.gpu_option import add_gpu_option, choose_gpus
from spnet_d2.data.video_reader import VideoReader
from spnet_d2.demo import lite0_weights
from spnet_d2.errors import UserError, exit_status
from spnet_d2.predictors.options import build_detector
from spnet_d2.search.two_stage import ReidModel
from spnet_d2.starter.pack import pack_weights
from spnet_d2.starter.projections import fit_projections
from spnet_d2.starter.recipe import train_part
from spnet_d2.starter.training_set import NAME, DistillationSet, Scene, annotated_scenes
from spnet_d2.utils.run_record import Record
from spnet_d2.utils.settings_option import add_settings_option
from spnet_d2.utils.text import make_output_safe

ROOT = Path(__file__).resolve().parents[1]
# Each starts with the weights of the one before: config below projects_configs/starter -> folder.
PARTS = {"pretrain_qc": "pretrain", "finetune_oc": "finetune", "finetune_oc_large": "large"}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    data = "an annotated data set; may be given several times, as may --video"
    option("--data", action="append", default=[], metavar="NAME=DIR[:EVERY]", help=data)
    option("--video", action="append", default=[], type=Path, help="footage without boxes")
    every = "take each N-th frame of --video (%(default)s)"
    option("--video-every", type=int, default=10, metavar="N", help=every)
    option("--reid", type=Path, required=True, metavar="YAML", help="the re-id model to learn from")
    option("--detector", metavar="YAML", help="finds the people of --video")
    copies = "recoloured copies of each image (%(default)s)"
    option("--copies", type=int, default=3, metavar="N", help=copies)
    sheets = "images of 24 people side by side (%(default)s)"
    option("--sheets", type=int, default=5000, metavar="N", help=sheets)
    output = "folder for the result (outputs/starter)"
    option("--output", type=Path, default=ROOT / "outputs" / "starter", help=output)
    add_gpu_option(parser)
    add_settings_option(parser, "settings of all trainings")
    args = parser.parse_args(argv)
    if not args.data and not args.video:
        parser.error("nothing to train on: give --data or --video")
    if args.video and args.detector is None:
        parser.error("--video needs --detector")
    if args.video_every < 1 or args.copies < 0 or args.sheets < 0:
        parser.error("--video-every must be 1 or more, --copies and --sheets 0 or more")
    args.num_gpus = choose_gpus(parser, args.num_gpus)
    return args


def make_data(args: argparse.Namespace, folder: Path) -> None:
    """The training set, unless it is there."""
    made_with, record = _made_with(args), Record(folder / "made_with.json")
    if (folder / "datasets.yaml").is_file():
        record.settle(made_with)
        return
    # All are opened first, so that a wrong path shows at once, not after hours.
    sets = [_scenes(text) for text in args.data]
    detector = build_detector(args.detector) if args.detector else None
    reid = ReidModel.from_yaml(args.reid)
    made = DistillationSet(folder, lambda image, boxes: reid.embed(image, boxes, "BGR"))
    for text, scenes in zip(args.data, sets):
        made.add(scenes, args.copies)
        print(f"{text}: {len(made.images)} images, {len(made.annotations)} boxes", flush=True)
    for path in args.video:
        made.add(_video_scenes(path, detector, args.video_every), args.copies)
    made.add_sheets(args.sheets)
    record.write(made_with)
    made.save()
    print(f"{len(made.images)} images, {len(made.annotations)} boxes in {folder}", flush=True)


def _made_with(args: argparse.Namespace) -> dict[str, Any]:
    """Options that the training set depends on."""
    names = ("data", "video", "video_every", "reid", "detector", "copies", "sheets")
    values = {f"--{name.replace('_', '-')}": getattr(args, name) for name in names}
    values["--video"] = [str(path) for path in args.video]
    return {**values, "--reid": str(args.reid)}


def _scenes(text: str) -> Iterator[Scene]:
    name, _, place = text.partition("=")
    folder, _, every = place.partition(":")
    file = Path(folder) / "annotations.json"
    if not name or not file.is_file() or not (every or "1").isdigit():
        raise UserError(f"--data {text}: expected NAME=DIR or NAME=DIR:EVERY, with {file}.")
    return annotated_scenes(file, file.parent / "images", int(every or 1))


def _video_scenes(path: Path, detector: Any, every: int) -> Iterator[Scene]:
    for frame in VideoReader(path).frames(lambda number: number % every == 0):
        boxes, _ = detector.detect(frame.image, "BGR")
        sizes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        yield Scene(f"{path.stem}_{frame.number:06d}", frame.image, sizes, np.zeros((0, 4)))


def run(args: argparse.Namespace) -> None:
    """All parts, those that are done excepted.

    Raises:
        UserError: data, a model or a setting that can't be used.
    """
    data = args.output / "data"
    make_data(args, data)
    imagenet = args.output / lite0_weights.DEFAULT_PATH.name
    if not imagenet.is_file():
        lite0_weights.write_lite0_weights(imagenet)
    opts = ["DATASETS.FILES", str(data / "datasets.yaml"), "DATASETS.TRAIN", f"('{NAME}',)"]
    opts += ["MODEL.SPNET.REID.TARGETS", str(data / "targets.npz")]
    opts += ["MODEL.SPNET.BACKBONE.PRETRAINED", str(imagenet), *args.opts]
    done: list[Path] = []
    for config, folder in PARTS.items():
        start = ["MODEL.WEIGHTS", str(done[-1])] if done else []
        part = [*opts, *start]
        done.append(train_part(f"starter/{config}", args.output / folder, part, args.num_gpus))
    mean, result = args.output / "mean.pth", args.output / "starter.pth"
    if not result.is_file() or result.stat().st_mtime < done[-1].stat().st_mtime:
        pack_weights(done[-1], mean, before=done[-2])
        fit_projections("starter/finetune_oc", mean, data, result, opts=args.opts)
    print(f"{result}: {result.stat().st_size / 1e6:.1f} MB")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    make_output_safe()
    args = parse_args(argv)
    return exit_status("make_starter", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
