"""Weak labels of PETS09's training part, for pre-training: boxes that don't say who is who.

As in COCOPersons every box is a person of its own: ``person_id`` is the annotation's id, known.
That is less true here: the same ten people are in all frames of a video, so pre-training is told to
tell apart who is one and the same. It learns from a box in two views of one frame all the same.

* ``weak_train``: the boxes of ``train.json`` without identities and tracks; ``weak_train_p<N>``
  have labels missing or spurious ones added (:mod:`spnet_d2.data.formats.noise_partitions`).
* ``hog_train``: what a classical detector finds, in more frames than are annotated. Nothing human
  is in it, and no frame after the training part.
"""

from collections.abc import Sequence

import numpy as np

from spnet_d2.data.formats import pets09
from spnet_d2.data.formats.noise_partitions import missing_labels, spurious_labels
from spnet_d2.data.formats.splits import Partition
from spnet_d2.data.person_search_schema import make_annotation

HOG_STEP = 3


def hog_frames(step: int = HOG_STEP) -> list[int]:
    """1-based frame numbers of the training part, every ``step``-th from the first on.

    Raises:
        ValueError: if ``step`` is less than 1.
    """
    if step < 1:
        raise ValueError(f"--hog-step must be at least 1, found {step}.")
    first, last = pets09.TRAIN_FRAMES
    return list(range(first, last + 1, step))


def without_identities(train: Partition) -> dict[str, Partition]:
    """``weak_train`` and its noise partitions ``weak_train_p<percent>`` from the train partition.

    Image and annotation ids stay; so do ignore regions.
    """
    annotations = [
        {
            **make_annotation(
                entry["id"], entry["image_id"], entry["bbox"], entry["id"], is_known=True
            ),
            "visibility": entry["visibility"],
        }
        for entry in train["annotations"]
    ]
    weak = {"images": train["images"], "annotations": annotations}
    noisy = {**missing_labels(weak), **spurious_labels(weak)}
    return {"weak_train": weak} | {f"weak_{name}": part for name, part in noisy.items()}


def hog_partition(
    frames: Sequence[int], found: Sequence[np.ndarray], size: tuple[int, int]
) -> Partition:
    """``hog_train`` from the detector's result.

    Args:
        frames: 1-based frame numbers.
        found: for each frame (n, 5) x, y, w, h, score.
        size: width and height of the images.

    Returns:
        Images and annotations with ids from 0; ``score`` is kept, boxes are rounded to 0.01 pixel.
    """
    part: Partition = {"images": [], "annotations": []}
    for image_id, (frame, rows) in enumerate(zip(frames, found, strict=True)):
        part["images"].append(
            {
                "id": image_id,
                "file_name": pets09.frame_file_name(frame),
                "width": size[0],
                "height": size[1],
                "cam_id": 1,
                "frame": frame,
            }
        )
        for *box, score in rows.round(2).tolist():
            number = len(part["annotations"])
            entry = make_annotation(number, image_id, box, number, is_known=True)
            part["annotations"].append({**entry, "score": score})
    return part


def compare(found: Partition, annotated: Partition) -> dict[str, list[np.ndarray]]:
    """Boxes of the frames that are in both partitions, as ``precision_recall`` takes them.

    Returns:
        ``found``, ``annotated`` and ``ignored``, each one (n, 4) array for each common frame.
    """
    image_of = {image["frame"]: image for image in annotated["images"]}
    pairs = [
        (image, image_of[image["frame"]]) for image in found["images"] if image["frame"] in image_of
    ]
    return {
        "found": [_boxes(found, ours["id"]) for ours, _ in pairs],
        "annotated": [_boxes(annotated, theirs["id"]) for _, theirs in pairs],
        "ignored": [np.array(theirs["ignore_regions"]).reshape(-1, 4) for _, theirs in pairs],
    }


def _boxes(partition: Partition, image_id: int) -> np.ndarray:
    boxes = [e["bbox"] for e in partition["annotations"] if e["image_id"] == image_id]
    return np.array(boxes, np.float64).reshape(-1, 4)
