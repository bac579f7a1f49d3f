"""Write and load the generic person-search JSON (fields: ``person_search_schema``).

Every corpus becomes this format, so nothing downstream knows where the data came from.
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spnet_d2.data.box_conventions import check_boxes
from spnet_d2.data.coco_people import take_people
from spnet_d2.data.person_search_schema import (
    CATEGORIES,
    HELP,
    PersonSearchFormatError,
    check_person_search,
    fit_64_bits,
)
from spnet_d2.requirements_check import runs_exported_models_only
from spnet_d2.utils.atomic_io import write_json
from spnet_d2.utils.garbage_collection import garbage_collection_paused
from spnet_d2.utils.warn_once import warn_once

logger = logging.getLogger(__name__)

PREPARE_HINT = "The scripts datasets/prepare_*.py write it from the official files."
# For annotations that the user's own program may have written.
ANNOTATIONS_HINT = "It is the generic person-search JSON of datasets/README.md."

# Where an image's dict names the boxes that were dropped.
EMPTY = "empty_annotation_ids"


@dataclass(frozen=True)
class Protocol:
    """Which images are searched, and for which people.

    Attributes:
        images: ids of all images that take part (query frames included).
        queries: either ``{annotation id: [gallery image ids]}``, order and repetitions as listed,
            or a list of annotation ids whose gallery is ``images`` without the query's own image.
    """

    images: list[int]
    queries: dict[int, list[int]] | list[int]


def write_person_search_json(
    path: str | os.PathLike,
    images: Sequence[Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    info: Mapping[str, Any] | None = None,
    categories: Sequence[Mapping[str, Any]] | None = CATEGORIES,
) -> None:
    """Write one partition, atomically and deterministically: entries ascend by id.

    Args:
        path: target; parent folders are made.
        images, annotations: entries with at least the required fields; more keys are kept.
        info: COCO's free-form ``info`` object.
        categories: None leaves the key out.

    Raises:
        PersonSearchFormatError: if the result would not load.
    """
    images = sorted((dict(entry) for entry in images), key=lambda entry: entry["id"])
    annotations = sorted((dict(entry) for entry in annotations), key=lambda entry: entry["id"])
    check_person_search(images, annotations, str(path))
    content = {
        "info": dict(info or {}),
        "licenses": [],
        "images": images,
        "annotations": annotations,
    }
    if categories is not None:
        content["categories"] = list(categories)
    write_json(path, content)


def write_protocol(
    path: str | os.PathLike,
    images: Sequence[int],
    queries: Mapping[int, Sequence[int]] | Sequence[int],
) -> None:
    """Write a retrieval protocol (see :class:`Protocol`) atomically.

    ``images`` are written in ascending order; queries and galleries keep the order given.
    """
    images = sorted(int(image_id) for image_id in images)
    plain: dict[int, list[int]] | list[int]
    if isinstance(queries, Mapping):
        plain = {int(query): [int(image) for image in queries[query]] for query in queries}
    else:
        plain = [int(query) for query in queries]
    _check_protocol(Protocol(images, plain), str(path))
    write_json(path, {"images": images, "queries": plain})


@garbage_collection_paused()
def load_protocol(path: str | os.PathLike) -> Protocol:
    """Read a retrieval protocol.

    Raises:
        FileNotFoundError: if there is none at ``path``.
        PersonSearchFormatError: if it is malformed, or a gallery leaves ``images``.
    """
    content = read_json(path, pairs_hook=_unrepeated)
    if not isinstance(content, dict) or not {"images", "queries"} <= content.keys():
        raise PersonSearchFormatError(
            f'{path}: expected an object with "images" and "queries", found {_shape(content)}. '
            f"{HELP}"
        )
    queries = content["queries"]
    if isinstance(queries, dict):
        try:
            queries = {int(query): gallery for query, gallery in queries.items()}
        except ValueError as error:
            raise PersonSearchFormatError(
                f'{path}: the keys of "queries" must be annotation ids ({error}). {HELP}'
            ) from error
        if len(queries) < len(content["queries"]):
            raise PersonSearchFormatError(f"{path}: a query is listed twice. {HELP}")
    protocol = Protocol(content["images"], queries)
    _check_protocol(protocol, str(path))
    return protocol


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of ``pairs``; JSON itself would let the last of equal keys win."""
    content = dict(pairs)
    if len(content) < len(pairs):
        repeated = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {repeated!r} is listed twice")
    return content


