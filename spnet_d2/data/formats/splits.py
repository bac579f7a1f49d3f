"""Train / val partitions whose people do not overlap, the protocol of the val part, and writing.

Two images belong together if they share a person; the connected components of that graph are
dealt out whole, so no one is both trained on and validated with.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from spnet_d2.data.person_search_json import Protocol, write_person_search_json, write_protocol

logger = logging.getLogger(__name__)

Partition = dict[str, list[dict[str, Any]]]
"""``{"images": [...], "annotations": [...]}``, entries as in the JSON."""


def image_components(
    images: Sequence[Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    ignored_people: Collection[int] = (),
) -> list[list[int]]:
    """Group image ids into connected components of "shows the same person".

    Unknown people have ids of their own and so connect nothing.

    Returns:
        Components ordered by their first image; image ids in the order of ``images``.
    """
    row = {image["id"]: index for index, image in enumerate(images)}
    ignored = set(ignored_people)
    last_seen: dict[int, int] = {}
    edges = []
    for annotation in annotations:
        person, image = annotation["person_id"], row[annotation["image_id"]]
        if person in ignored:
            continue
        # A chain through a person's images connects them as well as all pairs would.
        if person in last_seen:
            edges.append((last_seen[person], image))
        last_seen[person] = image
    sources, targets = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(edges)), (sources, targets)), shape=(len(images), len(images)))
    labels = connected_components(graph, directed=False)[1]
    components = defaultdict(list)
    for entry, label in zip(images, labels.tolist()):
        components[label].append(entry["id"])
    return [components[label] for label in sorted(components)]


def most_frequent_people(annotations: Sequence[Mapping[str, Any]], count: int) -> list[int]:
    """The ``count`` person ids with most boxes; of equals the lower id."""
    boxes = Counter(annotation["person_id"] for annotation in annotations)
    return sorted(boxes, key=lambda person: (-boxes[person], person))[:count]


def deal_out(
    components: Sequence[Sequence[int]], order: Sequence[int], share_percent: int, min_size: int
) -> tuple[list[int], list[int]]:
    """Walk components in ``order`` into val until it holds ``share_percent`` of the images.

    Components smaller than ``min_size`` stay in train: they hold nobody to search for.

    Returns:
        (train image ids, val image ids), ascending.
    """
    total = sum(map(len, components))
    target = -(-total * share_percent // 100)
    train: list[int] = []
    val: list[int] = []
    for index in order:
        component = components[index]
        is_val = len(val) < target and len(component) >= min_size
        (val if is_val else train).extend(component)
    return sorted(train), sorted(val)


def subset(partition: Partition, image_ids: Collection[int]) -> Partition:
    """The part of a partition that shows some images; all ids stay as they are."""
    chosen = set(image_ids)
    return {
        "images": [image for image in partition["images"] if image["id"] in chosen],
        "annotations": [entry for entry in partition["annotations"] if entry["image_id"] in chosen],
    }


def val_protocol(partition: Partition, gallery_size: int, seed: int = 0) -> Protocol | None:
    """Queries and galleries for a partition that comes without a protocol.

    Every annotation of everyone with at least two annotations is a query. Its gallery starts with
    the images of the person's other annotations (an image twice, if the person is in it twice),
    filled up with random other images.

    Returns:
        The protocol; None, with a warning, if some gallery cannot reach ``gallery_size``.
    """
    rng = np.random.RandomState(seed)
    image_ids = np.array([image["id"] for image in partition["images"]], dtype=np.int64)
    people = defaultdict(list)
    for annotation in partition["annotations"]:
        people[annotation["person_id"]].append(annotation)
    queries = {}
    for person in sorted(people):
        if len(people[person]) < 2:
            continue
        for query in people[person]:
            gallery = [other["image_id"] for other in people[person] if other["id"] != query["id"]][
                :gallery_size
            ]
            others = image_ids[~np.isin(image_ids, [query["image_id"], *gallery])]
            rng.shuffle(others)
            gallery += others[: gallery_size - len(gallery)].tolist()
            if len(gallery) != gallery_size:
                logger.warning(
                    "no val protocol: the gallery of annotation %d reaches %d of %d images",
                    query["id"],
                    len(gallery),
                    gallery_size,
                )
                return None
            queries[query["id"]] = gallery
    return Protocol(image_ids.tolist(), queries)


def write_prepared(
    root: Path,
    partitions: Mapping[str, Partition],
    protocols: Mapping[str, Protocol | None],
    info: Mapping[str, Any],
) -> dict[str, Path]:
    """Write ``coco/<partition>.json`` and ``retrieval/<protocol>.json`` below ``root``.

    Protocols that are None are left out. Returns the path of each file by those names.
    """
    written = {}
    for name, partition in partitions.items():
        path = root / "coco" / f"{name}.json"
        write_person_search_json(path, partition["images"], partition["annotations"], info)
        written[f"coco/{name}.json"] = path
    for name, protocol in protocols.items():
        if protocol is not None:
            path = root / "retrieval" / f"{name}.json"
            write_protocol(path, protocol.images, protocol.queries)
            written[f"retrieval/{name}.json"] = path
    for path in written.values():
        logger.info("wrote %s (%.1f MB)", path, path.stat().st_size / 1e6)
    return written
