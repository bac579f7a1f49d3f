"""The option of tools that train: how many GPUs, by default one where there is one."""

import argparse


def add_gpu_option(parser: argparse.ArgumentParser) -> None:
    """``--num-gpus``; None where it isn't given, see :func:`choose_gpus`."""
    parser.add_argument(
        "--num-gpus", type=int, metavar="N", help="0: on the CPU; default: 1 if there is a GPU"
    )


def choose_gpus(parser: argparse.ArgumentParser, number: int | None) -> int:
    """
    The number of GPUs to use. Ends the program where there are not as many.

    Args:
        parser: has the option.
        number: its value.
    """
    # Not above: --help needs no PyTorch.
    import torch

    there = torch.cuda.device_count()
    if number is None:
        return min(1, there)
    if not 0 <= number <= there:
        parser.error(f"--num-gpus {number}, but PyTorch finds {there} GPUs (0: on the CPU)")
    return number
