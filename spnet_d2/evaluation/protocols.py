"""Retrieval protocols: which annotations are queries, and which images each one searches."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spnet_d2.data.person_search_json import load_protocol
from spnet_d2.evaluation.ground_truth import GroundTruth

# Monitoring protocol that needs no file; its metrics do not compare with any published one.
ALL_PROTOCOL = "all"


@dataclass(frozen=True)
class RetrievalProtocol:
    """A protocol whose ids have become numbers of a :class:`GroundTruth`.

    Attributes:
        name: name in reports.
        images: (J,) numbers of the protocol's images, in the protocol's order.
        queries: (Q,) numbers of the query boxes, in the protocol's order.
        query_images: (Q,) numbers of the images of the query boxes.
        galleries: per query the numbers of its gallery images, order and
            repeats as listed; None: all ``images`` but the query's own.
    """

    name: str
    images: np.ndarray
    queries: np.ndarray
    query_images: np.ndarray
    galleries: list[np.ndarray] | None = None

    @classmethod
    def read(
        cls, protocol: str | os.PathLike, truth: GroundTruth, name: str | None = None
    ) -> "RetrievalProtocol":
        """Read a protocol file, or make the protocol that needs none.

        Args:
            protocol: path of the file, or "all".
            truth: the data set.
            name: name in reports; None: :func:`protocol_name`.

        Raises:
            FileNotFoundError, ValueError: it cannot be used.
        """
        if protocol == ALL_PROTOCOL:
            return cls.all_boxes(truth)
        content = load_protocol(protocol)
        return cls.from_ids(name or protocol_name(protocol), truth, content.images, content.queries)

    @classmethod
    def from_ids(
        cls, name: str, truth: GroundTruth, images: list[int], queries: dict | list
    ) -> "RetrievalProtocol":
        """Resolve a protocol file's content.

        Args:
            name: name in reports.
            truth: the data set.
            images: image ids of the protocol.
            queries: annotation id -> gallery image ids (as in
                CUHK-SYSU; the query's image stays if listed), or annotation ids whose gallery is
                every protocol image but the query's own (as in PRW).

        Raises:
            ValueError: no queries, or an id that the data set lacks.
        """
        if len(queries) == 0:
            raise ValueError(f'Protocol "{name}" must have at least one query, but has none.')
        whose = f'protocol "{name}"'
        query_ids = np.array(list(queries), np.int64)
        kept = truth.not_empty(query_ids, f"{whose}: queries")
        if not kept.any():
            raise ValueError(
                f'Protocol "{name}" must have at least one query, but the boxes of all of its '
                f"{len(query_ids)} queries are empty inside their images."
            )
        query_boxes = truth.find_annotations(query_ids[kept], whose)
        galleries = None
        if isinstance(queries, dict):
            listed = [gallery for gallery, k in zip(queries.values(), kept.tolist()) if k]
            ends = np.cumsum([len(gallery) for gallery in listed])
            flat = np.concatenate([np.array(gallery, np.int64) for gallery in listed])
            galleries = np.split(truth.find_images(flat, whose), ends[:-1])
        return cls(
            name=name,
            images=truth.find_images(np.array(images, np.int64), whose),
            queries=query_boxes,
            query_images=truth.image_index[query_boxes],
            galleries=galleries,
        )

    @classmethod
    def all_boxes(cls, truth: GroundTruth) -> "RetrievalProtocol":
        """The ``all`` protocol: every annotation searches every image but its own.

        People who occur once, or are unknown, are queries too: they score 0 and stay in the mean.
        """
        return cls(
            name=ALL_PROTOCOL,
            images=np.arange(truth.num_images),
            queries=np.arange(len(truth.boxes)),
            query_images=truth.image_index,
        )

    def gallery(self, query: int) -> np.ndarray:
        """Numbers of the gallery images of the ``query``-th query, repeats included."""
        if self.galleries is not None:
            return self.galleries[query]
        return self.images[self.images != self.query_images[query]]

    def without_own_frames(self) -> "RetrievalProtocol":
        """The protocol with each query's own image taken out of its gallery, if it is listed."""
        if self.galleries is None:
            return self
        others = [g[g != own] for g, own in zip(self.galleries, self.query_images)]
        return replace(self, galleries=others)

    def gallery_share(self, num_images: int) -> float:
        """Share of the data set's ``num_images`` images in an average gallery (repeats count)."""
        if self.galleries is None:
            return len(self.images) / num_images
        return sum(map(len, self.galleries)) / (len(self.galleries) * num_images)

    def covered_images(self) -> np.ndarray:
        """Numbers of all images the protocol needs predictions for, ascending."""
        return _ascending([self.images, self.query_images, self.searched_images()])

    def searched_images(self) -> np.ndarray:
        """Numbers of all images of the galleries, ascending."""
        return _ascending([self.images] if self.galleries is None else self.galleries)


def protocol_name(protocol: str | os.PathLike) -> str:
    """Name of a protocol in reports: its file's name without ``.json``."""
    return ALL_PROTOCOL if protocol == ALL_PROTOCOL else Path(protocol).stem


def _ascending(parts: list[np.ndarray]) -> np.ndarray:
    # Full galleries list millions of images: count instead of sorting.
    return np.flatnonzero(np.bincount(np.concatenate(parts)))
