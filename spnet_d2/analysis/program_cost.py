"""Time and memory of a whole program, run in a process of its own."""

import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What a process took: seconds, seconds of all cores together, peak GiB."""

    wall: float
    cpu: float
    memory: float


# A process starts with the peak memory of the one that started it, however large: a small one goes
# between. It prints the CPU seconds and the peak memory of the program.
_LAUNCHER = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
sys.exit(code)
"""


def measure_program(command: Sequence[str]) -> Cost:
    """Run a program, its output thrown away, its errors shown.

    Args:
        command: words of the command line.

    Raises:
        RuntimeError: its exit status is not 0.
    """
    start = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-c", _LAUNCHER, *command], stdout=subprocess.PIPE, text=True
    )
    wall = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"`{' '.join(command)}` failed, see above.")
    cpu, memory = map(float, process.stdout.split())
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if platform.system() == "Darwin" else 1024
    return Cost(wall, cpu, memory * unit / 2**30)
