"""How the process that imports spnet_d2 keeps its memory and lets its threads wait.

Both matter on CPUs, and both come too late once PyTorch is there, so this is the first thing that
``import spnet_d2`` does, and the first import of every tool. It needs the standard library alone.

**Freed memory stays with the process.** glibc asks the kernel for every block above 32 MiB anew and
gives it back when it is freed. The kernel hands out zeroed pages one by one, at each one's first
use. Feature maps are such blocks: a frame of 1500 x 844 pixels costs 400,000 page faults, 15 % of
the time that its detection takes. Instead, blocks of up to 1 GiB come from a heap that is not
trimmed. The process then stays as large as it once was, and that peak is up to a fifth higher,
because the heap has gaps. ``SPNET_KEEP_MEMORY=0`` switches it off, and glibc's own variables, where
they are set, are left alone. Other C libraries have no such setting.

**Threads without work sleep.** OpenMP's threads spin until the next parallel loop, so that two
programs on the same cores take each other's time: several times as long instead of twice. Sleeping
costs a program alone nothing that could be measured. ``OMP_WAIT_POLICY=active`` brings spinning
back. Intel's OpenMP obeys the variable too, and ``KMP_BLOCKTIME`` where that is set.
"""

import ctypes
import os
import sys

# <malloc.h>; mallopt takes an int, so that no trim threshold above 2 GiB can be said but "never".
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER = -1
_LARGEST_HEAP_BLOCK = 1 << 30
# What glibc takes before 2.35.
_LARGEST_HEAP_BLOCK_OLD = 1 << 25


def prepare_process() -> None:
    """Make freed memory stay, and idle threads sleep, unless the environment says otherwise."""
    # Once PyTorch is loaded, this reaches the processes that are started from here alone.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if os.environ.get("SPNET_KEEP_MEMORY", "1") != "0" and not _user_tunes_malloc():
        keep_freed_memory()


def keep_freed_memory() -> bool:
    """
    Let the C library keep what is freed for what is allocated next.

    Returns:
        Whether it does: False where the C library is not glibc.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    taken = any(
        libc.mallopt(_M_MMAP_THRESHOLD, size)
        for size in (_LARGEST_HEAP_BLOCK, _LARGEST_HEAP_BLOCK_OLD)
    )
    return bool(libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)) and taken


def release_freed_memory() -> None:
    """
    Give memory that is free now back to the system, also inside of the heap; a moment's work.

    For the ends of what needs other sizes than what comes next, such as an evaluation.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _user_tunes_malloc() -> bool:
    """Whether glibc's own variables say how to handle large blocks."""
    variables = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    names = ("glibc.malloc.mmap_threshold", "glibc.malloc.trim_threshold")
    return any(v in os.environ for v in variables) or any(n in tunables for n in names)
