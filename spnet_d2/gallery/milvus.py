"""
The Milvus store: rows in a distributed engine, for galleries that outgrow one machine.

Its folder has the manifest, which names server and collection, and the writer's lock; everything
else is in the cluster. The engine filters before it takes neighbours. Its candidates are ranked
again by their exact similarity.

Columns are those of :mod:`~.lance`, but embeddings are float32 there, and another column says
whether a row's time is known: the oldest server that is supported, 2.3, has neither half precision
nor null.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from .errors import GalleryError
from .filter import EVERYBODY, Filter
from .folder import FolderStore, create_folder, write_manifest
from .people import People, check_all_found, nobody
from .scan import best_first, scan
from .store import GallerySettings, Hits, check_deletes_some

SCHEME = "milvus"
_INDICES = {
    "HNSW": {"M": 16, "efConstruction": 200},
    "FLAT": {},
    "IVF_FLAT": {"nlist": 1024},
    "DISKANN": {},
}
_CONSISTENCY = ("Strong", "Bounded", "Session", "Eventually")
# Candidates that are ranked again, per person to find; more the engine does not give.
_CANDIDATES = 4
_MOST = 16_384
# Neighbours that the graph's search keeps, and parts of an IVF index that are searched.
_EFFORT = 256
_PROBES = 32
# Bytes of embeddings in one message; a server takes 64 MB.
_MESSAGE = 2**24
_TIMEOUT = 30.0
_TEXTS = ("source", "camera", "thumbnail", "batch")
_LONGEST_TEXT = 4096
_NOBODY = "id == -1"


@dataclass(frozen=True)
class MilvusAddress:
    """
    Where rows are, from ``milvus://HOST:PORT/COLLECTION?index=HNSW&consistency=Strong``.

    Attributes:
        server: ``http://host:port``.
        collection: name.
        index: kind of the vector index, one of HNSW, FLAT, IVF_FLAT, DISKANN.
        consistency: how new the rows are that searches see: Strong, Bounded, Session, Eventually.
    """

    server: str
    collection: str
    index: str = "HNSW"
    consistency: str = "Strong"

    @classmethod
    def of(cls, text: str) -> "MilvusAddress":
        """
        Raises:
            GalleryError: not of this form.
        """
        form = f"{SCHEME}://HOST:PORT/COLLECTION?index={'|'.join(_INDICES)}"
        try:
            parts = urlsplit(text)
            options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
            port = parts.port or 19530
        except ValueError as error:
            raise GalleryError(f"{text} is no address of the form {form}: {error}.") from None
        name = parts.path.strip("/")
        if parts.scheme != SCHEME or not parts.hostname or parts.username:
            raise GalleryError(
                f"{text} is no address of the form {form}; a user's token comes from the variable "
                "MILVUS_TOKEN."
            )
        if not (name.isascii() and name.isidentifier()):
            raise GalleryError(
                f"A collection's name has letters, digits and _, found {name!r} in {text}."
            )
        found = cls(f"http://{parts.hostname}:{port}", name, **_known(options, text))
        for what, value, known in (
            ("index", found.index, tuple(_INDICES)),
            ("consistency", found.consistency, _CONSISTENCY),
        ):
            if value not in known:
                raise GalleryError(f"{what} of {text} must be one of {', '.join(known)}.")
        return found


def _known(options: dict[str, str], text: str) -> dict[str, str]:
    if unknown := set(options) - {"index", "consistency"}:
        raise GalleryError(f"{text} has unknown options: {', '.join(sorted(unknown))}.")
    return options


class MilvusStore(FolderStore):
    """
    A :class:`~.store.GalleryStore` in a Milvus cluster.

    Args:
        path: folder of the gallery.
        write: open for adding, deleting and compacting.

    Raises:
        GalleryError: pymilvus is not installed, the server does not answer, or what opening any
            gallery raises.
    """

    engine = "milvus"

    def __init__(self, path: str | os.PathLike, write: bool = False):
        super().__init__(path, write)
        try:
            self._at = MilvusAddress.of(self._manifest["server"])
            self._client = _connect(self._at)
            with self._errors("opening"):
                if not self._client.has_collection(self._at.collection):
                    raise GalleryError(
                        f"The gallery {self.address} is in the collection {self._at.collection} "
                        f"of {self._at.server}, which is not there."
                    )
                self._client.load_collection(self._at.collection)
                if write:
                    self._drop_unfinished()
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(
        cls, path: str | os.PathLike, settings: GallerySettings, server: str, **options: Any
    ) -> "MilvusStore":
        """
        Make an empty gallery and open it for writing.

        Args:
            path: a new folder.
            settings: what makes its embeddings comparable.
            server: see :class:`MilvusAddress`.

        Raises:
            GalleryError: the server does not answer, or has such a collection.
        """
        at = MilvusAddress.of(server)
        client = _connect(at)
        try:
            with _in_one_line(f"making the collection {at.collection} of {at.server}"):
                if client.has_collection(at.collection):
                    raise GalleryError(
                        f"{at.server} has a collection {at.collection} already; choose another "
                        "name, or delete it there."
                    )
                state = {"server": server, "next_id": 0, "committed": 0}
                create_folder(Path(path).resolve(), cls.engine, settings, state)
                _create_collection(client, at, settings.dimension)
        finally:
            client.close()
        return cls(path, write=True, **options)

    def add(self, people: People) -> np.ndarray:
        ids = self._ids_for(people)
        if len(people):
            rows = max(1, _MESSAGE // (4 * self.settings.dimension))
            with self._errors(f"adding {len(people)} people to"):
                # A program killed between here and the second note leaves rows that the next
                # writer removes.
                self._note(next_id=int(ids[-1]) + 1)
                try:
                    for start in range(0, len(people), rows):
                        part = slice(start, start + rows)
                        self._client.insert(
                            self._at.collection, _to_rows(ids[part], people.rows(part))
                        )
                except BaseException:
                    self._drop_unfinished()
                    raise
                self._note(committed=int(ids[-1]) + 1)
        return ids

    def _drop_unfinished(self) -> None:
        committed, following = self._manifest["committed"], self._manifest["next_id"]
        if committed < following:
            self._client.delete(self._at.collection, filter=f"id >= {committed}")
            self._note(committed=following)

    def search(self, queries: Any, topk: int = 10, where: Filter = EVERYBODY) -> list[Hits]:
        vectors = self.settings.checked_queries(queries, topk, where, self.address)
        wanted = topk * _CANDIDATES + 16
        count = self.count(where)
        if not count or wanted > _MOST:
            return self._scanned(vectors, topk, where)
        with self._errors("searching"):
            found = self._client.search(
                self._at.collection,
                data=vectors.tolist(),
                limit=wanted,
                filter=expression(where),
                output_fields=["id", "embedding"],
                anns_field="embedding",
                search_params={"metric_type": "COSINE", "params": self._effort(wanted)},
                consistency_level=self._at.consistency,
            )
        results = []
        for query, candidates in zip(vectors, found):
            ids = np.array([hit["entity"]["id"] for hit in candidates], np.int64)
            half = _halves([hit["entity"]["embedding"] for hit in candidates], len(query))
            hits = best_first(ids, half, query, topk)
            if len(hits) < min(topk, count):
                # The graph's search ended early: the filter leaves too few of what it passes.
                (hits,) = self._scanned(query[None], topk, where)
            results.append(hits)
        return results

    def _effort(self, wanted: int) -> dict[str, int]:
        kind = self._at.index
        if kind == "HNSW":
            return {"ef": max(_EFFORT, wanted)}
        if kind == "DISKANN":
            return {"search_list": max(_EFFORT, wanted)}
        return {"nprobe": _PROBES} if kind == "IVF_FLAT" else {}

    def _scanned(self, queries: np.ndarray, topk: int, where: Filter) -> list[Hits]:
        """Each of the people that the filter leaves."""
        return scan(self._blocks(where), queries, topk)

    def _blocks(self, where: Filter) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        dimension = self.settings.dimension
        rows = max(1, min(_MOST, _MESSAGE // (4 * dimension)))
        for part in self._batches(where, ["id", "embedding"], rows):
            ids = np.array([row["id"] for row in part], np.int64)
            yield ids, _halves([row["embedding"] for row in part], dimension)

    def _batches(self, where: Filter, columns: list[str], rows: int = _MOST) -> Iterator[list]:
        """All rows of a filter, some at a time."""
        with self._errors("reading"):
            iterator = self._client.query_iterator(
                self._at.collection,
                batch_size=rows,
                filter=expression(where),
                output_fields=columns,
                consistency_level=self._at.consistency,
            )
            try:
                while part := iterator.next():
                    yield part
            finally:
                iterator.close()

    def find(self, where: Filter = EVERYBODY) -> np.ndarray:
        found = [row["id"] for part in self._batches(where, ["id"]) for row in part]
        return np.sort(np.array(found, np.int64))

    def count(self, where: Filter = EVERYBODY) -> int:
        with self._errors("reading"):
            (row,) = self._client.query(
                self._at.collection,
                filter=expression(where),
                output_fields=["count(*)"],
                consistency_level=self._at.consistency,
            )
        return int(row["count(*)"])

    def fetch(self, ids: Any) -> People:
        ids = np.atleast_1d(np.asarray(ids, np.int64))
        rows = self._rows(ids, ["*"])
        if not len(ids):
            return nobody(self.settings.dimension)
        return _to_people([rows[i] for i in ids.tolist()], self.settings.dimension)

    def _rows(self, ids: np.ndarray, columns: list[str]) -> dict[int, dict[str, Any]]:
        """By id; an error for those that are not there."""
        wanted = np.unique(ids).tolist()
        step = max(1, min(1000, _MESSAGE // (4 * self.settings.dimension)))
        found = {}
        with self._errors("reading"):
            for start in range(0, len(wanted), step):
                part = self._client.query(
                    self._at.collection,
                    filter=f"id in {wanted[start : start + step]}",
                    output_fields=columns,
                    consistency_level=self._at.consistency,
                )
                found.update({row["id"]: row for row in part})
        check_all_found(ids, np.isin(ids, list(found)), self.address)
        return found

    def tracklets(self, ids: Any) -> np.ndarray:
        ids = np.atleast_1d(np.asarray(ids, np.int64))
        rows = self._rows(ids, ["id", "tracklet"])
        return np.array([rows[i]["tracklet"] for i in ids.tolist()], np.int64)

    def delete(self, where: Filter) -> int:
        self._check_writes()
        check_deletes_some(where)
        count = self.count(where)
        if count:
            with self._errors("deleting from"):
                self._client.delete(self._at.collection, filter=expression(where))
        return count

    def compact(self) -> None:
        """Ask the cluster to write its segments anew, without deleted rows; it does so when it has
        time, and removes old files after its retention period."""
        self._check_writes()
        with self._errors("compacting"):
            self._client.flush(self._at.collection)
            self._client.compact(self._at.collection)

    def close(self) -> None:
        client = getattr(self, "_client", None)
        if client is not None:
            client.close()
            self._client = None
        super().close()

    def _note(self, **changes: Any) -> None:
        manifest = {**self._manifest, **changes}
        write_manifest(self._path, manifest)
        self._manifest = manifest

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        with _in_one_line(f"{doing} {self.address}, in {self._at.server},"):
            yield


def expression(where: Filter) -> str:
    """A filter in Milvus's language; empty: there is no condition."""
    parts = []
    for name, column in (("cameras", "camera"), ("sources", "source"), ("batches", "batch")):
        names = getattr(where, name)
        if names is not None:
            parts.append(_among(column, [json.dumps(one, ensure_ascii=False) for one in names]))
    if where.ids is not None:
        parts.append(_among("id", [str(one) for one in where.ids]))
    for time, comparison in ((where.since, ">="), (where.before, "<")):
        if time is not None:
            bound = f"(timed == true and time {comparison} {int(time.astype(np.int64))})"
            parts.append(_NOBODY if np.isnat(time) else bound)
    if where.min_score is not None:
        parts.append(f"score >= {where.min_score!r}")
    return " and ".join(parts)


