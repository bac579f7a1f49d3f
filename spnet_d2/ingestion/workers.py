"""Several processes that index one gallery: as many as there are GPUs, by this program or another.

They need no coordination beside the gallery's folder: each takes units of work by leases
(:mod:`~.leases`), and what one leaves undone another takes over.
"""

import os
import subprocess
import time
from collections.abc import Mapping, MutableMapping, Sequence

from spnet_d2.gallery import GalleryError

_VISIBLE = "CUDA_VISIBLE_DEVICES"
# Numbers that a launcher gives the processes of one machine: torchrun, srun.
_LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID")


def environment_of(rank: int, count: int, inherited: Mapping[str, str]) -> dict[str, str]:
    """
    For the ``rank``-th of ``count`` processes on this machine: a GPU of its own, if there are any,
    and a share of the cores.

    Args:
        rank: from 0.
        count: 1 or more.
        inherited: environment of the process that starts it.
    """
    cores = str(max(1, (os.cpu_count() or 1) // count))
    devices = [device for device in inherited.get(_VISIBLE, "").split(",") if device]
    device = devices[rank % len(devices)] if devices else str(rank)
    if _VISIBLE in inherited and not devices:
        # Said to be none.
        device = ""
    return {"OMP_NUM_THREADS": cores, **inherited, _VISIBLE: device, "LOCAL_RANK": str(rank)}


def take_own_device(environment: MutableMapping[str, str] | None = None) -> int | None:
    """
    Let a process that torchrun, srun or :func:`run_processes` started see only its own GPU.

    A launcher that shows each process one GPU already is left alone. Call it before CUDA starts.

    Returns:
        Its number on this machine; None: no launcher gave it one.
    """
    environment = os.environ if environment is None else environment
    given = [environment[name] for name in _LOCAL_RANKS if name in environment]
    if not given:
        return None
    rank = int(given[0])
    if _VISIBLE not in environment or "," in environment[_VISIBLE]:
        environment[_VISIBLE] = environment_of(rank, 1, environment)[_VISIBLE]
    return rank


def run_processes(command: Sequence[str], count: int) -> None:
    """
    Run a command in ``count`` processes, each with a GPU of its own.

    When one fails, the others go on with the remaining work. Stopping this program stops them all;
    what they finished stays.

    Args:
        command: program and arguments.
        count: 1 or more.

    Raises:
        GalleryError: one failed; its own message is above.
    """
    started = []
    try:
        for rank in range(count):
            environment = environment_of(rank, count, os.environ)
            started.append(subprocess.Popen(command, env=environment))
        codes = _wait(started)
    finally:
        for process in started:
            if process.poll() is None:
                process.terminate()
        for process in started:
            process.wait()
    failed = [str(rank) for rank, code in enumerate(codes) if code]
    if failed:
        raise GalleryError(
            f"Processes {', '.join(failed)} of {count} failed, see above. What was finished stays; "
            "the same command does the rest."
        )


def _wait(processes: Sequence[subprocess.Popen]) -> list[int]:
    # Polled: a signal to this program must not wait for the first of them to end.
    while any(process.poll() is None for process in processes):
        time.sleep(0.1)
    return [process.returncode for process in processes]
