"""Starting a job's processes: one, several by Detectron2's ``launch``, or those of torchrun."""

import logging
import os
import re
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from detectron2.engine import launch
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch.multiprocessing import ProcessRaisedException

# What torchrun gives every process it starts.
from spnet_d2.errors import (
    TRAIN_LOOP,
    JobError,
    UserError,
    is_users,
    one_line,
    without_traceback,
)

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class LaunchError(UserError, ValueError):
    """The processes that the options name can't be started."""


def check_launch(args: Namespace, device: str) -> None:
    """
    Look for what can't start, before anything does.

    Args:
        args: of ``detectron2.engine.default_argument_parser``.
        device: ``MODEL.DEVICE``.

    Raises:
        LaunchError: it says what the options name, what there is, and what to do.
    """
    gpus = torch.cuda.device_count()
    if started_by_torchrun():
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        if args.num_gpus > 1 or args.num_machines > 1:
            raise LaunchError(
                f"torchrun starts the processes ({os.environ['WORLD_SIZE']}), so leave --num-gpus "
                f"{args.num_gpus} and --num-machines {args.num_machines} to its --nproc-per-node "
                "and --nnodes."
            )
        asked = f"torchrun --nproc-per-node {local}"
    else:
        if not 0 <= args.machine_rank < args.num_machines:
            raise LaunchError(
                f"--machine-rank is {args.machine_rank}, expected 0 to {args.num_machines - 1} "
                f"with --num-machines {args.num_machines}."
            )
        if args.num_machines > 1 and args.num_gpus < 1:
            raise LaunchError(
                f"--num-machines {args.num_machines} needs a process on each: --num-gpus is "
                f"{args.num_gpus}, also on CPUs (MODEL.DEVICE cpu) it is their number."
            )
        if args.num_gpus * args.num_machines > 1:
            _check_address(args.dist_url, args.num_machines)
        local, asked = args.num_gpus, f"--num-gpus {args.num_gpus}"
    if local > max(1, gpus) and device != "cpu":
        raise LaunchError(
            f"{asked}, but PyTorch finds {gpus} GPUs. Use that number, or processes on the "
            "CPU by MODEL.DEVICE cpu."
        )


def _check_address(address: str, num_machines: int) -> None:
    """Where the processes meet: PyTorch refuses another one in all of them, by a traceback."""
    if address == "auto" and num_machines == 1:
        return
    if not re.fullmatch(
        r"tcp://[^/:]+:[0-9]{1,5}|tcp://\[[0-9a-fA-F:.]+\]:[0-9]{1,5}|file:///.+", address
    ):
        alone = ", or auto" if num_machines == 1 else ""
        raise LaunchError(
            f"--dist-url is {address!r}, expected tcp://HOST:PORT with the first machine's name "
            f"and a free port, or file:///PATH of a new file that all machines see{alone}."
        )


def launch_job(main: Callable, args: Namespace, device: str) -> None:
    """
    Run ``main(args)`` in every process of a job, and wait for this machine's.

    torchrun's processes join its group. Otherwise ``args.num_gpus`` processes are started for each
    of ``args.num_machines`` machines, also on CPUs. They talk by NCCL on GPUs, by gloo on CPUs.

    Args:
        main: what to run, at the top level of a module.
        args: checked by :func:`check_launch`.
        device: ``MODEL.DEVICE``.

    Raises:
        JobError: one of several processes ended with an error that the user can fix; it
            has that error's type and text. Other errors are raised as they are.
    """
    if started_by_torchrun():
        _join_torchrun(main, args, device)
        return
    with _gpus_hidden(device == "cpu" and args.num_gpus * args.num_machines > 1):
        # It says which processes it ends after an error: all.
        logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
        try:
            launch(
                _work,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(main, args),
            )
        except ProcessRaisedException as error:
            told = re.search(rf"{JobError.__name__}: (.*)\s*\Z", str(error))
            if told is None:
                raise
            raise JobError(told[1]) from error


def count_processes(args: Namespace) -> int:
    """How many processes a job will have, on all machines."""
    if started_by_torchrun():
        return int(os.environ["WORLD_SIZE"])
    return max(1, args.num_gpus) * args.num_machines


def started_by_torchrun() -> bool:
    """
    Whether this process is one of torchrun's.

    Raises:
        LaunchError: some of its variables are missing.
    """
    if "RANK" not in os.environ and "LOCAL_RANK" not in os.environ:
        return False
    missing = [name for name in _TORCHRUN if name not in os.environ]
    if missing:
        raise LaunchError(
            "The environment has RANK or LOCAL_RANK, as torchrun sets them, but lacks "
            f"{', '.join(missing)}. Start with torchrun, or unset RANK and LOCAL_RANK."
        )
    return True


def _work(main: Callable, args: Namespace) -> None:
    """
    ``main(args)`` in one of ``launch``'s processes, all of which leave their group together.

    Detectron2 leaves it to the end of the processes: the first to end breaks connections that
    gloo's threads in the others still hold, which now and then aborts one whose work is done.
    """
    with _told_to_parent():
        main(args)
    if dist.is_initialized():
        comm.synchronize()
        dist.destroy_process_group()


@contextmanager
def _told_to_parent() -> Iterator[None]:
    """Let the user's errors reach the process that started this one as type and text."""
    log = logging.getLogger(TRAIN_LOOP)
    log.addFilter(without_traceback)
    try:
        yield
    except Exception as error:
        if comm.get_world_size() == 1 or not is_users(error):
            raise
        # Alone: the parent gets it as the end of a traceback.
        raise JobError(f"{type(error).__name__}: {one_line(error)}") from None
    finally:
        log.removeFilter(without_traceback)


def _join_torchrun(main: Callable, args: Namespace, device: str) -> None:
    if int(os.environ["WORLD_SIZE"]) == 1:
        with _told_to_parent():
            main(args)
        return
    on_gpu = device != "cpu" and args.num_gpus > 0 and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=DEFAULT_TIMEOUT)
    try:
        comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
        comm.synchronize()
        with _told_to_parent():
            main(args)
        comm.synchronize()
    finally:
        dist.destroy_process_group()


@contextmanager
def _gpus_hidden(hide: bool) -> Iterator[None]:
    """Let the processes that are started see no GPU: Detectron2 would choose NCCL for any."""
    name = "CUDA_VISIBLE_DEVICES"
    before = os.environ.get(name)
    if hide:
        os.environ[name] = ""
    try:
        yield
    finally:
        if hide:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before
