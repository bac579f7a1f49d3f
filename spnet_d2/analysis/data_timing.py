"""Throughput of training images: read and augmented one by one, and from loading processes."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from tabulate import tabulate

from spnet_d2.analysis.timing import PartClock, Timing
from spnet_d2.data import mapper
from spnet_d2.data.catalog import get_training_dicts, register_person_search, unregister
from spnet_d2.data.geometry import Size, View
from spnet_d2.data.loaders import build_train_loader
from spnet_d2.data.synthetic import Scene, photograph, write_scenes

_NAME = "benchmark_images"
# The rate that loading has to reach: of a GPU that takes 0.35 s per batch of 8, fed by 8 processes.
_GPU_RATE, _GPU_WORKERS = 8 / 0.35, 8


@contextmanager
def synthetic_corpus(size: Size, num_images: int, people: int) -> Iterator[str]:
    """
    A registered data set of images that compress about as photographs do.

    Args:
        size: height and width of an image.
        num_images: how many.
        people: boxes in each.
    """

    def scenes() -> Iterator[Scene]:
        rng, (height, width) = np.random.default_rng(0), size
        for i in range(num_images):
            image, boxes = photograph(rng, size), []
            for _ in range(people):
                h = rng.uniform(0.1, 0.5) * height
                w = min(0.4 * h, 0.5 * width)
                boxes.append([rng.uniform(0, width - w), rng.uniform(0, height - h), w, h])
            yield Scene(f"{i}.jpg", image, boxes, range(people), [True] * people)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.json"
        write_scenes(path, folder, scenes(), [cv2.IMWRITE_JPEG_QUALITY, 90])
        register_person_search(_NAME, path, folder)
        try:
            yield _NAME
        finally:
            unregister(_NAME)


def time_mapper(cfg: CfgNode, num_images: int, warm_up: int) -> Timing:
    """
    Read and augment training images in this process, with one thread as the loaders do.

    Args:
        cfg: ``DATASETS.TRAIN`` and ``INPUT``.
        num_images: how many are timed, one after the other, from the beginning again if needed.
        warm_up: how many are not.
    """
    dicts = get_training_dicts(cfg.DATASETS.TRAIN)
    training_mapper = mapper.PersonSearchMapper(cfg, is_train=True)
    clock, timing = PartClock(torch.device("cpu")), Timing()
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    decode = clock.timed("decode", mapper.read_image)
    augment = clock.timed("augment", View.apply_image)
    try:
        with (
            mock.patch.object(mapper, "read_image", decode),
            mock.patch.object(View, "apply_image", augment),
        ):
            for i in range(-warm_up, num_images):
                with clock.running(timing if i >= 0 else Timing()):
                    training_mapper(dicts[i % len(dicts)], np.random.default_rng(i % 2**32))
    finally:
        cv2.setNumThreads(threads)
    return timing


def loader_rate(cfg: CfgNode, workers: int, num_images: int) -> float:
    """
    Images per second from the training loader, once its processes run.

    Args:
        cfg: as for training.
        workers: loading processes.
        num_images: over how many (rounded up to batches) it is taken.
    """
    cfg = cfg.clone()
    cfg.DATALOADER.NUM_WORKERS = workers
    batches = iter(build_train_loader(cfg))
    # What the processes prepared while they started took no time of this one.
    warm_up = 1 + 2 * workers
    for _ in islice(batches, warm_up):
        pass
    count = max(warm_up, -(-num_images // cfg.SOLVER.IMS_PER_BATCH))
    start = time.perf_counter()
    delivered = sum(len(batch) for batch in islice(batches, count))
    return delivered / (time.perf_counter() - start)


def delivery(rate: float, workers: int, image: Timing) -> tuple[str, dict[str, dict]]:
    """
    What loading processes deliver, beside what a GPU takes.

    Args:
        rate: images per second, of :func:`loader_rate`.
        workers: the loading processes that gave it; 8 are taken to give proportionally more.
        image: of :func:`time_mapper`. Its CPU seconds say what a process with a core of its own
            would give, before images go from process to process.

    Returns:
        A table, and its numbers in plain types.
    """
    found = {
        f"loader, {workers} processes": (rate, workers),
        "one process by its CPU seconds": (1 / image.median, 1),
    }
    rows = [
        [what, given, of_8 := given * _GPU_WORKERS / processes, of_8 / _GPU_RATE]
        for what, (given, processes) in found.items()
    ]
    headers = ["", "images/s", f"in {_GPU_WORKERS} processes", "x a GPU's 8 images in 0.35 s"]
    names = ("loader", "process")
    return tabulate(rows, headers, floatfmt=".1f"), {
        "images_per_second": {n: row[1] for n, row in zip(names, rows)},
        "of_what_a_gpu_needs": {n: row[3] for n, row in zip(names, rows)},
    }
