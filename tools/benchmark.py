#!/usr/bin/env python3
"""Where time goes: data, training steps and their parts, inference, search, evaluation.

    python tools/benchmark.py --task data
    python tools/benchmark.py --task train --images 2
    python tools/benchmark.py --task train --both-pathways \\
        --config-file projects_configs/profiles/pretrain_oc.yaml
    python tools/benchmark.py --task step                  # the trainer's whole step only
    python tools/benchmark.py --task inference --profile
    python tools/benchmark.py --task qc-search --queries 64
    python tools/benchmark.py --task models \\
        --config-file projects_configs/table1/prw_resnet50.yaml \\
        --beside projects_configs/seqnet/seqnext_prw_resnet50.yaml
    python tools/benchmark.py --task evaluate --cases prw     # options of benchmark_evaluation.py
    python tools/benchmark.py --task gallery --people 100000  # options of benchmark_gallery.py

Models have random weights and see noise. What is compared is repeated in turn, so that whatever
else the machine does meets all of it. The limit is what backbone and FPN alone take for the same
input (in training with their backward pass); a second one adds the convolution that embeds the
anchors. On a CPU, seconds are those of the process, all threads together; images per second are by
the clock. Settings follow at the end as KEY VALUE pairs. docs/performance.md has metrics.
"""

import argparse
import cProfile
import pstats
import statistics
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import spnet_d2  # noqa: F401  (before PyTorch: see spnet_d2/process.py)

# isort: split
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from spnet_d2.analysis import (
    PartClock,
    delivery,
    detecting,
    embedded_boxes,
    limit_works,
    loader_rate,
    measure,
    measured_config,
    measured_detector,
    numbers,
    operators_table,
    parts_table,
    report,
    side_by_side,
    synthetic_corpus,
    time_mapper,
    time_whole_steps,
    timed_parts,
    timed_step,
)
from spnet_d2.config_reader import ConfigError
from spnet_d2.data.synthetic import make_batch, noise_images
from spnet_d2.engine.optimizer import build_optimizer
from spnet_d2.engine.step import training_precision
from spnet_d2.modeling.config_problems import SEQUENTIAL
from spnet_d2.utils.atomic_io import write_json
from spnet_d2.utils.peak_memory import peak_memory
from spnet_d2.utils.settings_option import add_settings_option

