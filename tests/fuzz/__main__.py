"""Run: ``python -m tests.fuzz [--seed N] [--share X] [KIND ...]``; status 1 on a find."""

import argparse
import faulthandler
import logging
import os
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

# What the decoders print of damaged files; read when they are loaded.
os.environ.update(OPENCV_LOG_LEVEL="OFF", OPENCV_FFMPEG_LOGLEVEL="-8")

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.kinds import KINDS, Kind, refused
from tests.fuzz.limits import limit_memory, time_limit

# An input that takes longer hangs.
SECONDS = 20
# What all inputs together may add to the memory of the process.
MEMORY = 6 << 30


def run_kind(kind: Kind, count: int, seed_number: int, folder: Path) -> int:
    """
    Check ``count`` inputs of a kind.

    Returns:
        How many were checked.

    Raises:
        Exception: of the smallest input for which the property doesn't hold; it lies in
            ``folder``.
    """
    checked = 0

    def check(made):
        nonlocal checked
        checked += 1
        suffix, content = made
        path = folder / f"input.{suffix}"
        path.write_bytes(content)
        with time_limit(SECONDS):
            kind.check(path)

    for old in folder.iterdir():
        old.unlink()
    options = settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    seed(seed_number)(options(given(kind.strategy)(check)))()
    return checked


def prepare_process() -> None:
    """Show crashes, hide what libraries say of wrong input, and bound the memory."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    logging.getLogger("detectron2").setLevel(logging.ERROR)
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    limit_memory(MEMORY)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], metavar="KIND")
    parser.add_argument("--seed", type=int, default=0, help="another run (%(default)s)")
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the usual number of inputs (%(default)s)"
    )
    args = parser.parse_args(argv)
    prepare_process()
    total, failed = 0, []
    for name in args.kinds or KINDS:
        folder = Path(tempfile.mkdtemp(prefix="fuzz."))
        start = time.perf_counter()
        refused.clear()
        count = max(1, round(KINDS[name].count * args.share))
        try:
            checked = run_kind(KINDS[name], count, args.seed, folder)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failed.append(name)
            traceback.print_exception(error)
            again = f'python -m tests.fuzz --seed {args.seed} --share {args.share:g} "{name}"'
            print(f"FOUND in {name}: the input is in {folder}; again: {again}", flush=True)
            continue
        total += checked
        seconds = time.perf_counter() - start
        print(f"{name}: {checked} inputs, {len(refused)} refused, {seconds:.0f} s", flush=True)
    print(f"{total} inputs, seed {args.seed}; " + (f"found: {failed}" if failed else "no find"))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
