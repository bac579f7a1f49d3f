"""A held-out test part, and a retrieval protocol for it."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from spnet_d2.data.formats.convert.source import SourceError
from spnet_d2.data.formats.splits import Partition, deal_out, image_components, subset
from spnet_d2.data.person_search_json import Protocol

# Written out, a protocol of more would fill gigabytes.
MOST_ENTRIES = 50_000_000


def split_by_sequence(partition: Partition, sequences: Collection[str]) -> dict[str, Partition]:
    """
    Whole sequences held out.

    Returns:
        Partitions ``train`` and ``test``; ids stay as they are.

    Raises:
        SourceError: a sequence that isn't there, or nothing is left to train on.
    """
    there = dict.fromkeys(image.get("sequence", "") for image in partition["images"])
    if missing := set(sequences) - there.keys():
        raise SourceError(
            f"--test-sequences: no sequence {', '.join(sorted(missing))}; there are: "
            f"{', '.join(filter(None, there)) or 'none'}."
        )
    test = [image["id"] for image in partition["images"] if image.get("sequence") in sequences]
    return _parts(partition, test)


def split_by_share(partition: Partition, percent: int) -> dict[str, Partition]:
    """
    A share of the images held out: the end of each sequence; of other images some at random (seed
    0), those that show the same person together.

    Returns:
        Partitions ``train`` and ``test``; ids stay as they are. People of a sequence can be in
        both.
    """
    sequences = defaultdict(list)
    for image in partition["images"]:
        sequences[image.get("sequence", "")].append(image)
    test: list[int] = []
    for name, images in sequences.items():
        if name:
            start = len(images) - round(len(images) * percent / 100)
            test += [image["id"] for image in images[start:]]
        else:
            ids = {image["id"] for image in images}
            boxes = [a for a in partition["annotations"] if a["image_id"] in ids]
            components = image_components(images, boxes)
            order = np.random.RandomState(0).permutation(len(components)).tolist()
            test += deal_out(components, order, percent, min_size=1)[1]
    return _parts(partition, test)


def _parts(partition: Partition, test: Collection[int]) -> dict[str, Partition]:
    train = {image["id"] for image in partition["images"]} - set(test)
    parts = {"train": subset(partition, train), "test": subset(partition, test)}
    for name, part in parts.items():
        if not part["annotations"]:
            raise SourceError(f"The split leaves no person in {name}; hold out another share.")
    return parts


@dataclass(frozen=True)
class Gap:
    """How far from a query the images of its own sequence must be: frames, or seconds."""

    value: float
    key: str  # of an image's entry: "frame" or "time"

    @staticmethod
    def parse(text: str) -> "Gap":
        """``30`` frames or ``2.5s``; ``ValueError`` for anything else."""
        seconds = text.endswith("s")
        value = float(text.removesuffix("s"))
        if not 0 < value < float("inf"):
            raise ValueError(f"expected more than 0, found {text}")
        return Gap(value, "time" if seconds else "frame")


def other_images(partition: Partition) -> Protocol:
    """Every known box with another image of its person searches all other images.

    Raises:
        SourceError: nobody is in two images.
    """
    return _protocol(partition, lambda query, image: image["id"] != query["id"], shared=True)


def other_cameras(partition: Partition) -> Protocol:
    """Every known box searches the images of all other cameras.

    Raises:
        SourceError: nobody is seen by two cameras.
    """
    return _protocol(partition, lambda query, image: image["cam_id"] != query["cam_id"])


def later_or_elsewhere(partition: Partition, gap: Gap) -> Protocol:
    """Every known box searches other sequences, and its own at least ``gap`` away in time.

    Raises:
        SourceError: images have no frame or time, or nobody is that far away again.
    """
    for image in partition["images"]:
        if gap.key not in image:
            what = "frame rate (seqinfo.ini, video)" if gap.key == "time" else "frame number"
            raise SourceError(f"--gap: image {image['file_name']} has no {what}.")

    def far(query: dict, image: dict) -> bool:
        same = query.get("sequence", "") == image.get("sequence", "")
        return not same or abs(query[gap.key] - image[gap.key]) >= gap.value

    return _protocol(partition, far)


def _protocol(partition: Partition, in_gallery, shared: bool = False) -> Protocol:
    images = {image["id"]: image for image in partition["images"]}
    people = defaultdict(list)
    for entry in partition["annotations"]:
        if entry["is_known"]:
            people[entry["person_id"]].append(entry)
    galleries: dict[int, list[int]] = {}
    queries: dict[int, list[int]] = {}
    for entries in people.values():
        for entry in entries:
            query = images[entry["image_id"]]
            if any(in_gallery(query, images[other["image_id"]]) for other in entries):
                queries[entry["id"]] = []
                if not shared and query["id"] not in galleries:
                    galleries[query["id"]] = [
                        image for image in images if in_gallery(query, images[image])
                    ]
                queries[entry["id"]] = galleries.get(query["id"], [])
    if not queries:
        raise SourceError(
            "No protocol: nobody known is seen a second time in another image that the protocol "
            "searches."
        )
    if shared:
        return Protocol(sorted(images), sorted(queries))
    if (size := sum(map(len, queries.values()))) > MOST_ENTRIES:
        raise SourceError(
            f"The protocol would list {size:,} images for {len(queries):,} queries; use fewer "
            "frames (--step), or --protocol other_images, whose galleries need no list."
        )
    return Protocol(sorted(images), {query: queries[query] for query in sorted(queries)})