def _shape(content: Any) -> str:
    """What a JSON file holds at the top, in a few words."""
    if not isinstance(content, dict):
        return type(content).__name__
    keys = ", ".join(map(repr, list(content)[:8])) or "none"
    what = " (annotations instead of a protocol?)" if "annotations" in content else ""
    what = " (a protocol instead of annotations?)" if "queries" in content else what
    return f"one with the keys {keys}{what}"


def _check_protocol(protocol: Protocol, where: str) -> None:
    images, queries = protocol.images, protocol.queries
    problem = None
    if not isinstance(images, list) or not isinstance(queries, dict | list):
        problem = f"found {type(images).__name__} and {type(queries).__name__}"
    elif odd := [value for value in [*images, *queries] if type(value) is not int]:
        problem = f"found {odd[0]!r} among the ids"
    if problem:
        raise PersonSearchFormatError(
            f'{where}: "images" must be a list of image ids and "queries" a list of annotation '
            f"ids, or an object from annotation id to gallery; {problem}. {HELP}"
        )
    if not fit_64_bits([*images, *queries]):
        raise PersonSearchFormatError(f"{where}: ids must fit 64 bits with sign. {HELP}")
    if len(set(images)) != len(images):
        value = Counter(images).most_common(1)[0][0]
        raise PersonSearchFormatError(f'{where}: "images" lists an image twice: {value}. {HELP}')
    if isinstance(queries, list):
        if len(set(queries)) != len(queries):
            value = Counter(queries).most_common(1)[0][0]
            raise PersonSearchFormatError(f"{where}: a query is listed twice: {value}. {HELP}")
        return
    known = set(images)
    for query, gallery in queries.items():
        # Types first: only what can be in a set can be looked up there.
        if (
            not isinstance(gallery, list)
            or not set(map(type, gallery)) <= {int}
            or not known.issuperset(gallery)
        ):
            raise PersonSearchFormatError(
                f"{where}: the gallery of query {query} must be a list of ids out of "
                f'"images"; {_strangers(gallery, known)}. {HELP}'
            )


def _strangers(gallery: Any, images: set[int]) -> str:
    if not isinstance(gallery, list):
        return f"found {type(gallery).__name__}"
    strangers = [image for image in gallery if type(image) is not int or image not in images]
    return f"not among them: {strangers[:5]}"