def _among(column: str, values: list[str]) -> str:
    return f"{column} in [{', '.join(values)}]" if values else _NOBODY


def _connect(at: MilvusAddress):
    try:
        from pymilvus import MilvusClient
    except ImportError as error:
        raise GalleryError(
            f"The engine milvus is not installed ({error.name} is missing): pip install "
            "'spnet_d2[cluster]', or use engine lancedb."
        ) from error
    with _in_one_line(f"connecting to {at.server}"):
        return MilvusClient(at.server, token=os.environ.get("MILVUS_TOKEN", ""), timeout=_TIMEOUT)


@contextmanager
def _in_one_line(doing: str) -> Iterator[None]:
    """The engine's errors in one line each."""
    import grpc
    from pymilvus import MilvusException

    try:
        yield
    except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError) as error:
        text = getattr(error, "message", "") or str(error) or type(error).__name__
        raise GalleryError(f"{doing} failed: {text.splitlines()[0]}") from error


def _create_collection(client, at: MilvusAddress, dimension: int) -> None:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=dimension)
    for name in ("x1", "y1", "x2", "y2", "score"):
        schema.add_field(name, DataType.FLOAT)
    for name in ("frame", "time", "tracklet"):
        schema.add_field(name, DataType.INT64)
    schema.add_field("timed", DataType.BOOL)
    for name in _TEXTS:
        schema.add_field(name, DataType.VARCHAR, max_length=_LONGEST_TEXT)
    index = client.prepare_index_params()
    index.add_index(
        "embedding", index_type=at.index, metric_type="COSINE", params=_INDICES[at.index]
    )
    client.create_collection(
        at.collection, schema=schema, index_params=index, consistency_level=at.consistency
    )


