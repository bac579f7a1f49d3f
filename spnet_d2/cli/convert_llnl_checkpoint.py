"""Convert a checkpoint of the authors' SPNet code (LLNL/spnet, a Lightning .ckpt).

    python tools/convert_llnl_checkpoint.py --input X.ckpt --output model.pth
    python tools/train_net.py --eval-only --config-file model.yaml MODEL.WEIGHTS model.pth

Backbone, heads, sizes, logits and memory are read off the checkpoint's names and shapes, or given
by --config-file; settings may follow as KEY VALUE pairs. What weights can't tell is the default
(DATASETS.*, MODEL.SPNET.POSITIVE_NORM, TEST_PATHWAY ...). Every tensor must find its place and
every place its tensor; --leave-out names tensors to do without. model.yaml is written beside
model.pth.
"""

import argparse
import sys
from pathlib import Path

# First: says what is missing, where exported models alone run.
from spnet_d2 import add_spnet_config  # noqa: F401

# isort: split
import torch
from detectron2.config import CfgNode
from tabulate import tabulate

from spnet_d2.checkpoint.files import read_checkpoint
from spnet_d2.checkpoint.llnl import bridges_are_zero, build_from_llnl, infer_config, tensors_of
from spnet_d2.config_reader import merge_settings, read_config
from spnet_d2.modeling import SPNet
from spnet_d2.utils.atomic_io import atomic_path


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", type=Path, required=True, help="the authors' checkpoint")
    parser.add_argument("--output", type=Path, required=True, help="file to write, NAME.pth")
    parser.add_argument("--config-file", type=Path, help="default: inferred from the checkpoint")
    parser.add_argument(
        "--leave-out",
        action="append",
        default=[],
        metavar="PREFIX",
        help="leave out tensors whose names start so, e.g. head.gfn. (may be repeated)",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="settings")
    args = parser.parse_args(argv)
    if args.output.suffix != ".pth":
        parser.error(f"--output must end in .pth, found {args.output}")
    if len(args.opts) % 2:
        parser.error(f"settings are KEY VALUE pairs, found {len(args.opts)} words: {args.opts}")
    return args


def leave_out(state: dict[str, torch.Tensor], prefixes: list[str]) -> dict[str, torch.Tensor]:
    """
    The tensors whose names have none of the prefixes.

    Raises:
        ValueError: a prefix that no name has.
    """
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in state):
            raise ValueError(f"--leave-out {prefix}: no tensor's name starts so.")
    return {k: v for k, v in state.items() if not k.startswith(tuple(prefixes))}


def make_config(state: dict, config_file: Path | None, opts: list[str]) -> CfgNode:
    """
    The given config, or the inferred one, with settings on top.

    Raises:
        ValueError: settings that can't be used.
    """
    if config_file is None:
        cfg = infer_config(state)
        if bridges_are_zero(state):
            # Query-centric training never moves a bridge off the zeros that it starts from.
            print("All bridges are zero, so this is a query-centric model: PATHWAY is QC.")
            cfg.MODEL.SPNET.PATHWAY = "QC"
    else:
        cfg = read_config(config_file)
    merge_settings(cfg, opts)
    return cfg


def describe(cfg: CfgNode, model: SPNet) -> str:
    """The architecture as a table."""
    options = cfg.MODEL.SPNET
    parameters = sum(p.numel() for p in model.parameters())
    rows = [
        ("backbone", options.BACKBONE.NAME),
        ("pathway", options.PATHWAY),
        ("cascade stages", options.NUM_CASCADES),
        ("heads", "separate" if options.SEPARATE_HEADS else "shared"),
        ("embedding / re-id size", f"{options.EMBED_DIM} / {options.REID_DIM}"),
        ("logits", f"{options.ANCHOR_LOGITS} / {options.CLS_LOGITS}"),
        *((f"memory: {n}", tuple(t.shape)) for n, t in model.roi_heads.reid_loss.named_buffers()),
        ("momentum twin", "yes" if model.twin is not None else "no"),
        ("parameters", f"{parameters / 1e6:.2f} million"),
    ]
    return tabulate(rows, disable_numparse=True)


def convert(args: argparse.Namespace) -> None:
    """
    Convert and write both files, or neither.

    Raises:
        FileNotFoundError: no such input or config file.
        ValueError: the checkpoint can't be read or does not fit, where the message names tensors;
            or a setting that is not there.
    """
    if args.config_file is not None and not args.config_file.is_file():
        raise FileNotFoundError(f"No config file at {args.config_file.absolute()}.")
    state = leave_out(tensors_of(read_checkpoint(args.input)), args.leave_out)
    cfg = make_config(state, args.config_file, args.opts)
    model = build_from_llnl(state, cfg, ["MODEL.DEVICE", "cpu"])
    # For evaluation and for training alike: the number is the checkpoint's or the data set's.
    cfg.MODEL.SPNET.REID.NUM_IDENTITIES = -1
    cfg.MODEL.SPNET.BACKBONE.PRETRAINED = ""
    cfg.MODEL.DEVICE = "cuda"
    config = args.output.with_suffix(".yaml")
    with atomic_path(args.output) as weights, atomic_path(config) as text:
        torch.save({"model": model.state_dict()}, weights)
        text.write_text(cfg.dump(), encoding="utf-8")
    assert isinstance(model, SPNet)
    print(describe(cfg, model))
    print(f"written: {args.output}, {config}")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_args(argv)
    try:
        convert(args)
    except (OSError, ValueError) as error:
        print(f"convert_llnl_checkpoint: {args.input}: {error}", file=sys.stderr)
        return 1
    return 0