def read_json(
    path: str | os.PathLike, hint: str = PREPARE_HINT, pairs_hook: Callable | None = None
) -> Any:
    """Parse a JSON file.

    Args:
        path: UTF-8 text (or UTF-16, UTF-32), with or without a byte order mark.
        hint: what to do, for errors.
        pairs_hook: ``object_pairs_hook`` of :func:`json.loads`.

    Raises:
        FileNotFoundError: naming the place looked at and what to do.
        PersonSearchFormatError: if it is no JSON.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        message = f"No such file: {os.path.abspath(path)}. {hint}"
        raise FileNotFoundError(message) from None
    except IsADirectoryError:
        message = f"{path} is a folder, but must be a JSON file. {hint}"
        raise PersonSearchFormatError(message) from None
    try:
        return json.loads(content, object_pairs_hook=pairs_hook)
    # Python's reader has a limit of nested brackets.
    except (ValueError, RecursionError) as error:
        found = _what_it_is(content) or str(error)
        raise PersonSearchFormatError(f"{path} is not valid JSON ({found}). {hint}") from error


def _what_it_is(content: bytes) -> str | None:
    """What a file holds in place of JSON, if it is something well known."""
    if not content.strip():
        return "it is empty"
    if content.startswith(b"\x1f\x8b"):
        return "it is compressed with gzip: unpack it"
    if content.startswith(b"PK\x03\x04"):
        return "it is a zip archive: unpack it"
    first, _, rest = content.strip().partition(b"\n")
    try:
        first_value, second_value = json.loads(first), json.loads(rest.partition(b"\n")[0])
    except (ValueError, RecursionError):
        return None
    if isinstance(first_value, dict) and isinstance(second_value, dict):
        return "it is JSON Lines, one object a line: put all into one object"
    return None


@garbage_collection_paused()
def names_categories(path: str | os.PathLike) -> bool:
    """Whether a file has the key ``categories``, without parsing it; True where it is missing."""
    word = b'"categories"'
    try:
        with open(path, "rb") as file:
            end = b""
            while block := file.read(1 << 24):
                if word in end + block:
                    return True
                end = block[-len(word) :]
    except OSError:
        # Whoever reads it will say so.
        return True
    return False


def count_people(json_file: str | os.PathLike, hint: str = PREPARE_HINT) -> tuple[int, int]:
    """Count the people of a partition: (all, known ones only). Unknown people are one a box."""
    annotations = _partition(json_file, hint)[1]
    known = {entry["person_id"] for entry in annotations if entry["is_known"]}
    unknown = sum(not entry["is_known"] for entry in annotations)
    return len(known) + unknown, len(known)


def _partition(json_file: str | os.PathLike, hint: str) -> tuple[list, list, np.ndarray]:
    content = read_json(json_file, hint)
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise PersonSearchFormatError(
            f'{json_file}: expected an object with "images" and "annotations", found '
            f"{_shape(content)}. {HELP}"
        )
    take_people(content, str(json_file))
    images, annotations = content["images"], content["annotations"]
    return images, annotations, check_person_search(images, annotations, str(json_file))


@garbage_collection_paused()
def load_person_search_json(
    json_file: str | os.PathLike, image_root: str | os.PathLike, hint: str = PREPARE_HINT
) -> list[dict[str, Any]]:
    """Load a partition as Detectron2 dataset dicts, in ascending order of image id.

    Boxes are clipped to ``[0, W] x [0, H]`` and dropped when nothing is left; images keep their
    place even without a box. Person numbers are ranks over *all* annotations of the file, so they
    do not depend on what clipping drops.

    Args:
        json_file: the partition.
        image_root: folder that ``file_name`` is relative to.
        hint: what to do if the file is missing, appended to the error.

    Returns:
        list of dicts with ``file_name`` (absolute), ``image_id``, ``height``, ``width``,
        ``cam_id``, ``ignore_regions`` (x, y, w, h) and ``annotations``; each of these has
        ``annotation_id``, ``bbox`` (x, y, w, h; original pixels), ``bbox_mode``,
        ``category_id`` 0, ``iscrowd`` 0, ``person_id`` (0 .. people - 1, unknown people each
        their own), ``identity`` (row of the look-up table, 0 .. L - 1 in ascending order of the
        known ids, -1 if unknown), ``is_known`` and ``iou_thresh`` (of the unclipped box). Images
        with dropped boxes have their ids as ``empty_annotation_ids``.

    Raises:
        FileNotFoundError: if ``json_file`` is missing.
        PersonSearchFormatError: if it is malformed.
    """
    mode = _xywh_mode()
    table = load_person_search_table(json_file, hint)
    root = os.path.abspath(image_root)
    dicts = [
        {
            "file_name": os.path.join(root, entry["file_name"]),
            "image_id": entry["id"],
            "height": entry["height"],
            "width": entry["width"],
            "cam_id": entry.get("cam_id", -1),
            "ignore_regions": entry.get("ignore_regions", []),
            "annotations": [],
            **({EMPTY: table.empty[entry["id"]]} if entry["id"] in table.empty else {}),
        }
        for entry in table.images
    ]
    columns = (table.rows, table.boxes, table.person_ids, table.identities)
    for entry, row, box, person_id, identity in zip(
        table.annotations, *(column.tolist() for column in columns)
    ):
        dicts[row]["annotations"].append(
            {
                "annotation_id": entry["id"],
                "bbox": box,
                "bbox_mode": mode,
                "category_id": 0,
                "iscrowd": 0,
                "person_id": person_id,
                "identity": identity,
                "is_known": entry["is_known"],
                "iou_thresh": entry["iou_thresh"],
            }
        )
    return dicts


def _xywh_mode() -> int:
    """Detectron2's word for x, y, w, h; the number that it stands for where it is missing."""
    if runs_exported_models_only():
        return 1
    # Not above: scoring predictions reads the same files, and starts without PyTorch.
    from detectron2.structures import BoxMode

    return BoxMode.XYWH_ABS


@dataclass(frozen=True)
class PersonSearchTable:
    """A partition as columns: what :func:`load_person_search_json` makes dicts of.

    Attributes:
        images: I entries of the file, in ascending order of id.
        annotations: G entries of the file whose boxes are kept, in its order.
        rows: (G,) index of each annotation's image in ``images``.
        boxes: (G, 4) x, y, w, h, clipped.
        person_ids, identities: (G,) as in the dicts.
        empty: ids of annotations whose boxes are empty inside their image,
            by image id.
    """

    images: list[dict]
    annotations: list[dict]
    rows: np.ndarray
    boxes: np.ndarray
    person_ids: np.ndarray
    identities: np.ndarray
    empty: dict[int, list[int]] = field(default_factory=dict)