def _to_rows(ids: np.ndarray, people: People) -> list[dict[str, Any]]:
    timed = ~np.isnat(people.times)
    columns = {
        "id": ids.tolist(),
        "embedding": people.embeddings.astype(np.float32).tolist(),
        **{name: people.boxes[:, i].tolist() for i, name in enumerate(("x1", "y1", "x2", "y2"))},
        "score": people.scores.tolist(),
        "frame": people.frames.tolist(),
        "time": np.where(timed, people.times.view(np.int64), 0).tolist(),
        "timed": timed.tolist(),
        "tracklet": people.tracklets.tolist(),
        "source": people.sources.tolist(),
        "camera": people.cameras.tolist(),
        "thumbnail": people.thumbnails.tolist(),
        "batch": people.batches.tolist(),
    }
    return [dict(zip(columns, values)) for values in zip(*columns.values())]


def _to_people(rows: list[dict[str, Any]], dimension: int) -> People:
    def column(name: str, dtype: type) -> np.ndarray:
        return np.array([row[name] for row in rows], dtype)

    texts = {}
    for name in _TEXTS:
        texts[name] = np.empty(len(rows), object)
        texts[name][:] = [row[name] for row in rows]
    times = column("time", np.int64)
    times[~column("timed", bool)] = np.iinfo(np.int64).min
    return People(
        embeddings=_halves([row["embedding"] for row in rows], dimension),
        boxes=np.stack([column(name, np.float32) for name in ("x1", "y1", "x2", "y2")], axis=1),
        scores=column("score", np.float32),
        sources=texts["source"],
        cameras=texts["camera"],
        frames=column("frame", np.int64),
        times=times.view("datetime64[ns]"),
        tracklets=column("tracklet", np.int64),
        thumbnails=texts["thumbnail"],
        batches=texts["batch"],
    )


def _halves(vectors: list, dimension: int) -> np.ndarray:
    """(N, D) float16 of lists of floats, which float16 numbers were."""
    return np.array(vectors, np.float32).reshape(-1, dimension).astype(np.float16)
