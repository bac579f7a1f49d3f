"""Build and search galleries of synthetic people: seconds, memory, disk, and what is found."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from spnet_d2.gallery import open_gallery
from spnet_d2.utils.peak_memory import peak_memory

from .gallery_engines import CAMERAS, Store, engine, progress, rows_of

# Embeddings in a cluster: they are as similar as images of one person are.
_PER_CLUSTER = 50
_NOISE = 0.5
# Bytes that a thread reads at a time.
_PIECE = 2**24
_APPENDED, _APPENDS = 1000, 20


def write_people(path: Path, count: int, dimension: int) -> np.ndarray:
    """(N, D) float16 unit vectors in clusters, in a file, memory-mapped."""
    generator = np.random.default_rng(0)
    clusters = max(1, count // _PER_CLUSTER)
    centres = generator.standard_normal((clusters, dimension), np.float32)
    step = max(1, 2**27 // (4 * dimension))
    with open(path, "wb") as file:
        for rows in progress(count, "making people up", step):
            shape = (rows.stop - rows.start, dimension)
            near = centres[generator.integers(0, clusters, shape[0])]
            near += _NOISE * generator.standard_normal(shape, np.float32)
            near /= np.linalg.norm(near, axis=1, keepdims=True)
            file.write(near.astype(np.float16).tobytes())
    return read_people(path, dimension)


def read_people(path: Path, dimension: int) -> np.ndarray:
    """What :func:`write_people` wrote."""
    return np.asarray(np.memmap(path, np.float16, "r").reshape(-1, dimension))


def queries_of(people: np.ndarray, count: int) -> np.ndarray:
    """(Q, D) float32 unit vectors: other pictures of people who are there."""
    generator = np.random.default_rng(1)
    rows = np.sort(generator.integers(0, len(people), count))
    near = people[rows].astype(np.float32)
    near += _NOISE * generator.standard_normal(near.shape, np.float32) / near.shape[1] ** 0.5
    return near / np.linalg.norm(near, axis=1, keepdims=True)


@dataclass(frozen=True)
class Searches:
    """
    Attributes:
        median, worst: milliseconds by the clock; ``worst``: 95 % are faster.
        cpu: milliseconds of all cores for one, on average.
        found: (Q, 10) rows; -1 where there are fewer.
    """

    median: float
    worst: float
    cpu: float
    found: list[list[int]]

    def recall(self, truth: "Searches") -> float:
        """Share of the true ten that are among these ten."""
        pairs = [(set(a), set(b) - {-1}) for a, b in zip(self.found, truth.found)]
        return sum(len(a & b) for a, b in pairs) / sum(len(b) for _, b in pairs)


def time_searches(search: Callable[[np.ndarray], np.ndarray], queries: np.ndarray) -> Searches:
    """One search per query, after a few that aren't counted."""
    for query in queries[:3]:
        search(query)
    seconds, found, cpu = [], [], time.process_time()
    for query in queries:
        started = time.perf_counter()
        rows = search(query)
        seconds.append(time.perf_counter() - started)
        found.append([*rows.tolist(), *[-1] * (10 - len(rows))])
    cpu = time.process_time() - cpu
    median, worst = np.percentile(seconds, [50, 95]) * 1e3
    return Searches(float(median), float(worst), 1e3 * cpu / len(queries), found)


def measure_build(name: str, file: Path, dimension: int, folder: Path) -> dict:
    """Build an index; run it in a process of its own, whose peak of memory it takes."""
    people = read_people(file, dimension)
    one, before = engine(name), peak_memory(torch.device("cpu"))
    started, cpu = time.perf_counter(), time.process_time()
    one.build(people, folder)
    return {
        "build_seconds": time.perf_counter() - started,
        "build_cpu_seconds": time.process_time() - cpu,
        "build_peak_bytes": peak_memory(torch.device("cpu")) - before,
        "disk_bytes": sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()),
    }


def measure_searches(name: str, file: Path, dimension: int, folder: Path, count: int) -> dict:
    """Search an index that was built, for all people and for those of one camera of 50."""
    people = read_people(file, dimension)
    queries = queries_of(people, count)
    before = peak_memory(torch.device("cpu"))
    one = engine(name)
    one.open(folder)
    result: dict = {
        "all": asdict(time_searches(lambda q: one.search(q, None), queries)),
        "camera": asdict(time_searches(lambda q: one.search(q, 7 % CAMERAS), queries)),
    }
    result["search_peak_bytes"] = peak_memory(torch.device("cpu")) - before
    if name == "exact":
        result["bandwidth"] = share_of_bandwidth(lambda: one.search(queries[0], None), people)
    return result


def share_of_bandwidth(scan: Callable[[], object], people: np.ndarray, rounds: int = 7) -> dict:
    """How long only reading the embeddings takes, by as many threads, over the scan's seconds."""
    pieces = [
        people[i : i + max(1, _PIECE // (2 * people.shape[1]))].reshape(-1).view(np.uint16)
        for i in range(0, len(people), max(1, _PIECE // (2 * people.shape[1])))
    ]
    reads, scans = [], []
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        # In turn, so that whatever else the machine does meets both.
        for _ in range(rounds + 1):
            reads.append(_seconds(lambda: list(pool.map(_read, pieces))))
            scans.append(_seconds(scan))
    read, scanned = (float(np.median(times[1:])) for times in (reads, scans))
    return {"bytes_per_second": people.nbytes / read, "share": read / scanned}


def _read(piece: np.ndarray) -> None:
    whole = len(piece) // 4 * 4
    np.bitwise_or.reduce(piece[:whole].view(np.uint64))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure_appends(name: str, file: Path, dimension: int, folder: Path, count: int) -> dict:
    """How much slower searches are while and after 20 additions of 1,000 rows."""
    people = read_people(file, dimension)
    queries = queries_of(people, count)
    one, medians, seconds = Store(name), [], []
    one.open(folder)
    before = time_searches(lambda q: one.search(q, None), queries).median
    with closing(open_gallery(folder / "gallery", write=True)) as writer:
        for number in range(_APPENDS):
            more = rows_of(people, slice(0, min(_APPENDED, len(people))), len(people))
            seconds.append(_seconds(partial(writer.add, more)))
            if number % 5 == 4:
                medians.append(time_searches(lambda q: one.search(q, None), queries).median)
    return {
        "before_ms": before,
        "after_ms": medians[-1],
        "slower": max(medians) / before,
        "append_ms": 1e3 * float(np.median(seconds)),
    }
