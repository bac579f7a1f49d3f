"""A dump of another project, matched to a data set's images and queries, as predictions.

Nothing in such a file says which image a row belongs to, so the order is checked by everything that
can show it: numbers of images and queries, query boxes, and how many annotated boxes are found.
"""

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from spnet_d2.data.person_search_json import PersonSearchTable
from spnet_d2.evaluation.peers.dumps import COSINE, PROJECTS, Dump
from spnet_d2.evaluation.peers.errors import DumpError
from spnet_d2.evaluation.predictions import Predictions

# Our evaluation's floor.
_FLOOR = 0.5
_LEAST_RECALL = 0.5
_QUERY_TOLERANCE = 1.0  # pixels
_NORM_TOLERANCE = 0.02


def convert_dump(
    project: str,
    dump: Dump,
    table: PersonSearchTable,
    queries: Sequence[int],
    names: Sequence[str] | None,
    score_floor: float | None = None,
) -> tuple[Predictions, list[str]]:
    """
    Match a dump to a data set.

    Args:
        project: key of :data:`PROJECTS`.
        dump: what was read.
        table: the annotations.
        queries: annotation ids in the order of the protocol.
        names: of the images in the dump's order; None: the dump has them.
        score_floor: scores are mapped so that this one becomes 0.5, the evaluation's floor.

    Returns:
        The predictions, and what a reader of the metrics should know.

    Raises:
        DumpError: numbers, order or frame of the dump don't fit the data set.
    """
    ids = _image_ids(dump, table, names)
    annotations = _Annotations(table)
    if strangers := [query for query in queries if query not in annotations.image_of]:
        raise DumpError(
            f"{len(strangers)} queries of the protocol are no annotations, first {strangers[0]}: "
            "the protocol belongs to another JSON."
        )
    notes: list[str] = []
    if dump.queries is None:
        features = _queries_among_detections(dump, ids, annotations, queries, notes)
    else:
        queries = _query_ids(dump, annotations, queries)
        features = np.stack(dump.queries)
    counts = [len(boxes) for boxes in dump.boxes]
    boxes, scores = np.concatenate(dump.boxes), np.concatenate(dump.scores)
    embeddings = np.concatenate(dump.features).reshape(-1, dump.size)
    _check_scores(scores)
    _check_frame(boxes, np.repeat(ids, counts), annotations)
    notes += _about_ranking(project, embeddings, scores)
    if score_floor is not None:
        scores = map_scores(scores, score_floor)
        notes.append(
            f"scores are mapped so that {score_floor:g} becomes {_FLOOR}: the ranking by cosine "
            "stays, metrics weighted by score have no meaning"
        )
    predictions = Predictions(
        np.repeat(ids, counts),
        boxes,
        scores,
        embeddings,
        np.asarray(queries, np.int64),
        features.astype(np.float32),
    )
    return predictions, notes


def map_scores(scores: np.ndarray, floor: float) -> np.ndarray:
    """Monotonic in [0, 1], with ``floor`` at 0.5."""
    above = _FLOOR + (1 - _FLOOR) * (scores - floor) / (1 - floor)
    return np.where(scores >= floor, above, _FLOOR * scores / floor).astype(np.float32)


class _Annotations:
    """Boxes and images of annotations by their ids."""

    def __init__(self, table: PersonSearchTable):
        self.image_of = {a["id"]: a["image_id"] for a in table.annotations}
        corners = np.concatenate([table.boxes[:, :2], table.boxes[:, :2] + table.boxes[:, 2:]], 1)
        self.box_of = dict(zip(self.image_of, corners))
        self.name_of = {image["id"]: image["file_name"] for image in table.images}
        self.size_of = {image["id"]: (image["width"], image["height"]) for image in table.images}


