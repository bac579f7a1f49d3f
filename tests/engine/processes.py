"""Two processes that train together through gloo, forked from a server that imported everything."""

import multiprocessing
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _work(function: Callable, rank: int, number: int, port: int, args: tuple, report) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=number)
    comm.create_local_process_group(number)
    try:
        report.send((True, function(*args)))
    except BaseException:
        report.send((False, traceback.format_exc()))
    finally:
        report.close()


def together(function: Callable, *args: Any, number: int = 2) -> list[Any]:
    """
    Call ``function(*args)``, of a module, in processes of one group.

    Returns:
        What it gives, by rank, without tensors: they would need their process to live on.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.engine.test_processes"])
    port, processes, receivers = free_port(), [], []
    for rank in range(number):
        receiver, sender = context.Pipe(duplex=False)
        work = (function, rank, number, port, args, sender)
        processes.append(context.Process(target=_work, args=work))
        processes[-1].start()
        sender.close()
        receivers.append(receiver)
    try:
        results = []
        for receiver in receivers:
            assert receiver.poll(300), "A process gave no answer."
            good, result = receiver.recv()
            assert good, result
            results.append(result)
        return results
    finally:
        for process in processes:
            process.kill()
            process.join()
