"""The process that imports spnet_d2: freed memory stays, idle threads sleep."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TUNING = ("OMP_WAIT_POLICY", "SPNET_KEEP_MEMORY", "GLIBC_TUNABLES")
PROGRAMS = [
    *sorted((ROOT / "tools").glob("*.py")),
    *sorted((ROOT / "datasets").glob("*.py")),
]
PACKAGE = str(ROOT / "spnet_d2")
GLIBC = platform.libc_ver()[0] == "glibc"

# Ends the program at its first import of PyTorch, and says what OpenMP would find.
STOP_AT_TORCH = """
import atexit, os, runpy, sys
def say():
    print("policy", os.environ.get("OMP_WAIT_POLICY"), flush=True)
class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            say()
            os._exit(0)
sys.meta_path.insert(0, Stop())
atexit.register(say)
sys.path.insert(0, {root!r})
sys.argv = {argv!r}
{action}
"""
RUN = 'runpy.run_path(sys.argv[0], run_name="__main__")'

# Page faults of ten blocks of 64 MiB, each freed before the next.
COUNT_FAULTS = """
import resource, sys
sys.path.insert(0, {package!r})
import process
process.prepare_process()
def use():
    bytearray(b"1") * (64 << 20)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(code: str, **environment: str) -> str:
    """Output of Python code, in an environment that tunes nothing but what is given."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in TUNING and not name.startswith("MALLOC_")
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**kept, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def policy_at_torch(action: str, argv: list[str] | None = None, **environment: str) -> str:
    """OpenMP's policy when ``action`` imports PyTorch, or at its end."""
    code = STOP_AT_TORCH.format(root=str(ROOT), argv=argv or [""], action=action)
    return run(code, **environment).split("policy ")[-1].strip()


@pytest.mark.parametrize("action", ["import spnet_d2", "import spnet_d2.config", "import tests"])
def test_imports_set_the_policy_before_pytorch_is_loaded(action):
    action = action.replace("import tests", "import tests.conftest")
    assert policy_at_torch(action) == "passive"


@pytest.mark.parametrize(
    "program", [p for p in PROGRAMS if p.name != "install_detectron2.py"], ids=lambda p: p.name
)
def test_programs_set_the_policy_before_pytorch_is_loaded(program):
    assert policy_at_torch(RUN, [str(program), "--help"]) == "passive"


def test_a_policy_of_the_user_stays():
    assert policy_at_torch("import spnet_d2", OMP_WAIT_POLICY="active") == "active"


def test_pytorch_that_was_there_before_is_no_error():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import torch, spnet_d2; print('fine')"
    assert run(code).strip() == "fine"


@pytest.mark.skipif(not GLIBC, reason="freed memory is kept by glibc alone")
def test_large_blocks_cost_page_faults_once():
    faults = int(run(COUNT_FAULTS.format(package=PACKAGE)))
    given_back = int(run(COUNT_FAULTS.format(package=PACKAGE), SPNET_KEEP_MEMORY="0"))
    assert given_back > 10_000 > 20 * faults


@pytest.mark.skipif(not GLIBC, reason="freed memory is kept by glibc alone")
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MALLOC_MMAP_THRESHOLD_", str(1 << 20)),
        ("GLIBC_TUNABLES", f"glibc.malloc.mmap_threshold={1 << 20}"),
    ],
)
def test_glibc_variables_of_the_user_are_left_alone(variable, value):
    assert int(run(COUNT_FAULTS.format(package=PACKAGE), **{variable: value})) > 10_000


@pytest.mark.parametrize("where", ["darwin", "win32", "linux"])
def test_other_c_libraries_are_left_alone(where, monkeypatch):
    """musl has no mallopt; macOS and Windows are not asked."""
    from spnet_d2 import process

    monkeypatch.setattr(process.sys, "platform", where)
    monkeypatch.setattr(process.ctypes, "CDLL", lambda name: object())
    assert process.keep_freed_memory() is False


GIVEN_BACK = """
import sys
sys.path.insert(0, {package!r})
import process
process.keep_freed_memory()
size = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
blocks = [bytearray(b"x") * (20 << 20) for _ in range(10)]
full, last = size(), blocks.pop()
del blocks
kept = size()
process.release_freed_memory()
print(full, kept, size(), len(last) >> 20)
"""


@pytest.mark.skipif(not GLIBC, reason="freed memory is kept by glibc alone")
def test_freed_memory_can_be_given_back():
    """Also from below what is still used, which stays."""
    full, kept, left, last = map(int, run(GIVEN_BACK.format(package=PACKAGE)).split())
    assert kept > full - 20
    assert left < full - 150 and last == 20
