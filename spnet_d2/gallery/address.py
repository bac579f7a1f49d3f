"""From a gallery's address to its store."""

import os
from pathlib import Path
from typing import Any

from .errors import GalleryError
from .exact import ExactStore
from .folder import read_manifest
from .lance import LanceStore
from .milvus import SCHEME, MilvusStore
from .store import GallerySettings, GalleryStore

ENGINES = ("exact", "lancedb")
ENGINE_HELP = "exact, lancedb, or milvus://HOST:PORT/COLLECTION"


def gallery_folder(address: str | os.PathLike) -> Path:
    """
    The folder of a gallery.

    Raises:
        GalleryError: it is the address of an engine or of a stream, and no folder.
    """
    text = os.fspath(address)
    if "://" in text:
        raise GalleryError(
            f"A gallery is a folder, found {text}. The folder has the model, thumbnails and what "
            "is indexed; where its rows are is said once, when it is made (--engine "
            "milvus://...), and kept in it."
        )
    return Path(text)


def create_gallery(
    address: str | os.PathLike, settings: GallerySettings, engine: str = "exact", **options: Any
) -> GalleryStore:
    """
    Make an empty gallery and open it for writing.

    Args:
        address: a new folder.
        settings: what makes its embeddings comparable.
        engine: one of ``ENGINES``, or ``milvus://HOST:PORT/COLLECTION``
            (:class:`~.milvus.MilvusAddress`): the rows are there.
        options: of the engine.

    Raises:
        GalleryError: there is something already, the engine is unknown or not installed.
    """
    address = gallery_folder(address)
    if engine.startswith(f"{SCHEME}://"):
        return MilvusStore.create(address, settings, engine, **options)
    return _engine(engine, ENGINES).create(address, settings, **options)


def open_gallery(
    address: str | os.PathLike,
    write: bool = False,
    expected: GallerySettings | None = None,
    **options: Any,
) -> GalleryStore:
    """
    Open a gallery, of whichever engine.

    Args:
        address: its folder.
        write: for adding, deleting and compacting; one program at a time.
        expected: what the model that searches or adds gives.
        options: of the engine.

    Raises:
        GalleryError: no gallery, an unknown version or engine, another writer, or it was made with
            other settings than expected.
    """
    engine = read_manifest(gallery_folder(address))["engine"]
    store = _engine(engine, (*ENGINES, MilvusStore.engine))(address, write=write, **options)
    if expected is not None:
        try:
            store.settings.check_serves(expected, store.address)
        except GalleryError:
            store.close()
            raise
    return store


Store = type[ExactStore] | type[LanceStore] | type[MilvusStore]


def _engine(name: str, known: tuple[str, ...]) -> Store:
    stores: tuple[Store, ...] = (ExactStore, LanceStore, MilvusStore)
    for store in stores:
        if store.engine == name and name in known:
            return store
    raise GalleryError(f"Unknown engine {name!r}; this program has {ENGINE_HELP}.")