def _image_ids(dump: Dump, table: PersonSearchTable, names: Sequence[str] | None) -> np.ndarray:
    """Image id of each place in the dump."""
    names = dump.image_names if names is None else list(names)
    if names is None:
        raise DumpError(
            "The file doesn't say whose detections are whose: give the image names in its order "
            "(pool.mat of CUHK-SYSU, frame_test.mat of PRW, or a text file)."
        )
    if len(names) != len(dump.boxes):
        raise DumpError(
            f"The file has {len(dump.boxes)} images, the list of names {len(names)}; the "
            f"annotations have {len(table.images)}."
        )
    known: dict[str, int] = {}
    for image in table.images:
        for key in _keys(image["file_name"]):
            known.setdefault(key, image["id"])
    ids = [next((known[key] for key in _keys(name) if key in known), None) for name in names]
    if None in ids:
        missing = [name for name, image_id in zip(names, ids) if image_id is None]
        raise DumpError(
            f"{len(missing)} of the {len(names)} image names are not in the annotations, first "
            f"{missing[0]!r}; these have names such as {table.images[0]['file_name']!r}."
        )
    if len(set(ids)) != len(ids):
        twice = next(name for place, name in enumerate(names) if ids[place] in ids[:place])
        raise DumpError(f"The list of names has {twice!r} twice.")
    return np.array(ids, np.int64)


def _keys(name: str) -> tuple[str, ...]:
    """A name as it may be written: with folders, without them, without its suffix (PRW)."""
    path = PurePosixPath(name.replace("\\", "/"))
    return str(path), path.name, path.stem


def _query_ids(dump: Dump, annotations: _Annotations, queries: Sequence[int]) -> list[int]:
    embedded = dump.queries or []
    if len(embedded) != len(queries):
        raise DumpError(
            f"The file has {len(embedded)} queries, the protocol {len(queries)}: another "
            "protocol or data set."
        )
    if dump.query_boxes is None:
        return list(queries)
    if dump.query_names is not None:
        return _queries_by_box(dump, annotations, queries)
    for place, (query, box) in enumerate(zip(queries, dump.query_boxes)):
        expected = annotations.box_of[query]
        if np.abs(expected - box).max() > _QUERY_TOLERANCE:
            raise DumpError(
                f"Query {place} of the file has the box {_text(box)}, that of the protocol "
                f"(annotation {query}) {_text(expected)}: the queries are in another order, or the "
                "boxes are not in pixels of the original image."
            )
    return list(queries)


def _queries_by_box(dump: Dump, annotations: _Annotations, queries: Sequence[int]) -> list[int]:
    """Queries whose image and box the file names may be in any order."""
    of_image: dict[str, list[int]] = {}
    for query in queries:
        for key in _keys(annotations.name_of[annotations.image_of[query]]):
            of_image.setdefault(key, []).append(query)
    found = []
    for place, (name, box) in enumerate(zip(dump.query_names or [], dump.query_boxes or [])):
        near = [
            query
            for query in next((of_image[k] for k in _keys(name) if k in of_image), [])
            if np.abs(annotations.box_of[query] - box).max() <= _QUERY_TOLERANCE
        ]
        near = [query for query in dict.fromkeys(near) if query not in found]
        if not near:
            raise DumpError(
                f"Query {place} of the file, {_text(box)} in {name!r}, is no query of the protocol."
            )
        found.append(near[0])
    return found


def _text(box: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.1f}" for value in box) + ")"


def _queries_among_detections(
    dump: Dump,
    ids: np.ndarray,
    annotations: _Annotations,
    queries: Sequence[int],
    notes: list[str],
) -> np.ndarray:
    """The detection of its own image that overlaps each query most, whatever its score."""
    place_of = {image_id: place for place, image_id in enumerate(ids.tolist())}
    features = np.zeros((len(queries), dump.size), np.float32)
    absent = poor = 0
    for row, query in enumerate(queries):
        image = annotations.image_of[query]
        if image not in place_of:
            raise DumpError(f"The image of query {query} is not among the file's images.")
        place = place_of[image]
        if not len(dump.boxes[place]):
            absent += 1
            continue
        overlaps = _pixel_ious(annotations.box_of[query], dump.boxes[place])
        poor += overlaps.max() < 0.1
        features[row] = dump.features[place][overlaps.argmax()]
    notes.append("queries are the detections that overlap them most, as this project takes them")
    if absent:
        notes.append(f"{absent} queries have no detection in their image: they find nobody")
    if poor:
        notes.append(f"{poor} queries overlap no detection by 0.1")
    return features


