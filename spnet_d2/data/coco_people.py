"""The people of a plain COCO file, as annotation tools and converters write it.

Such a file has other categories, crowds, and no identities. It is understood where that needs no
guess: the category called "person" are the people, crowds are ignore regions, and people without
identities are strangers to each other.
"""

import logging
from collections import Counter
from typing import Any

from spnet_d2.data.person_search_schema import (
    HELP,
    PersonSearchFormatError,
    is_box,
    variable_iou_thresh,
)
from spnet_d2.utils.warn_once import warn_once

logger = logging.getLogger(__name__)

_PERSON_NAMES = {"person", "persons", "people", "pedestrian", "pedestrians", "human", "humans"}
# The category of annotations without one: people, as the format has nothing else.
_UNSTATED = "none"


def take_people(content: dict[str, Any], where: str) -> None:
    """Turn the entries of ``content`` (``images``, ``annotations``) into the generic format.

    In place. What was left out or filled in is one line of the log per file. Entries that are no
    objects are left to :func:`~spnet_d2.data.person_search_schema.check_person_search`.

    Raises:
        PersonSearchFormatError: it can't be told which boxes are people, or only some of them have
            an identity.
    """
    images, annotations = content["images"], content["annotations"]
    if not isinstance(images, list) or not isinstance(annotations, list):
        return
    if not all(isinstance(entry, dict) for entry in [*images, *annotations]):
        return
    people = _of_persons(annotations, content.get("categories"), where)
    crowds = [entry for entry in people if entry.get("iscrowd", 0) in (1, True)]
    if crowds:
        _ignore(crowds, images, where)
        people = [entry for entry in people if entry.get("iscrowd", 0) not in (1, True)]
    _fill_in(people, where)
    content["annotations"] = people


def _of_persons(annotations: list[dict], categories: Any, where: str) -> list[dict]:
    """The annotations of people; their ``category_id`` becomes 1."""
    persons = _person_categories(categories, where)
    values = [_category(entry) for entry in annotations]
    found = Counter(values)
    if found.keys() <= persons & {_UNSTATED, "1"}:
        return annotations
    _check_categories(found, persons, categories, where)
    people = [entry for entry, value in zip(annotations, values) if value in persons]
    if len(people) < len(annotations):
        left_out = len(annotations) - len(people)
        message = (
            f"{where}: {left_out} of {len(annotations)} annotations are no people and left out"
        )
        warn_once(logger, f"{message} ({_names(categories)}).")
    for entry in people:
        entry["category_id"] = 1
    return people


def _category(entry: dict) -> str:
    return repr(entry["category_id"]) if "category_id" in entry else _UNSTATED


def _check_categories(found: Counter, persons: set[str], categories: Any, where: str) -> None:
    """See that some annotations are people, and that ``categories`` explains the others."""
    unlisted = found.keys() - persons - {repr(entry["id"]) for entry in _listed(categories)}
    if persons & found.keys() and not unlisted:
        return
    counts = ", ".join(f"{value} ({count} times)" for value, count in found.most_common(5))
    example = found.most_common(1)[0][0]
    raise PersonSearchFormatError(
        f"{where}: only single persons are allowed, category_id "
        f"{' or '.join(sorted(persons - {_UNSTATED}))} here, found category_id {counts}; "
        f"{_names(categories)}. Name the category of the people, then all others that it lists are "
        f'left out: "categories": [{{"id": {example}, "name": "person"}}]. {HELP}'
    )


def _person_categories(categories: Any, where: str) -> set[str]:
    """Categories of people, as :func:`_category` gives them; 1 where no name tells."""
    listed = _listed(categories)
    persons = {repr(e["id"]) for e in listed if str(e["name"]).strip().lower() in _PERSON_NAMES}
    if not persons and len(listed) > 1:
        message = f"{where}: no category is called person; category_id 1 is taken for people"
        warn_once(logger, f"{message} ({_names(categories)}).")
    return (persons or {"1"}) | {_UNSTATED}


def _listed(categories: Any) -> list[dict]:
    """Those entries of ``categories`` that are as COCO has them."""
    entries = categories if isinstance(categories, list) else []
    return [e for e in entries if isinstance(e, dict) and {"id", "name"} <= e.keys()]


def _names(categories: Any) -> str:
    names = ", ".join(f"{entry['id']!r} {entry['name']!r}" for entry in _listed(categories)[:8])
    return f"categories: {names}" if names else "it has no categories"


def _ignore(crowds: list[dict], images: list[dict], where: str) -> None:
    """Put crowds into the ``ignore_regions`` of their images."""
    image_of_id = {repr(image.get("id")): image for image in images}
    for entry in crowds:
        image = image_of_id.get(repr(entry.get("image_id")))
        regions = image.get("ignore_regions", []) if image else None
        if image is None or not is_box(entry.get("bbox")) or not isinstance(regions, list):
            raise PersonSearchFormatError(
                f"{where}: annotations id {entry.get('id')!r}: a crowd needs a bbox [x, y, w, h] "
                f"and the image_id of an image, found {entry.get('bbox')!r} and "
                f"{entry.get('image_id')!r}. {HELP}"
            )
        image["ignore_regions"] = [*regions, entry["bbox"]]
    message = f"{where}: {len(crowds)} crowds (iscrowd 1) are ignore regions of their images."
    warn_once(logger, message)


def _fill_in(people: list[dict], where: str) -> None:
    """Fields that a whole file lacks; where some have them, the format's check names the others."""
    if people and not any("person_id" in entry for entry in people):
        if any(entry.get("is_known") for entry in people):
            raise PersonSearchFormatError(
                f"{where}: annotations have is_known true, but none has person_id: whose box it "
                f"is. {HELP}"
            )
        for entry in people:
            entry["person_id"] = entry.get("id")
            entry["is_known"] = False
        _tell_strangers(people, where)
    if not any("iou_thresh" in entry for entry in people):
        for entry in people:
            entry["iou_thresh"] = _iou_thresh(entry.get("bbox"))


def _tell_strangers(people: list[dict], where: str) -> None:
    attributes = people[0].get("attributes")
    if isinstance(attributes, dict) and "track_id" in attributes:
        advice = "CVAT's attributes.track_id can be the person_id"
    else:
        advice = "to train or evaluate re-identification give person_id (one integer per person)"
    message = (
        f"{where}: no annotation has person_id: its {len(people)} boxes are unknown people, each "
        f"somebody else. That serves detection and pre-training; {advice}, and is_known. {HELP}"
    )
    warn_once(logger, message)


def _iou_thresh(bbox: Any) -> float:
    """The documented rule; boxes it has no answer for are reported by the format's check."""
    return variable_iou_thresh(*(max(side, 0.0) for side in bbox[2:])) if is_box(bbox) else 0.0
