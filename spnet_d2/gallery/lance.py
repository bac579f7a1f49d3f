"""
The LanceDB store: an approximate index (IVF, HNSW graphs over 8-bit codes) beside the rows.

Its folder: ``gallery.json`` (the manifest), ``people.lance`` and ``writer.lock``. The engine's
candidates are ranked again by their exact similarity, and where the filter leaves few people, every
one of them is looked at. Thumbnails stay outside: with wide rows, the engine's compaction runs out
of memory.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from .conditions import sql
from .errors import GalleryError
from .filter import EVERYBODY, Filter
from .folder import FolderStore, create_folder, write_manifest
from .people import People, check_all_found, nobody
from .scan import best_first, scan
from .store import GallerySettings, Hits, check_deletes_some

logger = logging.getLogger(__name__)

_TABLE = "people"
# With so few people behind the filter, looking at each is fast enough, and finds the nearest.
EXACT_BELOW = 50_000
# Neighbours that a graph's search keeps.
_EFFORT = 160
# The same when graphs are built, and links per row: half as many again of both take 1.6 times as
# long, and find hardly more.
_BUILD_EFFORT, _LINKS = 100, 16
# Candidates that are ranked again: per person to find, and beside them. At a million people, 64 of
# them to find, four each find 0.4 % more and take 1.4 times as long.
_CANDIDATES, _BESIDE = 2, 36
# Parts of the index at most, and rows of a part at least. Each has a graph of its own, and all are
# searched: small graphs are built twice as fast as one of all rows, several at a time, and find
# more.
_PARTS = 16
_PART_ROWS = 2**13
# The index takes in new rows when they are more than this share of it; until then searches look at
# each of them.
_UNINDEXED = 0.1
# This many indices, each with its graphs, become one: searches go through all of them. At ten per
# cent each, that is after the rows have doubled.
_MOST_INDICES = 8
# Bytes of embeddings in a file after compaction, and in what compaction holds at a time.
FRAGMENT_BYTES = 2**28
_BATCH_BYTES = 2**24
# Small files are merged when there are this many.
_MOST_FRAGMENTS = 64


class LanceStore(FolderStore):
    """
    A :class:`~.store.GalleryStore` for millions of people on one machine.

    Args:
        path: folder of the gallery.
        write: open for adding, deleting and compacting.
        exact_below: where the filter leaves fewer people, each is looked at.
        effort: neighbours that the search of the graphs keeps; more find more, and take longer.

    Raises:
        GalleryError: LanceDB is not installed, or what opening any gallery raises.
    """

    engine = "lancedb"

    def __init__(
        self,
        path: str | os.PathLike,
        write: bool = False,
        exact_below: int = EXACT_BELOW,
        effort: int = _EFFORT,
    ):
        lancedb = _lancedb()
        super().__init__(path, write)
        self._exact_below = exact_below
        self._effort = effort
        self._places = _Places()
        try:
            with self._errors("opening"):
                # Readers look for new commits at each call.
                database = lancedb.connect(self.address, read_consistency_interval=timedelta(0))
                if write:
                    schema = _schema(self.settings.dimension)
                    self._table = database.create_table(_TABLE, schema=schema, exist_ok=True)
                else:
                    self._table = database.open_table(_TABLE)
        except GalleryError:
            self.close()
            raise

    @classmethod
    def create(
        cls, path: str | os.PathLike, settings: GallerySettings, **options: Any
    ) -> "LanceStore":
        """Make an empty gallery and open it for writing."""
        _lancedb()
        state = {"next_id": 0, "index_has_deleted": False}
        create_folder(Path(path).resolve(), cls.engine, settings, state)
        return cls(path, write=True, **options)

    def add(self, people: People) -> np.ndarray:
        ids = self._ids_for(people)
        if len(people):
            with self._errors(f"adding {len(people)} people to"):
                # Taken first: a program killed here leaves a gap, and never one id twice.
                self._note(next_id=int(ids[-1]) + 1)
                self._table.add(_arrow(ids, people, self.settings.dimension))
            self._tidy()
        return ids

    def search(self, queries: Any, topk: int = 10, where: Filter = EVERYBODY) -> list[Hits]:
        vectors = self.settings.checked_queries(queries, topk, where, self.address)
        count = self.count(where)
        if count < self._exact_below:
            return self._scanned(vectors, topk, where)
        return [self._approximate(vector, topk, where, count) for vector in vectors]

    def _approximate(self, query: np.ndarray, topk: int, where: Filter, count: int) -> Hits:
        ids, half = self._candidates(query, topk * _CANDIDATES + _BESIDE, where)
        hits = best_first(ids, half, query, topk)
        if len(hits) < min(topk, count):
            # The graphs' search ended early: the filter leaves too few of what it passes.
            return self._scanned(query[None], topk, where)[0]
        return hits

    def _candidates(
        self, query: np.ndarray, count: int, where: Filter
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids and embeddings of the engine's nearest."""
        search = self._table.search(query, vector_column_name="embedding").distance_type("cosine")
        search = search.ef(max(self._effort, count)).nprobes(_PARTS)
        if not where.empty:
            search = search.where(sql(where), prefilter=True)
        columns = ["id", "embedding", "tracklet", "_distance"]
        search = search.select(columns).limit(count).with_row_id(True)
        with self._errors("searching"):
            table = search.to_arrow()
        self._places.remember(table)
        return _ids_and_embeddings(table, self.settings.dimension)

    def _scanned(self, queries: np.ndarray, topk: int, where: Filter) -> list[Hits]:
        """Each of the people that the filter leaves; the engine's own way reads all vectors."""
        with self._errors("searching"):
            return scan(self._blocks(where), queries, topk)

    def _blocks(self, where: Filter) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rows = max(1, _BATCH_BYTES // (2 * self.settings.dimension))
        scanner = self._table.to_lance().scanner(
            columns=["id", "embedding"], filter=sql(where), batch_size=rows
        )
        for batch in scanner.to_batches():
            yield _ids_and_embeddings(batch, self.settings.dimension)

    def find(self, where: Filter = EVERYBODY) -> np.ndarray:
        with self._errors("reading"):
            table = self._table.to_lance().to_table(columns=["id"], filter=sql(where))
        return np.sort(table["id"].to_numpy())

    def count(self, where: Filter = EVERYBODY) -> int:
        with self._errors("reading"):
            return self._table.count_rows(sql(where))

    def fetch(self, ids: Any) -> People:
        ids = np.atleast_1d(np.asarray(ids, np.int64))
        if not len(ids):
            return nobody(self.settings.dimension)
        with self._errors("reading"):
            table = self._rows(ids)
        there = table["id"].to_numpy()
        check_all_found(ids, np.isin(ids, there), self.address)
        order = np.argsort(there)
        people = _people(table, self.settings.dimension)
        return people.rows(order[np.searchsorted(there, ids, sorter=order)])

    def _rows(self, ids: np.ndarray):
        """All columns of those ids that are there."""
        places = self._places.of(ids)
        if places is not None:
            table = self._table.take_row_ids(places).to_arrow()
            # Compaction moves rows, also while this reads.
            if np.array_equal(np.sort(table["id"].to_numpy()), np.unique(ids)):
                return table
        # In two steps, which takes half as long as reading all columns of a filter.
        found = self._table.to_lance().to_table(
            columns=[], filter=sql(Filter(ids=ids)), with_row_id=True
        )
        return self._table.take_row_ids(found["_rowid"].to_pylist()).to_arrow()

    def tracklets(self, ids: Any) -> np.ndarray:
        ids = np.atleast_1d(np.asarray(ids, np.int64))
        known = self._places.tracklets(ids)
        return self.fetch(ids).tracklets if known is None else known

    def delete(self, where: Filter) -> int:
        self._check_writes()
        check_deletes_some(where)
        count = self.count(where)
        if count:
            with self._errors("deleting from"):
                self._note(index_has_deleted=True)
                self._table.delete(sql(where))
        return count

    def compact(self) -> None:
        self._check_writes()
        with self._errors("compacting"):
            # The index has the codes of deleted people.
            renew = self._manifest["index_has_deleted"]
            if renew:
                for index in self._table.list_indices():
                    self._table.drop_index(index.name)
            self._merge_files(everything=True)
            self._index(merge=True)
            dataset = self._table.to_lance()
            # Nobody else writes: this program has the lock.
            dataset.cleanup_old_versions(timedelta(0), delete_unverified=True)
            self._table.checkout_latest()
            if renew:
                self._note(index_has_deleted=False)

    def _tidy(self) -> None:
        """Keep searches fast. A failure is no error of the addition, which is committed."""
        try:
            with self._errors("indexing"):
                if len(self._table.to_lance().get_fragments()) > _MOST_FRAGMENTS:
                    self._merge_files(everything=False)
                self._index()
        except GalleryError as error:
            logger.warning("%s Searches are right and slower; compact tries again.", error)

    def _merge_files(self, everything: bool) -> None:
        """Put small files together, each of a bounded size, in bounded memory."""
        row = 2 * self.settings.dimension
        self._table.to_lance().optimize.compact_files(
            target_rows_per_fragment=max(1024, FRAGMENT_BYTES // row),
            batch_size=max(64, _BATCH_BYTES // row),
            num_threads=1,
            materialize_deletions=everything,
            materialize_deletions_threshold=0.0,
        )
        self._table.checkout_latest()

    def _index(self, merge: bool = False) -> None:
        """
        Make the indices once there are people enough, and let them take in new rows.

        New rows get graphs of their own, which is quick; ``merge`` makes the index of all anew, and
        takes as long as the first time.
        """
        from lancedb.index import Bitmap, BTree

        rows = self._table.count_rows()
        if rows < max(256, self._exact_below):
            return
        there = {index.name: index for index in self._table.list_indices()}
        if "embedding_idx" not in there:
            for column, kind in (("camera", Bitmap), ("source", Bitmap), ("time", BTree)):
                self._table.create_index(column, config=kind())
            self._table.create_index("id", config=BTree())
            self._table.create_index("embedding", config=_graphs(rows))
            return
        index = there["embedding_idx"]
        if index.num_segments > (1 if merge else _MOST_INDICES):
            # Not merged by the engine: it would keep the parts of the first rows.
            self._table.create_index("embedding", config=_graphs(rows), replace=True)
            others = [name for name in there if name != "embedding_idx"]
            self._table.to_lance().optimize.optimize_indices(index_names=others)
        elif index.num_unindexed_rows > _UNINDEXED * rows:
            self._table.to_lance().optimize.optimize_indices()
        self._table.checkout_latest()

    def _note(self, **changes: Any) -> None:
        manifest = {**self._manifest, **changes}
        write_manifest(self._path, manifest)
        self._manifest = manifest

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """The engine's errors in one line each."""
        try:
            yield
        except GalleryError:
            raise
        except (OSError, RuntimeError, ValueError) as error:
            text = str(error)
            if "No space left" in text or "os error 28" in text:
                text = "the disk is full; make room and do it again"
            elif "Permission denied" in text or "Read-only file system" in text:
                text = "the folder cannot be written; change its permissions"
            raise GalleryError(
                f"{doing} {self.address} failed, and the gallery is as before: "
                f"{text.splitlines()[0] if text else type(error).__name__}"
            ) from error


class _Places:
    """
    Where rows lie that searches came by: finding a row by its id takes as long as reading it.

    A row that moved since is noticed by its id; an id's tracklet never changes.
    """

    def __init__(self, most: int = 200_000):
        self._known: dict[int, tuple[int, int]] = {}
        self._most = most

    def remember(self, table) -> None:
        """The rows of a search's result, with ``id``, ``tracklet`` and ``_rowid``."""
        if len(self._known) > self._most:
            self._known = {}
        columns = (table[name].to_pylist() for name in ("id", "_rowid", "tracklet"))
        self._known.update((i, (place, tracklet)) for i, place, tracklet in zip(*columns))

    def of(self, ids: np.ndarray) -> list[int] | None:
        """Row ids of different ids; None unless all are known."""
        found = self._found(np.unique(ids))
        return None if found is None else [place for place, _ in found]

    def tracklets(self, ids: np.ndarray) -> np.ndarray | None:
        found = self._found(ids)
        return None if found is None else np.array([t for _, t in found], np.int64)

    def _found(self, ids: np.ndarray) -> list[tuple[int, int]] | None:
        known = self._known
        found = [known.get(i) for i in ids.tolist()]
        return None if None in found else found  # type: ignore[return-value]


def _graphs(rows: int):
    """The kind of index for this number of rows."""
    from lancedb.index import HnswSq

    return HnswSq(
        distance_type="cosine",
        num_partitions=min(_PARTS, max(1, rows // _PART_ROWS)),
        m=_LINKS,
        ef_construction=_BUILD_EFFORT,
    )


def _lancedb():
    try:
        # `lance` does what LanceDB has no option for: compaction to files of a given size.
        import lance  # noqa: F401
        import lancedb
    except ImportError as error:
        raise GalleryError(
            f"The engine lancedb is not installed ({error.name} is missing): pip install "
            "'spnet_d2[index]', or use engine exact."
        ) from error
    return lancedb


def _schema(dimension: int):
    import pyarrow as pa

    texts = ("source", "camera", "thumbnail", "batch")
    return pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            pa.field("embedding", pa.list_(pa.float16(), dimension)),
            pa.field("box", pa.list_(pa.float32(), 4)),
            pa.field("score", pa.float32()),
            pa.field("frame", pa.int64()),
            # Nanoseconds since 1970 UTC; null where unknown.
            pa.field("time", pa.int64()),
            pa.field("tracklet", pa.int64()),
            *(pa.field(name, pa.string()) for name in texts),
        ]
    )


def _arrow(ids: np.ndarray, people: People, dimension: int):
    import pyarrow as pa

    vectors = pa.array(people.embeddings.reshape(-1))
    columns = {
        "id": pa.array(ids),
        "embedding": pa.FixedSizeListArray.from_arrays(vectors, dimension),
        "box": pa.FixedSizeListArray.from_arrays(pa.array(people.boxes.reshape(-1)), 4),
        "score": pa.array(people.scores),
        "frame": pa.array(people.frames),
        "time": pa.array(people.times.view(np.int64), mask=np.isnat(people.times)),
        "tracklet": pa.array(people.tracklets),
        "source": pa.array(people.sources.tolist(), pa.string()),
        "camera": pa.array(people.cameras.tolist(), pa.string()),
        "thumbnail": pa.array(people.thumbnails.tolist(), pa.string()),
        "batch": pa.array(people.batches.tolist(), pa.string()),
    }
    schema = _schema(dimension)
    return pa.table([columns[field.name] for field in schema], schema=schema)


def _ids_and_embeddings(table, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    return table.column("id").to_numpy(), _matrix(table.column("embedding"), dimension)


def _matrix(column, width: int) -> np.ndarray:
    """(N, width) of a column of lists."""
    chunks = getattr(column, "chunks", [column])
    arrays = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in chunks]
    if not arrays:
        return np.zeros((0, width), column.type.value_type.to_pandas_dtype())
    return np.concatenate(arrays).reshape(-1, width)


def _people(table, dimension: int) -> People:
    unknown = np.iinfo(np.int64).min
    texts = {}
    for name in ("source", "camera", "thumbnail", "batch"):
        texts[name] = np.empty(len(table), object)
        texts[name][:] = table[name].to_pylist()
    return People(
        embeddings=_matrix(table["embedding"], dimension),
        boxes=_matrix(table["box"], 4),
        scores=table["score"].to_numpy(),
        sources=texts["source"],
        cameras=texts["camera"],
        frames=table["frame"].to_numpy(),
        times=table["time"].fill_null(unknown).to_numpy().view("datetime64[ns]"),
        tracklets=table["tracklet"].to_numpy(),
        thumbnails=texts["thumbnail"],
        batches=texts["batch"],
    )
