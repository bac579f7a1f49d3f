#!/usr/bin/env python3
"""Train the starter weights: query-centric on weak boxes of strangers, then object-centric.

    make starter STARTER_ARGS="--set coco=DIR --set pennfudan=DIR --video clip.mp4"
    python tools/make_starter.py --set mot15=DIR:3 --reid reid.yaml --detector yolox.yaml

A set is a folder with annotations.json (person-search JSON, datasets/README.md) and images/; `:3`
takes each third image. Identities are not used: a re-id model (--reid) says whom each box looks
like, and a detector (--detector) finds the people of --video. What is finished is skipped, what was
interrupted goes on from its last checkpoint. Written to --output: data/, pretrain/, finetune/ and
starter.pth, the weights in half precision (docs/starter.md).
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import spnet_d2  # noqa: F401  (before PyTorch: see spnet_d2/process.py)

# isort: split
import numpy as np

from spnet_d2.data.video_reader import VideoReader
from spnet_d2.demo import lite0_weights
from spnet_d2.errors import UserError, errors_in_one_line
from spnet_d2.search.two_stage import NetworkDetector, ReidModel
from spnet_d2.starter.pack import pack_weights
from spnet_d2.starter.recipe import train_part
from spnet_d2.starter.training_set import NAME, DistillationSet, Scene, annotated_scenes

ROOT = Path(__file__).resolve().parents[1]


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("--set", action="append", default=[], dest="sets", metavar="NAME=DIR[:EVERY]")
    option("--video", action="append", default=[], type=Path, help="footage without boxes")
    option("--video-every", type=int, default=10, help="take each N-th frame (%(default)s)")
    option("--reid", type=Path, required=True, metavar="YAML", help="the re-id model to learn from")
    option("--detector", type=Path, metavar="YAML", help="finds the people of --video")
    option("--copies", type=int, default=3, help="recoloured, of each image (%(default)s)")
    option("--sheets", type=int, default=1600, help="of 24 people (%(default)s)")
    option("--output", type=Path, default=ROOT / "outputs" / "starter")
    option("--num-gpus", type=int, default=1, help="0: on the CPU (%(default)s)")
    option("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="for both trainings")
    args = parser.parse_args(argv)
    if not args.sets and not args.video:
        parser.error("nothing to train on: give --set or --video")
    if args.video and args.detector is None:
        parser.error("--video needs --detector")
    return args


def make_data(args: argparse.Namespace, folder: Path) -> None:
    """The training set, unless it is there."""
    if (folder / "datasets.yaml").is_file():
        return
    reid = ReidModel.from_yaml(args.reid)
    made = DistillationSet(folder, lambda image, boxes: reid.embed(image, boxes, "BGR"))
    for text in args.sets:
        made.add(_scenes(text), args.copies)
        print(f"{text}: {len(made.images)} images, {len(made.annotations)} boxes", flush=True)
    for path in args.video:
        detector = NetworkDetector.from_yaml(args.detector)
        made.add(_video_scenes(path, detector, args.video_every), args.copies)
    made.add_sheets(args.sheets)
    made.save()
    print(f"{len(made.images)} images, {len(made.annotations)} boxes in {folder}", flush=True)


def _scenes(text: str) -> Iterator[Scene]:
    name, _, place = text.partition("=")
    folder, _, every = place.partition(":")
    file = Path(folder) / "annotations.json"
    if not name or not file.is_file() or not (every or "1").isdigit():
        raise UserError(f"--set {text}: expected NAME=DIR or NAME=DIR:EVERY, with {file}.")
    return annotated_scenes(file, file.parent / "images", int(every or 1))


def _video_scenes(path: Path, detector: NetworkDetector, every: int) -> Iterator[Scene]:
    for frame in VideoReader(path).frames(lambda number: number % every == 0):
        boxes, _ = detector.detect(frame.image, "BGR")
        sizes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        yield Scene(f"{path.stem}_{frame.number:06d}", frame.image, sizes, np.zeros((0, 4)))


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with errors_in_one_line("make_starter"):
        make_data(args, args.output / "data")
        imagenet = args.output / lite0_weights.DEFAULT_PATH.name
        if not imagenet.is_file():
            lite0_weights.write_lite0_weights(imagenet)
        data = args.output / "data"
        opts = ["DATASETS.FILES", str(data / "datasets.yaml"), "DATASETS.TRAIN", f"('{NAME}',)"]
        opts += ["MODEL.SPNET.REID.TARGETS", str(data / "targets.npz")]
        opts += ["MODEL.SPNET.BACKBONE.PRETRAINED", str(imagenet), *args.opts]
        first = train_part("starter/pretrain_qc", args.output / "pretrain", opts, args.num_gpus)
        opts = [*opts, "MODEL.WEIGHTS", str(first)]
        last = train_part("starter/finetune_oc", args.output / "finetune", opts, args.num_gpus)
        size = pack_weights(last, args.output / "starter.pth")
        print(f"{args.output / 'starter.pth'}: {size:.1f} MB")


if __name__ == "__main__":
    main()