@garbage_collection_paused()
def load_person_search_table(
    json_file: str | os.PathLike, hint: str = PREPARE_HINT
) -> PersonSearchTable:
    """Load a partition as columns; arguments and errors as :func:`load_person_search_json`."""
    images, annotations, boxes = _partition(json_file, hint)
    _tell_what_is_odd(images, annotations, str(json_file))
    images = sorted(images, key=lambda entry: entry["id"])
    row_of_image = {entry["id"]: row for row, entry in enumerate(images)}
    rows = np.array([row_of_image[entry["image_id"]] for entry in annotations], dtype=np.int64)
    sizes = np.array([(entry["width"], entry["height"]) for entry in images], dtype=np.float64)
    sizes = sizes.reshape(-1, 2)[rows]
    check_boxes(boxes, sizes, [entry["id"] for entry in annotations], str(json_file))
    clipped = clip_xywh(boxes, sizes)
    keep = (clipped[:, 2] > 0) & (clipped[:, 3] > 0)
    person_ids, identities = _number_people(annotations)
    logger.info(
        "%s: %d images (%d without a box), %d boxes (%d more are empty inside the image), "
        "%d known people",
        json_file,
        len(images),
        np.count_nonzero(np.bincount(rows[keep], minlength=len(images)) == 0),
        np.count_nonzero(keep),
        np.count_nonzero(~keep),
        int(identities.max(initial=-1)) + 1,
    )
    empty: dict[int, list[int]] = {}
    for index in np.flatnonzero(~keep).tolist():
        empty.setdefault(annotations[index]["image_id"], []).append(annotations[index]["id"])
    return PersonSearchTable(
        images=images,
        empty=empty,
        annotations=[entry for entry, kept in zip(annotations, keep.tolist()) if kept],
        rows=rows[keep],
        boxes=clipped[keep],
        person_ids=person_ids[keep],
        identities=identities[keep],
    )


def _tell_what_is_odd(images: list[dict], annotations: list[dict], where: str) -> None:
    """Warn of a file that loads, but hardly as it was meant."""
    file_names = Counter(entry["file_name"] for entry in images)
    repeated = len(images) - len(file_names)
    if repeated:
        name, count = file_names.most_common(1)[0]
        ids = [entry["id"] for entry in images if entry["file_name"] == name][:3]
        warn_once(
            logger,
            f"{where}: {repeated} images repeat the file_name of another: {name!r} is listed "
            f"{count} times (ids {', '.join(map(str, ids))}). One image needs one entry. {HELP}",
        )
    if not annotations:
        what = "no images" if not images else f"{len(images)} images, but no annotations"
        warn_once(logger, f"{where}: it has {what}: nothing to train on or to find.")


def clip_xywh(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Clip (n, 4) boxes x, y, w, h to images of (n, 2) width, height pixels.

    Extents below 0 become 0; sides that need no clipping keep their exact value.
    """
    start = np.clip(boxes[:, :2], 0, sizes)
    end = boxes[:, :2] + boxes[:, 2:]
    untouched = (start == boxes[:, :2]) & (end <= sizes)
    extent = np.where(untouched, boxes[:, 2:], np.clip(end, 0, sizes) - start)
    return np.concatenate([start, np.maximum(extent, 0)], axis=1)


def _number_people(annotations: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Dense person numbers (n,) and look-up table rows (n,), -1 if unknown.

    Each unknown box is somebody of its own, even where a file gives several the same id.
    """
    ids = np.array([entry["person_id"] for entry in annotations], dtype=np.int64)
    known = np.array([entry["is_known"] for entry in annotations], dtype=bool)
    order = np.argsort(ids, kind="stable")
    ordered, ordered_known = ids[order], known[order]
    # Known and unknown people never share an id, so a repeated id is known or unknown throughout.
    new = np.ones(len(ids), dtype=bool)
    new[1:] = (ordered[1:] != ordered[:-1]) | ~ordered_known[1:]
    person_ids = np.empty(len(ids), dtype=np.int64)
    person_ids[order] = np.cumsum(new) - 1
    identities = np.full(len(ids), -1, dtype=np.int64)
    identities[known] = np.unique(ids[known], return_inverse=True)[1].reshape(-1)
    return person_ids, identities
