#!/usr/bin/env python3
"""What a model costs: parameters and operations by part, and the memory of a training step.

    python tools/analyze_model.py --config-file projects_configs/NAME.yaml --size 900 1500
    python tools/analyze_model.py --config-file projects_configs/NAME.yaml --memory

Operations are multiply-adds of object-centric inference on one image. With --memory, training
steps of small batches are run on this machine; what they store for the backward pass is fitted and
extrapolated to --batch images of --crop pixels. Settings follow at the end as KEY VALUE pairs.
Weights are random: none are needed.
"""

import argparse
import math
from collections.abc import Iterable

import spnet_d2  # noqa: F401  (before PyTorch: see spnet_d2/process.py)

# isort: split
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tabulate import tabulate

from spnet_d2.analysis import (
    Account,
    Fit,
    Part,
    account_step,
    fit_accounts,
    inference_parts,
    measured_config,
)
from spnet_d2.config_reader import ConfigError
from spnet_d2.utils.settings_option import add_settings_option

GIB = 1 << 30
# People in each image of a training step.
BOXES = 8


def parts_table(parts: Iterable[Part], total_parameters: int) -> str:
    """Parameters and operations as text."""
    parts = list(parts)
    used = sum(p.parameters for p in parts)
    if total_parameters > used:
        parts.append(Part("of training only", total_parameters - used, 0, 0))
    rows = [[p.name, p.parameters / 1e6, p.flops / 1e9, p.times or ""] for p in parts]
    rows.append(["total", total_parameters / 1e6, sum(p.flops for p in parts) / 1e9, ""])
    return tabulate(rows, ["part", "parameters (M)", "multiply-adds (G)", "times"], floatfmt=".2f")


def memory_table(account: Account, fit: Fit, images: int, side: int) -> str:
    """A step's memory as text."""
    rows = [
        ["weights, and frozen ones", account.weights + account.frozen],
        ["buffers (queues, statistics)", account.buffers],
        ["gradients", account.gradients],
        ["AdamW's two moments", 2 * account.weights],
        [f"activations: {images} x {side} x {side}", fit(images, side)],
    ]
    rows.append(["sum", sum(size for _, size in rows)])
    return tabulate([[name, size / GIB] for name, size in rows], ["memory", "GiB"], floatfmt=".2f")


def smallest_batches(cfg: CfgNode) -> tuple[int, int]:
    """
    Batches from which larger ones can be told.

    A query-centric step takes as many (image, query) pairs as there are, up to PAIRS_PER_BATCH:
    the RoI part grows with the square of small batches, and of larger ones not at all.
    """
    if cfg.MODEL.SPNET.PATHWAY != "QC":
        return 1, 2
    # N images have N * BOXES queries; two views of each image, as in training.
    images = math.ceil(math.sqrt(cfg.MODEL.SPNET.QC.PAIRS_PER_BATCH / BOXES))
    images += images % 2
    return images, 2 * images


def _numbers(text: str) -> tuple[int, ...]:
    """``128,256`` -> (128, 256)."""
    return tuple(map(int, text.split(",")))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="", help="YAML; default: the package's defaults")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(900, 1500),
        metavar=("H", "W"),
        help="image size of inference",
    )
    parser.add_argument("--boxes", type=int, default=10, help="people detected in the image")
    parser.add_argument(
        "--memory", action="store_true", help="also count the memory of a training step"
    )
    parser.add_argument("--batch", type=int, help="default: SOLVER.IMS_PER_BATCH")
    parser.add_argument("--crop", type=int, help="default: INPUT.CROP_SIZE")
    parser.add_argument(
        "--measure",
        type=_numbers,
        default=(128, 256),
        help="crop sizes of the counted steps, e.g. 128,256",
    )
    parser.add_argument(
        "--measure-batches",
        type=_numbers,
        help="batch sizes of the counted steps (default: 1,2, or as many as QC pairs need)",
    )
    parser.add_argument("--amp", action="store_true", help="run them under autocast to bfloat16")
    add_settings_option(parser)
    args = parser.parse_args(argv)
    if any(len(set(numbers)) < 2 for numbers in (args.measure, args.measure_batches or (1, 2))):
        parser.error("--measure and --measure-batches take two different numbers or more each")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        cfg = measured_config(args.config_file, args.opts)
    except ConfigError as error:
        raise SystemExit(f"analyze_model: {error}") from error
    model = build_model(cfg)
    total = sum(p.numel() for p in model.parameters())
    if model.test_pathway == "OC":
        print(f"Inference on one image of {args.size[0]} x {args.size[1]}, {args.boxes} people:\n")
        print(parts_table(inference_parts(model, tuple(args.size), args.boxes), total))
    else:
        print(f"{total / 1e6:.2f} M parameters. Operations are those of object-centric inference:")
        print("add MODEL.SPNET.TEST_PATHWAY OC to see them.")
    if not args.memory:
        return

    images = args.batch or cfg.SOLVER.IMS_PER_BATCH
    side = args.crop or cfg.INPUT.CROP_SIZE
    accounts = []
    batches = args.measure_batches or smallest_batches(cfg)
    print("\nActivations of training steps, every sampled box training re-id:\n")
    for crop in args.measure:
        for batch in batches:
            account = account_step(model, batch, crop, BOXES, amp=args.amp)
            accounts.append(account)
            print(f"  {batch} x {crop} x {crop}: {account.activations / GIB:.3f} GiB", flush=True)
    fit = fit_accounts(accounts)
    print(
        f"\nFit: {fit.constant / GIB:.3f} GiB + N * ({fit.per_image / GIB:.3f} GiB + "
        f"{fit.per_pixel / 1024:.2f} KiB per pixel), off by {fit.error:.1%} at most. "
        f"{'bfloat16 autocast' if args.amp else 'float32'}:\n"
    )
    print(memory_table(accounts[-1], fit, images, side))


if __name__ == "__main__":
    main()
