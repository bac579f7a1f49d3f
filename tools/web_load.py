"""How fast the page's server answers many users at once, on a gallery of synthetic people.

    python tools/web_load.py --people 1000000 --users 20 --seconds 30

Users search by people of the gallery, each for somebody else, and look at the first page of hits
for a second (--pause) before they search again; so no model is needed. Everything stays on this
machine (loopback). Printed: searches per second, median and 95 % of the times, errors, the server's
processor time per search, which other programs hardly change, and its memory at its end.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import spnet_d2  # noqa: F401  (before PyTorch: see spnet_d2/process.py)

# isort: split
import httpx
import numpy as np

from spnet_d2.gallery import GallerySettings, People
from spnet_d2.ingestion import GalleryHome

ROOT = Path(__file__).resolve().parents[1]
_ROWS = 50_000
_CLUSTERS = 20_000
# Hits of the page's first request.
_PAGE = 24


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("--people", type=int, default=1_000_000, help="rows of the gallery (%(default)s)")
    option("--dimension", type=int, default=128, help="numbers per embedding (%(default)s)")
    option("--engine", default="lancedb", help="engine of the gallery (%(default)s)")
    option("--users", type=int, default=20, help="users at the same time (%(default)s)")
    option("--pause", type=float, default=1.0, help="seconds between searches (%(default)s)")
    option("--seconds", type=float, default=30.0, help="how long the users search (%(default)s)")
    option("--gallery", type=Path, help="gallery that this tool made before, or makes there now")
    option("--output", type=Path, help="a JSON file with the numbers")
    return parser.parse_args(argv)


def make_gallery(folder: Path, args: argparse.Namespace) -> None:
    """Clustered people of ten cameras, one a second; four rows a tracklet."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((_CLUSTERS, args.dimension), dtype=np.float32)
    settings = GallerySettings(args.dimension, "synthetic", 0.5)
    home = GalleryHome.create(folder, settings, {}, args.engine)
    start = np.datetime64("2026-05-01T00:00:00", "ns")
    with home.writing() as store:
        for first in range(0, args.people, _ROWS):
            rows = np.arange(first, min(first + _ROWS, args.people))
            near = centres[generator.integers(0, _CLUSTERS, len(rows))]
            noise = generator.standard_normal(near.shape, dtype=np.float32)
            store.add(
                People.of(
                    near + 0.5 * noise,
                    np.tile(np.float32([10, 20, 60, 180]), (len(rows), 1)),
                    np.full(len(rows), 0.9),
                    sources="synthetic",
                    cameras=[f"camera {i % 10}" for i in rows],
                    frames=rows * 1000,
                    times=start + rows * np.timedelta64(1, "s"),
                    tracklets=rows // 4,
                )
            )
            print(f"\r{rows[-1] + 1:,} people", end="", file=sys.stderr, flush=True)
        store.compact()
    print(file=sys.stderr)


def start_server(gallery: Path) -> tuple[subprocess.Popen, str]:
    """The server's process, and its address."""
    command = [sys.executable, str(ROOT / "tools" / "gallery.py"), "serve", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--gallery", str(gallery)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http://\S+", line):
            return process, found[0]
    raise SystemExit(f"The server did not start: exit status {process.wait()}.")


def use(
    address: str, ids: np.ndarray, until: float, pause: float, filtered: bool
) -> list[tuple[float, int]]:
    """One user's searches: seconds and status of each."""
    found = []
    with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
        for person in ids.tolist():
            if time.monotonic() > until:
                break
            body = {"positives": [{"person": person}], "limit": _PAGE}
            if filtered:
                body["where"] = {"cameras": [f"camera {person % 10}"]}
            started = time.perf_counter()
            status = client.post("/api/search", json=body).status_code
            found.append((time.perf_counter() - started, status))
            time.sleep(pause * random.uniform(0.5, 1.5))
    return found


def processor_seconds(process: subprocess.Popen) -> float | None:
    """Of all threads so far; None where the system doesn't say (not Linux)."""
    file = Path(f"/proc/{process.pid}/stat")
    if not file.is_file():
        return None
    # After the name, which may have spaces: user and system time are fields 14 and 15.
    fields = file.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(args: argparse.Namespace, gallery: Path) -> dict:
    process, address = start_server(gallery)
    try:
        ids = np.random.default_rng(1).integers(0, args.people, (args.users, 10_000))
        # Files are read for the first time.
        for filtered in (False, True):
            use(address, ids[0, -10:], time.monotonic() + 60, 0, filtered)
        until = time.monotonic() + args.seconds
        started, before = time.monotonic(), processor_seconds(process)
        with ThreadPoolExecutor(args.users) as pool:
            # Every other user looks at one camera only.
            jobs = [
                pool.submit(use, address, row, until, args.pause, n % 2 == 1)
                for n, row in enumerate(ids)
            ]
            answers = [answer for job in jobs for answer in job.result()]
        seconds, after = time.monotonic() - started, processor_seconds(process)
        status = Path(f"/proc/{process.pid}/status")
        memory = re.search(r"VmHWM:\s+(\d+)", status.read_text()) if status.is_file() else None
    finally:
        process.terminate()
        process.wait()
    times = np.array([t for t, _ in answers]) * 1000
    return {
        "people": args.people,
        "dimension": args.dimension,
        "engine": args.engine,
        "users": args.users,
        "pause": args.pause,
        "searches": len(answers),
        "searches per second": round(len(answers) / seconds, 1),
        "median ms": round(float(np.median(times)), 1),
        "95 % ms": round(float(np.percentile(times, 95)), 1),
        "errors": sum(code != 200 for _, code in answers),
        "server's CPU ms per search": None
        if before is None or after is None
        else round(1000 * (after - before) / len(answers), 1),
        "server's peak GiB": None if memory is None else round(int(memory[1]) / 2**20, 2),
    }


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        gallery = args.gallery or Path(scratch) / "gallery"
        if not (gallery / "home.json").is_file():
            make_gallery(gallery, args)
        numbers = measure(args, gallery)
    text = json.dumps(numbers, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