TASKS = ("data", "train", "step", "inference", "qc-search", "models", "evaluate", "gallery")
# Tasks that are programs of their own.
_SCRIPTS = {"evaluate": "benchmark_evaluation.py", "gallery": "benchmark_gallery.py"}


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--config-file", default="", help="YAML; default: the package's defaults")
    parser.add_argument(
        "--beside",
        nargs="+",
        default=[],
        metavar="YAML",
        help="with --task models: further configs",
    )
    parser.add_argument(
        "--both-pathways", action="store_true", help="with --task train: time QC and OC"
    )
    parser.add_argument(
        "--images", type=int, help="images in a batch (default: the config's, or 1)"
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="size of the images (default: the config's crops, or 900 1500; with --task data "
        "1080 1920)",
    )
    parser.add_argument("--people", type=int, default=8, help="people in each image (%(default)s)")
    parser.add_argument(
        "--queries", type=int, default=16, help="queries for each image (%(default)s)"
    )
    parser.add_argument("--workers", type=int, default=2, help="loading processes (%(default)s)")
    parser.add_argument("--dataset", help="a registered data set (default: synthetic images)")
    parser.add_argument(
        "--repetitions", type=int, default=5, help="timed repetitions (%(default)s)"
    )
    parser.add_argument(
        "--warm-up", type=int, default=1, help="repetitions before them, not timed (%(default)s)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--profile",
        action="store_true",
        help="also time PyTorch's operators, or Python's functions",
    )
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    add_settings_option(parser)
    args = parser.parse_args(argv)
    for name in ("images", "people", "queries", "workers", "repetitions"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be 1 or more, found {value}")
    if bool(args.beside) != (args.task == "models"):
        parser.error("--beside names the other configs of --task models, which needs one or more")
    if args.size and min(args.size) < 1:
        parser.error(f"--size must be 1 1 or more, found {args.size[0]} {args.size[1]}")
    if args.warm_up < 0:
        parser.error(f"--warm-up must be 0 or more, found {args.warm_up}")
    return args


def bench_step(args: argparse.Namespace) -> dict:
    """The trainer's whole step."""
    cfg = measured_config(args.config_file, args.opts, args.device)
    images = args.images or cfg.SOLVER.IMS_PER_BATCH
    side = _side(args, cfg)
    timing = time_whole_steps(cfg, images, side, args.people, args.repetitions, args.warm_up)
    result = numbers(timing, images)
    result["peak_bytes"] = peak = peak_memory(torch.device(args.device))
    print(
        f"{cfg.MODEL.SPNET.PATHWAY} step of {images} x {side} x {side}, {_where(args)}: "
        f"{result['wall_seconds']:.3f} seconds by the clock, peak memory {peak / 2**30:.2f} GiB"
    )
    return result


def _side(args: argparse.Namespace, cfg: CfgNode) -> int:
    """Of training crops, pixels."""
    height, width = args.size or (cfg.INPUT.CROP_SIZE,) * 2
    if height != width:
        raise SystemExit(f"Training crops are square, found --size {height} {width}.")
    return height


def bench_train(args: argparse.Namespace) -> dict:
    """Training steps on one pathway, or on both with equally many anchors."""
    cfg = measured_config(args.config_file, args.opts, args.device)
    _only_spnet(args, cfg)
    images = args.images or cfg.SOLVER.IMS_PER_BATCH
    height = width = _side(args, cfg)
    options = cfg.MODEL.SPNET
    pathways = ["OC", "QC"] if args.both_pathways else [options.PATHWAY]
    if args.both_pathways:
        anchors = images * options.ANCHORS_PER_IMAGE
        options.QC.PAIRS_PER_BATCH = anchors // options.QC.ANCHORS_PER_PAIR
    device = torch.device(args.device)
    clock = PartClock(device)
    precision = training_precision(cfg)

    works, rois = {}, {}
    for pathway in pathways:
        options.PATHWAY = pathway
        torch.manual_seed(0)
        model = build_model(cfg).train()
        # Weights do not change, so that all repetitions have the same work to do.
        optimizer = build_optimizer(cfg, model)
        model.move_twin_with(optimizer)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        lut = getattr(model.roi_heads.reid_loss, "lut", None)
        batch = make_batch(images, height, args.people, 0 if lut is None else len(lut))
        rois[pathway] = embedded_boxes(model)
        if not works:
            works = limit_works(model, batch, precision)
        works[f"{pathway} step"] = partial(timed_step, model, optimizer, batch, clock, precision)
    timings = measure(works, clock, args.repetitions, args.warm_up)
    print(
        f"Training: {options.BACKBONE.NAME}, {images} x {height} x {width}, {args.people} people "
        f"per image, {_where(args)}"
    )
    for pathway in pathways:
        rois[pathway] = round(sum(rois[pathway]) / (args.warm_up + args.repetitions))
        print(f"RoIs embedded in a step, {pathway}: {rois[pathway]}")
    text, result = report(timings, images, device)
    print(f"\n{text}")
    result["rois"] = rois
    if args.both_pathways:
        result["qc_over_oc"] = ratio = timings["QC step"].over(timings["OC step"])
        print(
            f"\nQC step / OC step: {ratio:.3f}; anchors: {options.QC.PAIRS_PER_BATCH} pairs x "
            f"{options.QC.ANCHORS_PER_PAIR} / {images} images x {options.ANCHORS_PER_IMAGE}"
        )
    if args.profile:
        print(f"\n{operators_table(works, device)}")
    return result


def bench_detection(args: argparse.Namespace) -> dict:
    """Object-centric inference, or query-centric search for a number of people and for nobody."""
    pathway = "OC" if args.task == "inference" else "QC"
    cfg = measured_detector(args.config_file, args.opts, args.device, pathway, args.people)
    _only_spnet(args, cfg)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    height, width = args.size or (900, 1500)
    batch = noise_images(args.images or 1, height, width)
    rois, clock = embedded_boxes(model), PartClock(model.device)

    @torch.no_grad()
    def detect(queries: torch.Tensor | None = None) -> None:
        rois.clear()
        queried = {} if queries is None else {"queries": {"reid": queries, "loc": queries}}
        with timed_parts(model, clock):
            model([x | queried for x in batch])

    works = limit_works(model, batch, cfg.MODEL.SPNET.TEST.PRECISION)
    if pathway == "OC":
        works["OC inference"] = detect
    else:
        generator = torch.Generator().manual_seed(0)
        people = torch.randn(args.queries, cfg.MODEL.SPNET.EMBED_DIM, generator=generator)
        works["no query"] = lambda: detect(people[:0])
        works[queried := f"{args.queries} queries"] = lambda: detect(people)
    timings = measure(works, clock, args.repetitions, args.warm_up)
    name = cfg.MODEL.SPNET.BACKBONE.NAME
    print(f"{pathway} inference: {name}, {len(batch)} x {height} x {width}, {_where(args)}")
    print(f"RoIs embedded: {sum(rois)}")
    text, result = report(timings, len(batch), model.device)
    print(f"\n{text}")
    result["rois"] = sum(rois)
    if pathway == "QC":
        extra = [q - n for q, n in zip(timings[queried].busy, timings["no query"].busy)]
        result["pair"] = pair = statistics.median(extra) / (args.queries * len(batch))
        print(f"\nA (query, image) pair beside the image: {1e3 * pair:.2f} ms")
    if args.profile:
        print(f"\n{operators_table(works, model.device)}")
    return result


def bench_models(args: argparse.Namespace) -> dict:
    """Inference of several models side by side: SPNet, SeqNet or SeqNeXt."""
    height, width = args.size or (900, 1500)
    batch = noise_images(args.images or 1, height, width)
    works = {}
    for path in (args.config_file, *args.beside):
        cfg = measured_detector(path, args.opts, args.device, "OC", args.people)
        torch.manual_seed(0)
        works[path or "defaults"] = partial(_detect, detecting(cfg), batch)
    device = torch.device(args.device)
    timings = measure(works, PartClock(device), args.repetitions, args.warm_up)
    print(f"Inference: {len(batch)} x {height} x {width}, {_where(args)}")
    text, result = side_by_side(timings, len(batch), device)
    print(f"\n{text}")
    return result


@torch.no_grad()
def _detect(model: torch.nn.Module, batch: list[dict]) -> None:
    model(batch)


def bench_data(args: argparse.Namespace) -> dict:
    """Training images: read, augmented, and delivered by the loader."""
    cfg = measured_config(args.config_file, args.opts)
    size = tuple(args.size or (1080, 1920))
    corpus = nullcontext(args.dataset) if args.dataset else synthetic_corpus(size, 16, args.people)
    num_images = 10 * args.repetitions
    with corpus as name:
        cfg.DATASETS.TRAIN = (name,)
        timing = time_mapper(cfg, num_images, 2 * args.warm_up)
        rate = loader_rate(cfg, args.workers, num_images)
        if args.profile:
            with cProfile.Profile() as profiler:
                time_mapper(cfg, num_images, 0)
            pstats.Stats(profiler).sort_stats("tottime").print_stats(20)
    what = args.dataset or f"JPEG files of {size[0]} x {size[1]}"
    print(f"Data: {what}, {cfg.INPUT.AUG_TRAIN}, crops of {cfg.INPUT.CROP_SIZE}\n")
    print(parts_table("one image", timing))
    text, result = delivery(rate, args.workers, timing)
    print(f"\n{text}")
    return {"image": numbers(timing, 1), **result}


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--task")
    known, rest = first.parse_known_args(argv)
    if known.task in _SCRIPTS:
        if "--profile" in rest:
            raise SystemExit(
                f"benchmark: --task {known.task} has no --profile, as it times processes of their "
                "own. Profile one: python -m cProfile -s tottime tools/evaluate.py ..."
            )
        script = Path(__file__).with_name(_SCRIPTS[known.task])
        return subprocess.call([sys.executable, str(script), *rest])
    args = parse_args(argv)
    benches = {"train": bench_train, "step": bench_step, "data": bench_data, "models": bench_models}
    try:
        result = benches.get(args.task, bench_detection)(args)
    except ConfigError as error:
        raise SystemExit(f"benchmark: {error}") from error
    if args.output:
        write_json(args.output, result)
    return 0


def _only_spnet(args: argparse.Namespace, cfg: CfgNode) -> None:
    if cfg.MODEL.META_ARCHITECTURE in SEQUENTIAL:
        raise ConfigError(
            f"--task {args.task} times the parts of an SPNet, and takes no "
            f"{cfg.MODEL.META_ARCHITECTURE}: --task models times the whole."
        )


def _where(args: argparse.Namespace) -> str:
    if args.device == "cpu":
        return f"CPU, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"
    return f"{torch.cuda.get_device_name(args.device)}, PyTorch {torch.__version__}"


if __name__ == "__main__":
    sys.exit(main())
