"""What a gallery's engines are measured beside, and they themselves, behind one small interface."""

from collections.abc import Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from spnet_d2.gallery import (
    Filter,
    GallerySettings,
    GalleryStore,
    People,
    create_gallery,
    open_gallery,
)
from spnet_d2.search.query import cosine_similarities

# One of them is 2 % of the people.
CAMERAS = 50
# Rows of an addition.
_ROWS = 50_000
# As many links per person as Milvus's default, and the effort of the lancedb engine.
_HNSW_LINKS, _HNSW_BUILD, _HNSW_SEARCH = 16, 150, 256


class Engine(Protocol):
    """``people``: (N, D) float16 unit vectors; row i is of camera ``i % CAMERAS``."""

    def build(self, people: np.ndarray, folder: Path) -> None:
        """Write an index of all people, and make it ready for searching."""

    def open(self, folder: Path) -> None:
        """For searching."""

    def search(self, query: np.ndarray, camera: int | None) -> np.ndarray:
        """Rows of the ten nearest of a camera, or of all, best first."""


class Store:
    """A gallery of an engine of :mod:`spnet_d2.gallery`."""

    def __init__(self, engine: str):
        self._engine = engine
        self.gallery: GalleryStore | None = None

    def build(self, people: np.ndarray, folder: Path) -> None:
        settings = GallerySettings(people.shape[1], "synthetic")
        with closing(create_gallery(folder / "gallery", settings, self._engine)) as gallery:
            for rows in progress(len(people), f"{self._engine}: adding"):
                gallery.add(rows_of(people, rows))
            gallery.compact()

    def open(self, folder: Path) -> None:
        self.gallery = open_gallery(folder / "gallery")

    def search(self, query: np.ndarray, camera: int | None) -> np.ndarray:
        assert self.gallery is not None
        where = Filter() if camera is None else Filter(cameras=f"camera {camera}")
        return self.gallery.search(query, 10, where)[0].ids


class NpzScan:
    """A float32 matrix in an ``.npz``, read as a whole: what ``tools/search.py`` ranks."""

    def build(self, people: np.ndarray, folder: Path) -> None:
        np.savez(folder / "index.npz", embeddings=people.astype(np.float32))

    def open(self, folder: Path) -> None:
        with np.load(folder / "index.npz") as file:
            self._embeddings = file["embeddings"]

    def search(self, query: np.ndarray, camera: int | None) -> np.ndarray:
        rows = np.arange(camera or 0, len(self._embeddings), 1 if camera is None else CAMERAS)
        there = self._embeddings if camera is None else self._embeddings[rows]
        return rows[np.argsort(-cosine_similarities(there, query), kind="stable")[:10]]


class Faiss:
    """faiss: every vector as float16 (``flat``), or graphs over float16 (``hnsw``)."""

    def __init__(self, kind: str):
        self._kind = kind

    def build(self, people: np.ndarray, folder: Path) -> None:
        faiss = _faiss()
        dimension, half = people.shape[1], faiss.ScalarQuantizer.QT_fp16
        product = faiss.METRIC_INNER_PRODUCT
        if self._kind == "flat":
            index = faiss.IndexScalarQuantizer(dimension, half, product)
        else:
            index = faiss.IndexHNSWSQ(dimension, half, _HNSW_LINKS, product)
            index.hnsw.efConstruction = _HNSW_BUILD
        index.train(people[:1000].astype(np.float32))
        for rows in progress(len(people), f"faiss {self._kind}: adding"):
            index.add(people[rows].astype(np.float32))
        faiss.write_index(index, str(folder / "index.faiss"))

    def open(self, folder: Path) -> None:
        self._index = _faiss().read_index(str(folder / "index.faiss"))

    def search(self, query: np.ndarray, camera: int | None) -> np.ndarray:
        return self._index.search(query[None], 10, params=self._parameters(camera))[1][0]

    def _parameters(self, camera: int | None):
        faiss = _faiss()
        options: dict[str, Any] = {}
        if camera is not None:
            rows = np.arange(camera, self._index.ntotal, CAMERAS)
            options["sel"] = faiss.IDSelectorBatch(rows)
        if self._kind == "hnsw":
            return faiss.SearchParametersHNSW(efSearch=_HNSW_SEARCH, **options)
        # A flat index of float16 is an inverted file without lists to its searches.
        return faiss.SearchParameters(**options)


def _faiss() -> Any:
    """The package, whose types of some releases leave out what it has."""
    return import_module("faiss")


def engine(name: str) -> Engine:
    """``exact``, ``lancedb``, ``npz``, ``faiss-flat`` or ``faiss-hnsw``."""
    if name.startswith("faiss-"):
        return Faiss(name.removeprefix("faiss-"))
    return NpzScan() if name == "npz" else Store(name)


def rows_of(people: np.ndarray, rows: slice, first: int = 0) -> People:
    """Rows of a matrix as people of cameras in turn; ``first``: rows that were added before."""
    numbers = np.arange(rows.start, rows.stop) + first
    start = np.datetime64("2026-05-01T00:00:00", "ns")
    return People.of(
        people[rows],
        np.tile(np.array([10, 20, 60, 180], np.float32), (len(numbers), 1)),
        np.full(len(numbers), 0.9),
        sources="synthetic",
        cameras=[f"camera {i % CAMERAS}" for i in numbers],
        frames=numbers,
        times=start + numbers * np.timedelta64(1, "s"),
        tracklets=numbers // 4,
    )


def progress(count: int, text: str, step: int = _ROWS) -> Iterator[slice]:
    """Slices of ``count`` rows, with a bar."""
    with tqdm(total=count, desc=text, unit=" rows", unit_scale=True) as bar:
        for start in range(0, count, step):
            rows = slice(start, min(start + step, count))
            yield rows
            bar.update(rows.stop - rows.start)
