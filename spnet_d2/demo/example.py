"""The demo's example search: a person who left the image and came back.

The gallery is that of the ``reentry`` protocol: frames from the query's own stay in the image are
left out, so every hit is the person at another time, mostly in another pose and place.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from spnet_d2.data.paired_boxes import paired_ious
from spnet_d2.data.person_search_json import load_protocol, read_json
from spnet_d2.search import Match

PROTOCOL = "reentry"
# The least gallery frames that show the person.
MIN_APPEARANCES = 20


@dataclass(frozen=True)
class Example:
    """
    A query with its gallery and the right answers.

    Attributes:
        file: image of the query.
        box: xyxy in it.
        gallery: images to search, by name.
        answers: xyxy box and IoU threshold of the person by gallery image, where present.
    """

    file: str
    box: tuple[float, float, float, float]
    gallery: list[str]
    answers: dict[str, tuple[np.ndarray, float]]

    def is_hit(self, match: Match) -> bool:
        """Whether a match is the person, by the overlap that the evaluation requires."""
        if match.file not in self.answers:
            return False
        box, iou_thresh = self.answers[match.file]
        iou = paired_ious(np.array([match.box], np.float64), box[None])[0]
        return bool(iou >= iou_thresh)


def choose_example(dataset_name: str, protocol: str = PROTOCOL) -> Example:
    """
    The query of a protocol that people can judge best: the largest one.

    It is wholly visible, does not touch the image's edge, and its gallery shows the person in at
    least ``MIN_APPEARANCES`` frames. The choice does not depend on any model.

    Args:
        dataset_name: registered, with ``visibility`` of its annotations if known.
        protocol: one with a gallery for each query.

    Raises:
        ValueError: the protocol has no such query.
    """
    images = {image["image_id"]: image for image in DatasetCatalog.get(dataset_name)}
    boxes = {
        annotation["annotation_id"]: (image, annotation)
        for image in images.values()
        for annotation in image["annotations"]
    }
    metadata = MetadataCatalog.get(dataset_name)
    queries = load_protocol(metadata.protocols[protocol]).queries
    if not isinstance(queries, dict):
        raise ValueError(f'Protocol "{protocol}" of "{dataset_name}" has one gallery for all.')
    # An extra of this corpus, which dataset dicts don't carry.
    annotations = read_json(metadata.person_search_file)["annotations"]
    visibility = {a["id"]: a.get("visibility", 1.0) for a in annotations}

    def area(annotation_id: int) -> float:
        return float(np.prod(boxes[annotation_id][1]["bbox"][2:]))

    for annotation_id in sorted(queries, key=area, reverse=True):
        image, annotation = boxes[annotation_id]
        if visibility[annotation_id] < 1 or _touches_edge(image, annotation["bbox"]):
            continue
        answers = {}
        for image_id in queries[annotation_id]:
            for other in images[image_id]["annotations"]:
                if other["person_id"] == annotation["person_id"]:
                    found = np.array(_xyxy(other["bbox"])), other["iou_thresh"]
                    answers[images[image_id]["file_name"]] = found
        if len(answers) >= MIN_APPEARANCES:
            return Example(
                file=image["file_name"],
                box=_xyxy(annotation["bbox"]),
                gallery=sorted(images[i]["file_name"] for i in queries[annotation_id]),
                answers=answers,
            )
    raise ValueError(
        f'Protocol "{protocol}" of "{dataset_name}" has no wholly visible query whose person is '
        f"in at least {MIN_APPEARANCES} frames of its gallery."
    )


def _xyxy(bbox) -> tuple[float, float, float, float]:
    x, y, w, h = map(float, bbox)
    return x, y, x + w, y + h


def _touches_edge(image: dict, bbox) -> bool:
    x1, y1, x2, y2 = _xyxy(bbox)
    return x1 <= 1 or y1 <= 1 or x2 >= image["width"] - 1 or y2 >= image["height"] - 1


def describe(example: Example) -> str:
    """One line for the log."""
    x1, y1, x2, y2 = example.box
    return (
        f"{Path(example.file).name}, box {x1:.0f},{y1:.0f},{x2 - x1:.0f},{y2 - y1:.0f}; the person "
        f"is in {len(example.answers)} of {len(example.gallery)} gallery frames"
    )
