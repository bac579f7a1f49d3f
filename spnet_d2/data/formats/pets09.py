"""PETS09: the demo corpus, own annotations (CC0) of OpenCV's sample video ``vtest.avi``.

Ten people, 19 tracks and 954 boxes on every 5th of 795 frames (768x576, one static camera, PETS2009
S2.L1 View_001). A *track* is one unbroken stay in view; a person who leaves and comes back
starts a new track but keeps the ``person_id``.

Split. Train is frames 1..301, test is frames 341..791; the 40 raw frames between them are
unused, so that no test frame looks like a train frame taken a moment earlier. **The same people
appear in both halves** (1..6; 7 and 8 only in train, 9 and 10 only in test): results show that the
machinery works on real footage, not how it generalises to strangers. The boundary is this early
because re-appearances are what person search is about: with test from frame 341 on, six people
have two or more stays inside the test part (1, 2, 4, 5, 6, 9); from frame 411 on only three do.

Visibility. Boxes less than 40 % visible are estimates behind an occluder. They become ignore
regions: neither a target nor a mistake. The limit is the one the training augmentations use to
drop boxes cut by the crop. The raw annotations' far walkers (under 45 px, never annotated) are
ignore regions too.

Protocols (test part):

* ``standard``: every test box is a query, its gallery is every test frame but its own.
* ``reentry``: the query's own track is ignored. Frames from the first to the last of that track
  (low-visibility and fully hidden moments included) are not in its gallery, so only re-appearances
  after leaving count. People with a single stay in the test part are no queries here.
"""

import json
from collections import defaultdict
from pathlib import Path

from spnet_d2.data.person_search_schema import make_annotation

TRAIN_FRAMES = (1, 301)
TEST_FRAMES = (341, 791)
MIN_VISIBILITY = 0.4

INFO = {
    "description": "PETS09 demo corpus: people of OpenCV's vtest.avi (PETS2009 S2.L1, View_001)",
    "version": "1.0",
    "license": "Annotations: CC0 1.0. The video is not covered by that.",
    "url": "https://github.com/opencv/opencv (samples/data/vtest.avi)",
}


def frame_file_name(frame: int) -> str:
    """Name of the image of a 1-based frame number."""
    return f"frame_{frame:06d}.jpg"


def load_annotations(path) -> dict:
    """Read and check the raw annotation file ``pets09_s2l1.json``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not JSON or lacks a needed key.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"No PETS09 annotations at {path}; the project ships them as "
            "datasets/pets09/pets09_s2l1.json. Restore that file or pass --annotations."
        )
    try:
        raw = json.loads(path.read_text())
        for key in ("images", "annotations", "ignore_regions"):
            raw[key]
        for image in raw["images"]:
            image["frame"], image["width"], image["height"]
        for annotation in raw["annotations"]:
            for key in ("image_id", "bbox", "track_id", "person_id", "visibility"):
                annotation[key]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not the PETS09 annotation file (COCO style with frame, track_id, "
            f"person_id, visibility and ignore_regions): {error!r}."
        ) from error
    return raw


def annotated_frames(raw: dict) -> list[int]:
    """All annotated 1-based frame numbers, ascending."""
    return sorted(image["frame"] for image in raw["images"])


def build_partitions(raw: dict, min_visibility: float = MIN_VISIBILITY) -> dict[str, dict]:
    """Convert the raw annotations to the generic person-search format.

    Args:
        raw: result of :func:`load_annotations`.
        min_visibility: boxes less visible than this become ignore regions; 0 keeps them all.

    Returns:
        ``{"train": {"images": [...], "annotations": [...]}, "test": {...}}``; ids run from 0 over
        train then test, boxes are xywh in pixels.
    """
    boxes = _group_by_image(raw["annotations"])
    ignore_regions = _group_by_image(raw["ignore_regions"])
    images = sorted(raw["images"], key=lambda image: image["frame"])

    partitions: dict[str, dict[str, list]] = {}
    image_id = annotation_id = 0
    for name, (first, last) in (("train", TRAIN_FRAMES), ("test", TEST_FRAMES)):
        part = partitions[name] = {"images": [], "annotations": []}
        for image in images:
            if not first <= image["frame"] <= last:
                continue
            regions = [list(map(float, region["bbox"])) for region in ignore_regions[image["id"]]]
            for annotation in sorted(boxes[image["id"]], key=lambda a: a["track_id"]):
                if annotation["visibility"] < min_visibility:
                    regions.append(list(map(float, annotation["bbox"])))
                    continue
                person_id = annotation["person_id"]
                entry = make_annotation(
                    annotation_id, image_id, annotation["bbox"], person_id, is_known=True
                )
                entry["track_id"] = annotation["track_id"]
                entry["visibility"] = annotation["visibility"]
                part["annotations"].append(entry)
                annotation_id += 1
            part["images"].append(
                {
                    "id": image_id,
                    "file_name": frame_file_name(image["frame"]),
                    "width": image["width"],
                    "height": image["height"],
                    # One camera, so that same-camera statistics remain meaningful.
                    "cam_id": 1,
                    "frame": image["frame"],
                    "ignore_regions": regions,
                }
            )
            image_id += 1
    return partitions


def build_protocols(raw: dict, test: dict) -> dict[str, dict]:
    """Build the two retrieval protocols of the test partition.

    Args:
        raw: result of :func:`load_annotations`; the extent of a track counts its hidden and hardly
            visible moments, which only the raw annotations have.
        test: the test partition of :func:`build_partitions`.

    Returns:
        ``{"standard": {"images", "queries": [annotation ids]}, "reentry": {"images", "queries":
        {annotation id: [gallery image ids]}}}``.
    """
    frame_of_raw = {image["id"]: image["frame"] for image in raw["images"]}
    track_frames = defaultdict(list)
    for annotation in raw["annotations"]:
        track_frames[annotation["track_id"]].append(frame_of_raw[annotation["image_id"]])
    frame_of = {image["id"]: image["frame"] for image in test["images"]}
    tracks_of = defaultdict(set)
    for annotation in test["annotations"]:
        tracks_of[annotation["person_id"]].add(annotation["track_id"])

    reentry = {}
    for annotation in test["annotations"]:
        if len(tracks_of[annotation["person_id"]]) < 2:
            continue
        frames = track_frames[annotation["track_id"]]
        first, last = min(frames), max(frames)
        reentry[annotation["id"]] = [
            image_id for image_id, frame in frame_of.items() if not first <= frame <= last
        ]
    return {
        "standard": {
            "images": list(frame_of),
            "queries": [annotation["id"] for annotation in test["annotations"]],
        },
        "reentry": {"images": list(frame_of), "queries": reentry},
    }


def _group_by_image(items: list[dict]) -> defaultdict:
    groups = defaultdict(list)
    for item in items:
        groups[item["image_id"]].append(item)
    return groups
