"""Fixtures shared by all tests: fixed seeds, one thread, miniature corpora."""

import os
import random
from pathlib import Path

# Before NumPy and torch start their thread pools; tests are small and may run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Hundreds of models of other sizes would leave gaps of gigabytes in a heap that is not given back.
os.environ.setdefault("SPNET_KEEP_MEMORY", "0")

import numpy as np
import pytest

import spnet_d2  # noqa: F401  (before PyTorch: see spnet_d2/process.py)

# isort: split
import torch

from tests.fixtures import corpora
from tests.fixtures.order import longest_first

torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """One of several processes, which take the files in this order."""
    if hasattr(config, "workerinput"):
        items[:] = [items[i] for i in longest_first([item.nodeid for item in items])]


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def cuhk_sysu_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Official files of a miniature CUHK-SYSU; copy before changing."""
    return corpora.build_cuhk_sysu(tmp_path_factory.mktemp("official") / "cuhk")


@pytest.fixture(scope="session")
def prw_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Official files of a miniature PRW; copy before changing."""
    return corpora.build_prw(tmp_path_factory.mktemp("official") / "prw")


@pytest.fixture(scope="session")
def coco_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Official files of a miniature COCO 2017; copy before changing."""
    return corpora.build_coco(tmp_path_factory.mktemp("official") / "coco")


@pytest.fixture(scope="session")
def prepared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``DETECTRON2_DATASETS`` folder with prepared miniatures: ``cuhk``, ``prw`` and ``coco``.

    Read only; nothing is registered.
    """
    from spnet_d2.data.formats import cocopersons, cuhk_sysu, prw

    root = tmp_path_factory.mktemp("datasets")
    cuhk_sysu.prepare(
        corpora.build_cuhk_sysu(root / "cuhk"),
        cuhk_sysu.Splits(component_size=2, mini_components=1, gallery_size=3),
    )
    prw.prepare(
        corpora.build_prw(root / "prw"),
        prw.Splits(
            ignored_people=1,
            minitrain=(2, 2),
            minival=(2, 1),
            tiny=(4, (1, 3)),
            gallery_size=1,
        ),
    )
    cocopersons.prepare(corpora.build_coco(root / "coco"), cocopersons.Samples(sizes=(1, 2)))
    return root
