"""COCOPersons, the people of COCO 2017, to the generic person-search JSON.

Everyone is a person of their own (``person_id`` = COCO's annotation id, known). Crowd regions are
left out, they are no ignore regions. Sizes come from COCO's own JSON, so the images need not be
there.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spnet_d2.data.formats.corpus import Corpus, log_counts
from spnet_d2.data.formats.noise_partitions import FewPersonsError, missing_labels, spurious_labels
from spnet_d2.data.formats.splits import Partition, subset
from spnet_d2.data.person_search_json import write_person_search_json
from spnet_d2.data.person_search_schema import CATEGORIES, check_person_search
from spnet_d2.utils.atomic_io import write_json

logger = logging.getLogger(__name__)

ORIGIN = (
    "https://cocodataset.org/#download, annotations_trainval2017.zip, train2017.zip and "
    "val2017.zip; unpack them into this folder"
)
INFO = {"description": "COCOPersons: people of COCO 2017", "url": "https://cocodataset.org"}
PUBLISHED = {"train images": 64115, "train boxes": 257252}
IOU_THRESH = 0.5


@dataclass(frozen=True)
class Samples:
    """Extra partitions; miniatures need other sizes.

    Attributes:
        sizes: N of the nested samples ``G<N>train`` / ``G<N>val`` of the training images.
        noise: write the partitions with missing and spurious labels.
        seed: of the shuffle behind ``sizes``.
    """

    sizes: tuple[int, ...] = (10, 100, 1000, 10000)
    noise: bool = True
    seed: int = 0


def open_corpus(dataset_dir: str | Path) -> Corpus:
    """The corpus at ``dataset_dir``, for reading."""
    return Corpus("COCO 2017", Path(dataset_dir), ORIGIN)


def prepare(
    dataset_dir: str | Path, samples: Samples | None = None, every_category: bool = False
) -> dict[str, Path]:
    """Write ``coco/{train,val}.json`` and partitions of train below ``dataset_dir``.

    Args:
        dataset_dir: folder with ``annotations/instances_{train,val}2017.json``.
        samples: which further partitions.
        every_category: instead write train, val and samples with all categories and crowds to
            ``cocoa/``. No training here reads these.

    Returns:
        Path of each file written, by ``coco/<partition>.json``.

    Raises:
        CorpusError: if an official file is missing or malformed.
    """
    samples = samples or Samples()
    corpus = open_corpus(dataset_dir)
    contents = {part: read_instances(corpus, part, every_category) for part in ("train", "val")}
    partitions = dict(contents)
    partitions.update(nested_samples(contents["train"], samples.sizes, samples.seed))
    counts = {}
    for part, content in contents.items():
        counts[f"{part} images"] = len(content["images"])
        counts[f"{part} boxes"] = len(content["annotations"])
    if every_category:
        log_counts(corpus, counts, {})
        return _write(corpus.root / "cocoa", partitions, None)
    if samples.noise:
        try:
            partitions.update(missing_labels(contents["train"]))
            partitions.update(spurious_labels(contents["train"]))
        except FewPersonsError as error:
            message = f"{error}; --no-noise leaves these partitions out"
            raise corpus.error(_instances(corpus, "train"), message) from error
    log_counts(corpus, counts, PUBLISHED)
    return _write(corpus.root / "coco", partitions, INFO)


def _instances(corpus: Corpus, part: str) -> Path:
    return corpus.root / "annotations" / f"instances_{part}2017.json"


def read_instances(corpus: Corpus, part: str, every_category: bool = False) -> Partition:
    """People of COCO's ``part`` (train or val) and the images with at least one, in file order.

    Polygons are dropped, all other fields kept.
    """
    path = _instances(corpus, part)
    relative = path.relative_to(corpus.root).as_posix()
    content = corpus.load_json(relative, ["images", "annotations", "categories"])
    with corpus.reading(path, "COCO instances"):
        person = [entry["id"] for entry in content["categories"] if entry["name"] == "person"]
        if len(person) != 1:
            raise ValueError('there must be exactly one category "person"')
        annotations = [
            _annotation(entry)
            for entry in content["annotations"]
            if every_category or (entry["category_id"] == person[0] and entry["iscrowd"] == 0)
        ]
        shown = {entry["image_id"] for entry in annotations}
        images = [{**image, "cam_id": -1} for image in content["images"] if image["id"] in shown]
        if not every_category:
            check_person_search(images, annotations, str(path))
    return {"images": images, "annotations": annotations}


def _annotation(entry: Mapping[str, Any]) -> dict[str, Any]:
    """COCO's entry without its polygon, as a person of its own."""
    kept = {key: value for key, value in entry.items() if key != "segmentation"}
    kept.update(person_id=entry["id"], is_known=True, iou_thresh=IOU_THRESH)
    return kept


def nested_samples(train: Partition, sizes: Sequence[int], seed: int) -> dict[str, Partition]:
    """``G<N>train``, the first N shuffled images, and ``G<N>val``, the next N.

    So the training samples are nested in each other and share no image with their own val sample.
    """
    order = [image["id"] for image in train["images"]]
    np.random.RandomState(seed).shuffle(order)
    samples = {}
    for size in sizes:
        if 2 * size > len(order):
            logger.warning("COCO 2017: no samples G%d: only %d images", size, len(order))
            continue
        samples[f"G{size}train"] = subset(train, order[:size])
        samples[f"G{size}val"] = subset(train, order[size : 2 * size])
    return samples


def _write(
    folder: Path, partitions: Mapping[str, Partition], info: Mapping[str, Any] | None
) -> dict[str, Path]:
    written = {}
    for name, partition in partitions.items():
        path = folder / f"{name}.json"
        if info is None:
            categories = {"categories": CATEGORIES}
            write_json(path, {"info": {}, "licenses": [], **partition, **categories})
        else:
            images, annotations = partition["images"], partition["annotations"]
            write_person_search_json(path, images, annotations, info)
        written[f"{folder.name}/{name}.json"] = path
        logger.info("wrote %s (%.1f MB)", path, path.stat().st_size / 1e6)
    return written
