"""PRW as distributed to the generic person-search JSON.

Partitions: ``trainval``, ``test``, and pieces of ``trainval`` for validating a pre-training.
Protocols: ``test`` (the standard: all test frames but the query's), ``same_cam_id``,
``cross_cam_id`` and ``val``.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spnet_d2.data.formats import prw_mat as mat
from spnet_d2.data.formats.corpus import FIRST_UNKNOWN_ID, Corpus, log_counts
from spnet_d2.data.formats.splits import (
    Partition,
    deal_out,
    image_components,
    most_frequent_people,
    subset,
    val_protocol,
    write_prepared,
)
from spnet_d2.data.person_search_json import Protocol
from spnet_d2.data.person_search_schema import make_annotation

logger = logging.getLogger(__name__)

INFO = {
    "description": "PRW person search, version 16.04.20",
    "url": "https://github.com/liangzheng06/PRW-baseline",
}
PUBLISHED = {
    "trainval images": 5704,
    "trainval boxes": 18048,
    "trainval identities": 483,
    "test images": 6112,
    "test boxes": 25062,
    "queries": 2057,
}


@dataclass(frozen=True)
class Splits:
    """Sizes of the partitions cut from the training frames; miniatures need smaller ones.

    Attributes:
        val_percent: share of the frames that goes to val.
        ignored_people: how many of the most frequent people are left out of the graph of frames;
            with them nearly everything is one component.
        minitrain, minival, tiny: (frames of the component to cut from, frames taken), where the
            tiny ones are taken one after the other from the same component.
        gallery_size: frames per query of the val protocol.
        seed: of the order in which components are dealt out.
    """

    val_percent: int = 20
    ignored_people: int = 100
    minitrain: tuple[int, int] = (3517, 100)
    minival: tuple[int, int] = (518, 100)
    tiny: tuple[int, tuple[int, ...]] = (53, (4, 8, 12, 16))
    gallery_size: int = 100
    seed: int = 2


def prepare(
    dataset_dir: str | Path, splits: Splits | None = None, same_cam_own_frame: bool = False
) -> dict[str, Path]:
    """Write every partition and protocol below ``dataset_dir``.

    Ids count up from 0 in the order of the official lists, training frames first. Nothing is
    written before all files have been read.

    Args:
        dataset_dir: folder with ``frames/``, ``annotations/`` and ``query_info.txt``.
        splits: sizes of the derived partitions.
        same_cam_own_frame: keep the query's own frame in its ``same_cam_id`` gallery, as the
            paper's code does. There the query finds itself, which inflates the result, so the
            default leaves it out.

    Returns:
        Path of each file written, by ``coco/<partition>.json`` or ``retrieval/<protocol>.json``.

    Raises:
        CorpusError: if an official file is missing or malformed.
    """
    splits = splits or Splits()
    corpus = mat.open_corpus(dataset_dir)
    frames = {part: mat.read_frames(corpus, part) for part in ("train", "test")}
    queries = mat.read_queries(corpus)
    everything = [*frames["train"], *frames["test"]]
    if len(set(everything)) != len(everything):
        path = corpus.root / "frame_test.mat"
        raise corpus.error(path, "a frame is listed twice in frame_train.mat and frame_test.mat")
    people = mat.read_all_people(corpus, everything)
    names = [f"{frame}.jpg" for frame in everything]
    sizes = corpus.image_sizes(mat.IMAGE_FOLDER, names)

    whole = _number_frames(everything, people, sizes)
    cut = len(frames["train"])
    partitions = {
        "trainval": subset(whole, range(cut)),
        "test": subset(whole, range(cut, len(everything))),
    }
    protocols = _protocols(corpus, partitions["test"], queries, same_cam_own_frame)
    partitions.update(_cut(partitions["trainval"], splits))
    protocols["val"] = val_protocol(partitions["val"], splits.gallery_size)
    counts = {"queries": len(queries)}
    for name in ("trainval", "test"):
        entries = partitions[name]["annotations"]
        counts[f"{name} images"] = len(partitions[name]["images"])
        counts[f"{name} boxes"] = len(entries)
        counts[f"{name} identities"] = len({e["person_id"] for e in entries if e["is_known"]})
    log_counts(corpus, counts, PUBLISHED)
    return write_prepared(corpus.root, partitions, protocols, INFO)


def _number_frames(
    frames: Sequence[str],
    people: dict[str, tuple[list[int], list[mat.Box]]],
    sizes: Sequence[tuple[int, int]],
) -> Partition:
    """Images and annotations of all frames; unknown people count up from 5555."""
    images: list[dict] = []
    annotations: list[dict] = []
    next_unknown = FIRST_UNKNOWN_ID
    for image_id, (frame, (width, height)) in enumerate(zip(frames, sizes)):
        images.append(
            {
                "id": image_id,
                "file_name": f"{frame}.jpg",
                "width": width,
                "height": height,
                "cam_id": mat.camera(frame),
            }
        )
        for person, box in zip(*people[frame]):
            known = person != mat.UNKNOWN
            if not known:
                person, next_unknown = next_unknown, next_unknown + 1
            annotations.append(make_annotation(len(annotations), image_id, box, person, known))
    return {"images": images, "annotations": annotations}


def _protocols(
    corpus: Corpus, test: Partition, queries: Sequence[mat.FrameQuery], same_cam_own_frame: bool
) -> dict[str, Protocol | None]:
    """``test``, ``same_cam_id`` and ``cross_cam_id``; each query must be exactly one annotation."""
    images = {image["file_name"]: image for image in test["images"]}
    found: dict[tuple, list[int]] = {}
    for entry in test["annotations"]:
        key = (entry["image_id"], entry["person_id"], tuple(entry["bbox"]))
        found.setdefault(key, []).append(entry["id"])
    image_ids = [image["id"] for image in test["images"]]
    cameras = {image["cam_id"] for image in test["images"]}
    same_camera, other_cameras = (
        {
            camera: [image["id"] for image in test["images"] if (image["cam_id"] == camera) is same]
            for camera in cameras
        }
        for same in (True, False)
    )
    ids, same_cam, cross_cam = [], {}, {}
    for query in queries:
        image = images.get(f"{query.frame}.jpg")
        hits = found.get((image["id"], query.person_id, query.box), []) if image else []
        if image is None or len(hits) != 1:
            message = (
                f"line {query.line}: person {query.person_id} with box {query.box} must be exactly "
                f"one annotation of the test frame {query.frame}, found {len(hits)}"
                + ("" if image else " (no such test frame)")
            )
            raise corpus.error(corpus.root / "query_info.txt", message)
        query_id = hits[0]
        ids.append(query_id)
        same_cam[query_id] = [
            other
            for other in same_camera[image["cam_id"]]
            if same_cam_own_frame or other != image["id"]
        ]
        cross_cam[query_id] = other_cameras[image["cam_id"]]
    if len(set(ids)) != len(ids):
        raise corpus.error(corpus.root / "query_info.txt", "a query is listed twice")
    return {
        "test": Protocol(image_ids, ids),
        "same_cam_id": Protocol(image_ids, same_cam),
        "cross_cam_id": Protocol(image_ids, cross_cam),
    }


def _cut(trainval: Partition, splits: Splits) -> dict[str, Partition]:
    """train, val, minitrain, minival and tinytrainval* of the training frames."""
    frequent = most_frequent_people(trainval["annotations"], splits.ignored_people)
    components = image_components(trainval["images"], trainval["annotations"], frequent)
    order = np.random.RandomState(splits.seed).permutation(len(components)).tolist()
    # Walked backwards, and frames without company may go to val too, unlike CUHK-SYSU.
    train, val = deal_out(components, order[::-1], splits.val_percent, min_size=1)
    chosen = {"train": train, "val": val}
    wanted = {"minitrain": splits.minitrain, "minival": splits.minival}
    tiny_component, tiny_counts = splits.tiny
    for name, (size, count) in wanted.items():
        if component := _component(components, size, count, name):
            chosen[name] = component[:count]
    if component := _component(components, tiny_component, sum(tiny_counts), "tinytrainval*"):
        start = 0
        for count in tiny_counts:
            chosen[f"tinytrainval{count}"] = component[start : start + count]
            start += count
    return {name: subset(trainval, image_ids) for name, image_ids in chosen.items()}


def _component(components: list[list[int]], size: int, count: int, name: str) -> list[int] | None:
    """The component of ``size`` frames; if there is none, the nearest in size with ``count``."""
    large_enough = [component for component in components if len(component) >= count]
    if not large_enough:
        logger.warning("PRW: no partition %s: no component has %d frames", name, count)
        return None
    component = min(large_enough, key=lambda entry: abs(len(entry) - size))
    if len(component) != size:
        logger.warning(
            "PRW: %s is cut from a component of %d frames, %d were expected",
            name,
            len(component),
            size,
        )
    return component
