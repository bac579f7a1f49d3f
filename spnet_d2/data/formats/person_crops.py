"""Cut every person of a COCOPersons partition out of its image, for re-id style pre-training."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from spnet_d2.data.formats.corpus import Corpus
from spnet_d2.data.image_reader import read_image
from spnet_d2.utils.atomic_io import atomic_path

logger = logging.getLogger(__name__)


def export_crops(
    corpus: Corpus, partition: str, image_folder: str = "train2017", workers: int = 8
) -> tuple[int, list[str]]:
    """Write one PNG per box of ``coco/<partition>.json``.

    They are ``crops/<partition>/person/<annotation id>.png``. No context, no resizing and no least
    size; the part of a box outside its image is black.

    Args:
        corpus: COCO 2017, prepared.
        partition: such as ``train``.
        image_folder: folder with the images of the partition.
        workers: threads; PNG compression runs outside Python's lock.

    Returns:
        (number of crops written, one line for each image or box that failed). Failures are logged,
        the others are written all the same.

    Raises:
        CorpusError: if the partition or the image folder is missing.
    """
    prepared = corpus.root / f"coco/{partition}.json"
    if not prepared.is_file():
        message = f"coco/{partition}.json is missing; prepare it first, without --crops"
        raise corpus.error(prepared, message)
    content = corpus.load_json(f"coco/{partition}.json", ["images", "annotations"])
    images = corpus.require(image_folder)
    target = corpus.root / "crops" / partition / "person"
    by_image = defaultdict(list)
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)

    def crop(image: dict[str, Any]) -> tuple[int, list[str]]:
        return _crop_image(images / image["file_name"], by_image[image["id"]], target)

    with ThreadPoolExecutor(max_workers=workers) as pool:
        jobs = pool.map(crop, content["images"])
        progress = tqdm(jobs, total=len(content["images"]), desc="person crops", disable=None)
        results = list(progress)
    failures = [line for _, lines in results for line in lines]
    for line in failures:
        logger.warning("no crop: %s", line)
    return sum(written for written, _ in results), failures


def _crop_image(
    path: Path, annotations: Sequence[dict[str, Any]], target: Path
) -> tuple[int, list[str]]:
    try:
        scene = Image.fromarray(read_image(path))
    except (OSError, ValueError) as error:
        return 0, [f"{path}: {error}"]
    written, failures = 0, []
    for annotation in annotations:
        x, y, width, height = annotation["bbox"]
        try:
            cut = scene.crop((x, y, x + width, y + height))
            with atomic_path(target / f"{annotation['id']}.png") as part:
                cut.save(part)
            written += 1
        except (OSError, ValueError, SystemError) as error:
            # A box narrower than half a pixel has no crop.
            failures.append(f"{path}, annotation {annotation['id']}: {error}")
    return written, failures
