"""CUHK-SYSU as distributed to the generic person-search JSON.

Partitions: ``trainval`` (all images outside ``pool.mat``), ``test``, and pieces of ``trainval``
for validating a pre-training. Protocols: ``G50`` .. ``G4000``, ``GOcclusion``, ``GResolution``,
``GFull`` and ``val``.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from spnet_d2.data.formats import cuhk_sysu_mat as mat
from spnet_d2.data.formats.corpus import FIRST_UNKNOWN_ID, Corpus, log_counts
from spnet_d2.data.formats.cuhk_sysu_mat import Box
from spnet_d2.data.formats.splits import (
    Partition,
    deal_out,
    image_components,
    subset,
    val_protocol,
    write_prepared,
)
from spnet_d2.data.person_search_json import Protocol
from spnet_d2.data.person_search_schema import make_annotation

logger = logging.getLogger(__name__)

INFO = {
    "description": "CUHK-SYSU person search",
    "url": "https://github.com/ShuangLI59/person_search",
}
PUBLISHED = {
    "trainval images": 11206,
    "trainval boxes": 55272,
    "trainval identities": 5532,
    "test images": 6978,
    "test boxes": 40871,
    "test identities": 2900,
}


# The galleries of G50, each with all other test images after it.
FULL_GALLERY = "GFull"
PROTOCOLS = (*mat.PROTOCOLS, FULL_GALLERY)


# Bytes of memory for each entry of a gallery that is read, and queries of a protocol.
_BYTES_PER_ENTRY, _QUERIES = 1100, 2900
# Official files are compressed, to much more than this share of the memory they take.
_LEAST_SHARE = 1e-3


def memory_needed(dataset_dir: str | Path, protocol: str) -> float:
    """Bytes that reading one of :data:`PROTOCOLS` takes, about."""
    if protocol == FULL_GALLERY or not re.fullmatch(r"G\d+", protocol):
        return memory_needed(dataset_dir, "G50")
    whole = _QUERIES * int(protocol[1:]) * _BYTES_PER_ENTRY
    file = Path(dataset_dir) / "annotation/test" / mat.PROTOCOLS[protocol][0]
    return min(whole, file.stat().st_size / _LEAST_SHARE) if file.is_file() else 0


def affordable(dataset_dir: str | Path, available: float) -> list[str]:
    """
    Those of :data:`PROTOCOLS` that fit into memory; a warning names the others.

    Args:
        dataset_dir: folder with ``annotation/``.
        available: bytes.
    """
    needed = {name: memory_needed(dataset_dir, name) for name in PROTOCOLS}
    left_out = {name: size for name, size in needed.items() if size > available}
    for name, size in left_out.items():
        logger.warning(
            "CUHK-SYSU: protocol %s is left out: reading it takes about %.1f GB of memory, %.1f GB "
            "are free. --protocols %s reads it all the same; the paper's is G100.",
            name,
            size / 1e9,
            available / 1e9,
            name,
        )
    return [name for name in PROTOCOLS if name not in left_out]


@dataclass(frozen=True)
class Splits:
    """Sizes of the partitions cut from the training images; miniatures need smaller ones.

    Attributes:
        val_percent: share of the images that goes to val.
        component_size: images per component of the mini partitions.
        mini_components: components in minitrain, and as many more in minival.
        gallery_size: images per query of the val protocol.
        seed: of the order in which components are dealt out.
    """

    val_percent: int = 20
    component_size: int = 4
    mini_components: int = 25
    gallery_size: int = 100
    seed: int = 0


def prepare(
    dataset_dir: str | Path,
    splits: Splits | None = None,
    protocols: Sequence[str] = PROTOCOLS,
) -> dict[str, Path]:
    """Write every partition and protocol below ``dataset_dir``.

    Ids count up from 0 over the training images in order of name, then the test images. Nothing is
    written before all files have been read.

    Args:
        dataset_dir: folder with ``Image/`` and ``annotation/``.
        splits: sizes of the derived partitions.
        protocols: which of :data:`PROTOCOLS` to write, besides ``val``. Reading takes about 1.1 kB
            of memory per gallery entry, so TestG4000 alone needs 13 GB.

    Returns:
        Path of each file written, by ``coco/<partition>.json`` or ``retrieval/<protocol>.json``.

    Raises:
        CorpusError: if an official file is missing or malformed.
    """
    splits = splits or Splits()
    corpus = mat.open_corpus(dataset_dir)
    boxes = mat.read_boxes(corpus)
    test_names = mat.read_test_names(corpus)
    if strangers := sorted(test_names - boxes.keys()):
        path = corpus.root / "annotation/pool.mat"
        raise corpus.error(path, f"{strangers[:3]} are not among the images of Images.mat")
    train_people = mat.read_train_people(corpus)
    searches = {}
    # The test identities are defined by G50, whether or not it is written.
    for name in dict.fromkeys(["G50", *protocols]):
        if name == FULL_GALLERY:
            continue
        logger.info("CUHK-SYSU: reading protocol %s", name)
        searches[name] = mat.read_protocol(corpus, name)
    test_people = [[(query.image, query.box), *query.appearances] for query in searches["G50"]]

    # Sorted, for an order that hangs on Python's string hashing would change ids from run to run.
    names = sorted(boxes)
    sizes = dict(zip(names, corpus.image_sizes(mat.IMAGE_FOLDER, names)))
    train_names = [name for name in names if name not in test_names]
    train_ids = number_people(boxes, train_people)
    trainval = _partition(train_names, boxes, train_ids, sizes, (0, 0))
    first_ids = (len(train_names), len(trainval["annotations"]))
    test_ids = number_people(boxes, test_people)
    test = _partition(sorted(test_names), boxes, test_ids, sizes, first_ids)

    partitions = {"trainval": trainval, "test": test, **_cut(trainval, splits)}
    listed = {name: _protocol(corpus, name, found, test) for name, found in searches.items()}
    if FULL_GALLERY in protocols:
        listed[FULL_GALLERY] = _full_galleries(listed["G50"], test)
    retrieval: dict[str, Protocol | None] = {name: listed[name] for name in protocols}
    retrieval["val"] = val_protocol(partitions["val"], splits.gallery_size)
    counts = {}
    for name, people in (("trainval", train_people), ("test", test_people)):
        counts[f"{name} images"] = len(partitions[name]["images"])
        counts[f"{name} boxes"] = len(partitions[name]["annotations"])
        counts[f"{name} identities"] = len(people)
    log_counts(corpus, counts, PUBLISHED)
    return write_prepared(corpus.root, partitions, retrieval, INFO)


def number_people(
    boxes: Mapping[str, Sequence[Box]], people: Sequence[Sequence[tuple[str, Box]]]
) -> dict[str, list[int]]:
    """Number everyone: 1 + position in ``people``, or a number of its own from 5555 on.

    An appearance marks the first equal box of its image only. Appearances without an equal box (a
    zero-width box may carry a name) are counted in a warning.

    Args:
        boxes: image name to boxes.
        people: appearances (image name, box) of each identity.

    Returns:
        Image name to one person id per box.
    """
    if len(people) >= FIRST_UNKNOWN_ID:
        raise ValueError(f"{len(people)} identities reach the ids of unknown people (5555 ...)")
    ids, next_id = {}, FIRST_UNKNOWN_ID
    for name in boxes:
        ids[name] = list(range(next_id, next_id + len(boxes[name])))
        next_id += len(boxes[name])
    lost = 0
    for person, appearances in enumerate(people, start=1):
        for name, box in appearances:
            if box in boxes.get(name, ()):
                ids[name][boxes[name].index(box)] = person
            else:
                lost += 1
    if lost:
        logger.warning("CUHK-SYSU: %d labelled boxes are not among the boxes of their image", lost)
    return ids


def _partition(
    names: Sequence[str],
    boxes: Mapping[str, Sequence[Box]],
    ids: Mapping[str, Sequence[int]],
    sizes: Mapping[str, tuple[int, int]],
    first_ids: tuple[int, int],
) -> Partition:
    """Images and annotations of the named images, ids counting up from ``first_ids``."""
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, name in enumerate(names, start=first_ids[0]):
        width, height = sizes[name]
        images.append(
            {"id": image_id, "file_name": name, "width": width, "height": height, "cam_id": -1}
        )
        for box, person in zip(boxes[name], ids[name]):
            annotation_id = first_ids[1] + len(annotations)
            known = person < FIRST_UNKNOWN_ID
            annotations.append(make_annotation(annotation_id, image_id, box, person, known))
    return {"images": images, "annotations": annotations}


def _protocol(
    corpus: Corpus, name: str, searches: Sequence[mat.SearchQuery], test: Partition
) -> Protocol:
    """Translate names and boxes into ids; galleries keep their order and repetitions."""
    image_ids = {image["file_name"]: image["id"] for image in test["images"]}
    # Of two equal boxes in an image the last one answers here, although the first has the identity.
    annotation_ids = {
        (entry["image_id"], tuple(entry["bbox"])): entry["id"] for entry in test["annotations"]
    }
    queries, images = {}, set()
    for search in searches:
        path = corpus.root / "annotation/test" / mat.PROTOCOLS[name][0]
        if strangers := {search.image, *search.gallery} - image_ids.keys():
            raise corpus.error(path, f"{sorted(strangers)[:3]} are not among the test images")
        query_image = image_ids[search.image]
        query = annotation_ids.get((query_image, search.box))
        if query is None:
            message = f"the query box {search.box} is not among the boxes of {search.image}"
            raise corpus.error(path, message)
        if query in queries:
            logger.warning("%s: query %s of %s is listed twice", name, search.box, search.image)
        queries[query] = [image_ids[image] for image in search.gallery]
        images.update([query_image, *queries[query]])
    return Protocol(sorted(images), queries)


def _full_galleries(listed: Protocol, test: Partition) -> Protocol:
    """Each gallery of ``listed``, then all other test images but the query's own, by id.

    As the field's full-gallery metrics have it. Repetitions in ``listed`` stay. The identities of
    the test images are defined by its galleries, so what follows shows none of the queried people.
    """
    images = sorted(image["id"] for image in test["images"])
    image_of = {entry["id"]: entry["image_id"] for entry in test["annotations"]}
    queries = {}
    for query, gallery in cast(dict[int, list[int]], listed.queries).items():
        used = {image_of[query], *gallery}
        queries[query] = [*gallery, *(image for image in images if image not in used)]
    return Protocol(images, queries)


def _cut(trainval: Partition, splits: Splits) -> dict[str, Partition]:
    """train, val, minitrain, minival and tinytrainval* of the training images.

    The last three are made of components of one exact size, in the shuffled order: 25 components,
    the next 25, then the next 1, 2, 3 and 4.
    """
    components = image_components(trainval["images"], trainval["annotations"])
    order = np.random.RandomState(splits.seed).permutation(len(components)).tolist()
    train, val = deal_out(components, order, splits.val_percent, min_size=2)
    chosen = {"train": train, "val": val}
    exact = [
        components[index] for index in order if len(components[index]) == splits.component_size
    ]
    wanted = {"minitrain": splits.mini_components, "minival": splits.mini_components}
    wanted |= {f"tinytrainval{count * splits.component_size}": count for count in (1, 2, 3, 4)}
    start = 0
    for name, count in wanted.items():
        pieces = exact[start : start + count]
        start += count
        if len(pieces) < count:
            logger.warning(
                "CUHK-SYSU: no partition %s: it needs %d components of %d images, %d are left",
                name,
                count,
                splits.component_size,
                len(pieces),
            )
            continue
        chosen[name] = [image_id for piece in pieces for image_id in piece]
    return {name: subset(trainval, image_ids) for name, image_ids in chosen.items()}
