"""Convert a checkpoint that another project published: SPNet (LLNL), SeqNet or SeqNeXt (GFN).

    python tools/convert_checkpoint.py --from llnl --input X.ckpt --output model.pth
    python tools/train_net.py --eval-only --config-file model.yaml MODEL.WEIGHTS model.pth

The config, NAME.yaml beside NAME.pth, is read off the checkpoint's names and shapes; settings may
follow as KEY VALUE pairs. What weights can't tell is the default (DATASETS.*,
MODEL.SPNET.POSITIVE_NORM, TEST_PATHWAY ...). Every tensor must find its place and every place its
tensor; --leave-out names tensors to do without.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

# First: says what is missing, where exported models alone run.
from spnet_d2 import add_spnet_config  # noqa: F401

# isort: split
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tabulate import tabulate
from torch import Tensor, nn

from spnet_d2.checkpoint import llnl, seqnet
from spnet_d2.checkpoint.files import read_checkpoint
from spnet_d2.checkpoint.transfer import check_exact
from spnet_d2.config_reader import merge_settings, read_config
from spnet_d2.errors import UserError, exit_status
from spnet_d2.modeling import SPNet
from spnet_d2.modeling.seqnet.model import COUNTERS
from spnet_d2.utils.atomic_io import atomic_path
from spnet_d2.utils.settings_option import add_settings_option

ARCHITECTURES = {"seqnet": "SeqNet", "seqnext": "SeqNeXt"}


class ConversionError(UserError, ValueError):
    """A checkpoint that can't be converted."""


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    choices = ("llnl", *ARCHITECTURES)
    add(
        "--from",
        dest="project",
        choices=choices,
        required=True,
        help="the project that the file is of",
    )
    add("--input", type=Path, required=True, help="the authors' checkpoint")
    add("--output", type=Path, required=True, help="file to write, NAME.pth")
    add("--config-file", type=Path, help="with llnl; default: inferred from the checkpoint")
    add(
        "--leave-out",
        action="append",
        default=[],
        metavar="PREFIX",
        help="leave out tensors whose names start so, e.g. head.gfn. (may be repeated)",
    )
    add_settings_option(parser)
    args = parser.parse_args(argv)
    if args.output.suffix != ".pth":
        parser.error(f"--output must end in .pth, found {args.output}")
    if args.config_file and args.project != "llnl":
        parser.error(f"--config-file goes with --from llnl, found --from {args.project}")
    return args


def convert(args: argparse.Namespace) -> None:
    """
    Convert and write both files, or neither.

    Raises:
        FileNotFoundError: no such input.
        ConversionError: a checkpoint that can't be read, of another project, or that does not
            fit; the message names tensors. Or settings that can't be used.
    """
    try:
        content = read_checkpoint(args.input)
        if args.project == "llnl":
            cfg, model, state = _of_llnl(llnl.tensors_of(content), args)
        else:
            # Of a training run's checkpoint, the model's.
            cfg, model, state = _of_peer(llnl.tensors_of(content.get("model", content)), args)
    except ValueError as error:
        raise ConversionError(f"{args.input}: {error}") from error
    # For evaluation and for training: the number is the checkpoint's or the data set's.
    cfg.MODEL.SPNET.REID.NUM_IDENTITIES = -1
    cfg.MODEL.SPNET.BACKBONE.PRETRAINED = ""
    cfg.MODEL.DEVICE = "cuda"
    config = args.output.with_suffix(".yaml")
    with atomic_path(args.output) as weights, atomic_path(config) as text:
        torch.save({"model": state}, weights)
        text.write_text(cfg.dump(), encoding="utf-8")
    print(describe(cfg, model))
    print(f"written: {args.output}, {config}")


def _of_peer(
    state: dict[str, Tensor], args: argparse.Namespace
) -> tuple[CfgNode, nn.Module, dict[str, Tensor]]:
    wanted, found = ARCHITECTURES[args.project], seqnet.architecture_of(state)
    if found != wanted:
        names = ", ".join(sorted(state)[:3]) or "none"
        raise ValueError(
            f"--from {args.project}: this is "
            + (f"a checkpoint of {found}" if found else "no checkpoint that is known here")
            + f". First names found: {names}."
        )
    state = leave_out(state, args.leave_out)
    cfg, converted = seqnet.infer_config(state), seqnet.convert_state_dict(state)
    merge_settings(cfg, args.opts)
    model = build_model(cfg)
    expected = model.state_dict()
    # What files of theirs do not have: the queue's position and counters of steps.
    for name, tensor in expected.items():
        if name.endswith(("queue_head", *COUNTERS)):
            converted.setdefault(name, tensor)
    check_exact(converted, expected)
    return cfg, model, converted


def _of_llnl(
    state: dict[str, Tensor], args: argparse.Namespace
) -> tuple[CfgNode, nn.Module, Mapping[str, Tensor]]:
    state = leave_out(state, args.leave_out)
    if args.config_file is None:
        cfg = llnl.infer_config(state)
        if llnl.bridges_are_zero(state):
            # Query-centric training never moves a bridge off the zeros that it starts from.
            print("All bridges are zero, so this is a query-centric model: PATHWAY is QC.")
            cfg.MODEL.SPNET.PATHWAY = "QC"
    elif args.config_file.is_file():
        cfg = read_config(args.config_file)
    else:
        raise ValueError(f"No config file at {args.config_file.absolute()}.")
    merge_settings(cfg, args.opts)
    model = llnl.build_from_llnl(state, cfg, ["MODEL.DEVICE", "cpu"])
    return cfg, model, model.state_dict()


def leave_out(state: dict[str, Tensor], prefixes: list[str]) -> dict[str, Tensor]:
    """
    The tensors whose names have none of the prefixes.

    Raises:
        ValueError: a prefix that no name has.
    """
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in state):
            raise ValueError(f"--leave-out {prefix}: no tensor's name starts so.")
    return {k: v for k, v in state.items() if not k.startswith(tuple(prefixes))}


def describe(cfg: CfgNode, model: nn.Module) -> str:
    """The architecture as a table."""
    options = cfg.MODEL.SPNET
    rows = [("model", type(model).__name__), ("backbone", options.BACKBONE.NAME)]
    if isinstance(model, SPNet):
        memory = model.roi_heads.reid_loss.named_buffers()
        rows += [
            ("pathway", options.PATHWAY),
            ("cascade stages", options.NUM_CASCADES),
            ("heads", "separate" if options.SEPARATE_HEADS else "shared"),
            ("embedding / re-id size", f"{options.EMBED_DIM} / {options.REID_DIM}"),
            ("logits", f"{options.ANCHOR_LOGITS} / {options.CLS_LOGITS}"),
            *((f"memory: {name}", tuple(tensor.shape)) for name, tensor in memory),
            ("momentum encoder", "yes" if model.twin is not None else "no"),
        ]
    if model.gallery_filter is not None:
        rows.append(("gallery filter", options.GFN.MODE))
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    return tabulate([*rows, ("parameters", f"{parameters:.2f} million")], disable_numparse=True)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_args(argv)
    return exit_status("convert_checkpoint", lambda: convert(args))
