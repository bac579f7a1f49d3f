"""What pre-training adds, in a minute: the test set's sample on which two starts are compared."""

from collections.abc import Mapping
from pathlib import Path

from detectron2.data import MetadataCatalog
from tabulate import tabulate

from spnet_d2.data.catalog import register_person_search, unregister
from spnet_d2.data.person_search_json import read_json, write_person_search_json
from spnet_d2.evaluation import ALL_PROTOCOL

# Without pre-training, and with it.
STARTS = ("imagenet", "qc_pretrained")
# Of a start's result -> heading.
_METRICS = {"AP50": "AP50", "mAP": "mAP", "gt_mAP": "mAP, given boxes"}


def register_sample(source: str, name: str, step: int, file: Path) -> None:
    """
    Register every ``step``-th image of a data set as one of its own.

    Args:
        source: registered data set.
        name: of the sample; another of that name is replaced.
        step: 1 takes all.
        file: JSON to write.
    """
    metadata = MetadataCatalog.get(source)
    content = read_json(metadata.person_search_file)
    images = content["images"][::step]
    kept = {image["id"] for image in images}
    annotations = [a for a in content["annotations"] if a["image_id"] in kept]
    write_person_search_json(file, images, annotations)
    unregister(name)
    # Its protocol is "all": the source's galleries list images that are not in it.
    register_person_search(name, file, metadata.image_root)


def start_metrics(found: Mapping[str, Mapping]) -> dict[str, float]:
    """What is compared of an evaluator's results on the sample."""
    metrics = {**found["detection"], **found[ALL_PROTOCOL]}
    return {key: round(float(metrics[key]), 6) for key in _METRICS}


def table(starts: Mapping[str, Mapping[str, float]]) -> str:
    """Figures of both starts in percent, and the difference."""
    without, pretrained = (starts[name] for name in STARTS)
    rows = [
        [text, 100 * without[key], 100 * pretrained[key], 100 * (pretrained[key] - without[key])]
        for key, text in _METRICS.items()
    ]
    headers = ["short fine-tuning", "ImageNet only", "after QC pre-training", "added"]
    return tabulate(rows, headers, floatfmt=("", ".1f", ".1f", "+.1f"))