def _pixel_ious(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of boxes whose last column and row of pixels count."""
    start = np.maximum(box[:2], others[:, :2])
    end = np.minimum(box[2:], others[:, 2:])
    inside = np.clip(end - start + 1, 0, None).prod(1)
    areas = (others[:, 2:] - others[:, :2] + 1).prod(1) + (box[2:] - box[:2] + 1).prod()
    return inside / (areas - inside)


def _check_scores(scores: np.ndarray) -> None:
    if len(scores) and (scores.min() < 0 or scores.max() > 1):
        raise DumpError(f"scores must be 0 to 1, found {scores.min():g} to {scores.max():g}.")
    if len(scores) and (scores == 1).all():
        raise DumpError(
            "All scores are 1: the file holds ground-truth boxes (a switch of the evaluation), no "
            "detections."
        )


def _check_frame(boxes: np.ndarray, ids: np.ndarray, annotations: _Annotations) -> None:
    """Whether boxes lie in their images, and on people."""
    if not len(boxes):
        raise DumpError("The file has no detection at all.")
    sizes = np.array([annotations.size_of[image] for image in ids.tolist()])
    beyond = (boxes[:, 2:] > sizes + 1).any(1) | (boxes[:, :2] < -1).any(1)
    if beyond.mean() > 0.1:
        raise DumpError(
            f"{beyond.mean():.0%} of the boxes reach beyond their image: they belong to other "
            "images (the order of names), or to resized ones (scale them back)."
        )
    rows: dict[int, list[int]] = {}
    for row, image in enumerate(ids.tolist()):
        rows.setdefault(image, []).append(row)
    covered = set(ids.tolist())
    found = total = 0
    for annotation, image in annotations.image_of.items():
        # An image that nothing was found in says nothing of the order.
        if image in covered:
            overlaps = _pixel_ious(annotations.box_of[annotation], boxes[rows[image]])
            found += overlaps.max() >= 0.5
            total += 1
    if total and found / total < _LEAST_RECALL:
        raise DumpError(
            f"Only {found} of {total} annotated boxes are found (IoU 0.5): the image names are in "
            "another order than the file, or boxes are not x1, y1, x2, y2 of the original image."
        )


def _about_ranking(project: str, embeddings: np.ndarray, scores: np.ndarray) -> list[str]:
    """What lengths of features tell, and what the published metric is called here."""
    entry = PROJECTS[project]
    norms = np.linalg.norm(embeddings, axis=1)

    def like(expected: np.ndarray) -> bool:
        return bool((np.abs(norms - expected) <= _NORM_TOLERANCE * expected + 1e-6).all())

    kinds = {
        "unit length": like(np.ones_like(scores)),
        "length = score": like(scores),
        "length = sqrt(2) score, two features": like(np.sqrt(2) * scores),
    }
    kind = next((name for name, fits in kinds.items() if fits), "of any length")
    ours = "mAP, top1" if entry.ranking == COSINE else "cws_mAP, cws_top1 (evaluate.py --cws)"
    notes = [
        f"{entry.title}: features of {embeddings.shape[1]} numbers, {kind}; all get normalised",
        f"its published metrics rank by {entry.ranking}: here {ours}",
        "metrics with ground-truth boxes as gallery are left out: only queries have features",
    ]
    if entry.floor != _FLOOR:
        notes.append(
            f"its metrics leave out scores below {entry.floor:g}, this evaluation those below "
            f"{_FLOOR}: --score-floor {entry.floor:g} maps one to the other"
        )
    return notes + ([entry.remark] if entry.remark else [])
