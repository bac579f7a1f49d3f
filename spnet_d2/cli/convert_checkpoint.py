"""Convert a checkpoint that another project published: SeqNet, SeqNeXt (GFN) or SPNet (LLNL).

    python tools/convert_checkpoint.py --from seqnet --input epoch_19.pth --output seqnet.pth
    python tools/train_net.py --eval-only --config-file seqnet.yaml MODEL.WEIGHTS seqnet.pth

The config, NAME.yaml beside NAME.pth, is read off the checkpoint's names and shapes; settings may
follow as KEY VALUE pairs. Every tensor must find its place and every place its tensor; --leave-out
names tensors to do without. ``--from llnl`` is tools/convert_llnl_checkpoint.py.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

# First: says what is missing, where exported models alone run.
from spnet_d2 import add_spnet_config  # noqa: F401

# isort: split
import torch
from detectron2.modeling import build_model

from spnet_d2.checkpoint.files import read_checkpoint
from spnet_d2.checkpoint.llnl import tensors_of
from spnet_d2.checkpoint.seqnet import architecture_of, convert_state_dict, infer_config
from spnet_d2.checkpoint.transfer import check_exact
from spnet_d2.cli import convert_llnl_checkpoint
from spnet_d2.config_reader import merge_settings
from spnet_d2.errors import UserError, exit_status
from spnet_d2.utils.atomic_io import atomic_path

ARCHITECTURES = {"seqnet": "SeqNet", "seqnext": "SeqNeXt"}


class ConversionError(UserError, ValueError):
    """A checkpoint that can't be converted."""


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    choices = (*ARCHITECTURES, "llnl")
    add("--from", dest="project", choices=choices, required=True, help="whose it is")
    add("--input", type=Path, required=True, help="the authors' checkpoint")
    add("--output", type=Path, required=True, help="file to write, NAME.pth")
    add(
        "--leave-out",
        action="append",
        default=[],
        metavar="PREFIX",
        help="leave out tensors whose names start so, e.g. gfn. (may be repeated)",
    )
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="settings")
    args = parser.parse_args(argv)
    if args.output.suffix != ".pth":
        parser.error(f"--output must end in .pth, found {args.output}")
    if len(args.opts) % 2:
        parser.error(f"settings are KEY VALUE pairs, found {len(args.opts)} words: {args.opts}")
    return args


def convert(args: argparse.Namespace) -> None:
    """
    Convert and write both files, or neither.

    Raises:
        FileNotFoundError: no such input.
        ConversionError: a checkpoint that can't be read, of another project, or that does not
            fit; the message names tensors.
    """
    try:
        _convert(args)
    except ValueError as error:
        raise ConversionError(f"{args.input}: {error}") from error


def _convert(args: argparse.Namespace) -> None:
    state = tensors_of(_weights(read_checkpoint(args.input)))
    wanted, found = ARCHITECTURES[args.project], architecture_of(state)
    if found != wanted:
        names = ", ".join(sorted(state)[:3]) or "none"
        raise ValueError(
            f"--from {args.project}: this is "
            + (f"a checkpoint of {found}" if found else "no checkpoint that is known here")
            + f". First names found: {names}."
        )
    state = convert_llnl_checkpoint.leave_out(state, args.leave_out)
    cfg, converted = infer_config(state), convert_state_dict(state)
    merge_settings(cfg, args.opts)
    model = build_model(cfg)
    expected = model.state_dict()
    # What files of theirs do not have: the queue's position and counters of frozen norms.
    for name, tensor in expected.items():
        if name.endswith(("queue_head", "num_batches_tracked")):
            converted.setdefault(name, tensor)
    check_exact(converted, expected)
    # For evaluation and for training alike: the number is the checkpoint's or the data set's.
    cfg.MODEL.SPNET.REID.NUM_IDENTITIES = -1
    cfg.MODEL.DEVICE = "cuda"
    config = args.output.with_suffix(".yaml")
    with atomic_path(args.output) as weights, atomic_path(config) as text:
        torch.save({"model": converted}, weights)
        text.write_text(cfg.dump(), encoding="utf-8")
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{wanted}, {cfg.MODEL.SPNET.BACKBONE.NAME}, {parameters:.2f} million parameters")
    print(f"written: {args.output}, {config}")


def _weights(content: Mapping) -> Mapping:
    """Of a training run's checkpoint, the model's."""
    return content.get("model", content)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_args(argv)
    if args.project == "llnl":
        given = ["--input", str(args.input), "--output", str(args.output)]
        for prefix in args.leave_out:
            given += ["--leave-out", prefix]
        return convert_llnl_checkpoint.main([*given, *args.opts])
    return exit_status("convert_checkpoint", lambda: convert(args))
