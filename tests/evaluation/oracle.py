"""Person-search evaluation as literal loops, one box and one query at a time.

Written from the description of the protocols, not from the fast code, and it shares nothing with
it. A corpus is ``{image id: Scene}``; similarities come from a function.
"""

import math
import warnings
from dataclasses import dataclass, field

from sklearn.metrics import average_precision_score


@dataclass
class Person:
    annotation_id: int
    person: int
    box: tuple  # xyxy
    iou_thresh: float = 0.5


@dataclass
class Detection:
    box: tuple  # xyxy
    score: float
    row: int  # in the arrays of all predictions
    query: int | None = None  # annotation id, query-centric models only


@dataclass
class Scene:
    people: list = field(default_factory=list)
    detections: list = field(default_factory=list)
    ignore_regions: list = field(default_factory=list)  # xyxy


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if not (width > 0 and height > 0):
        return 0.0
    area_a = (a[2] - a[0]) * (a[3] - a[1])
    area_b = (b[2] - b[0]) * (b[3] - b[1])
    value = width * height / (area_a + area_b - width * height)
    return value if math.isfinite(value) else 0.0


def detections_that_count(scene):
    kept = []
    for detection in scene.detections:
        score = detection.score if math.isfinite(detection.score) else 0.0
        if score < 0.5:
            continue
        possible_hit = any(iou(detection.box, p.box) >= p.iou_thresh for p in scene.people)
        if not possible_hit and any(inside(detection.box, r) for r in scene.ignore_regions):
            continue
        kept.append(detection)
    return kept


def inside(box, region):
    width = min(box[2], region[2]) - max(box[0], region[0])
    height = min(box[3], region[3]) - max(box[1], region[1])
    area = (box[2] - box[0]) * (box[3] - box[1])
    return width > 0 and height > 0 and width * height >= 0.5 * area


def mutual_best(boxes, gt_boxes):
    """Labels (0 or 1) of boxes."""
    matrix = [[v if (v := iou(b, g)) >= 0.5 else 0.0 for g in gt_boxes] for b in boxes]
    labels = []
    for d, row in enumerate(matrix):
        label = 0
        if row and max(row) > 0:
            g = row.index(max(row))
            column = [other[g] for other in matrix]
            label = int(column.index(max(column)) == d)
        labels.append(label)
    return labels


def detection(groups):
    """(recall, AP, rAP) of a list of (detections, ground-truth boxes)."""
    total, matched, labels, scores = 0, 0, [], []
    for detections, gt_boxes in groups:
        total += len(gt_boxes)
        if not detections:
            continue
        found = mutual_best([d.box for d in detections], gt_boxes)
        labels += found
        scores += [d.score for d in detections]
        matched += sum(found)
    if not labels or total == 0:
        return 0.0, 0.0, 0.0
    recall = matched / total
    ap = sklearn_ap(labels, scores) * recall
    return recall, ap, sum(labels) / len(labels) * ap


def detection_of_images(corpus, images):
    return detection(
        [(detections_that_count(corpus[i]), [p.box for p in corpus[i].people]) for i in images]
    )


def detection_of_pairs(corpus, galleries):
    """Query-centric: one group per (query, gallery image) that shows the query's person."""
    groups = []
    for query, gallery in galleries.items():
        person = find(corpus, query)[1].person
        for image in sorted(set(gallery)):
            boxes = [p.box for p in corpus[image].people if p.person == person]
            if boxes:
                own = [d for d in detections_that_count(corpus[image]) if d.query == query]
                groups.append((own, boxes))
    return detection(groups)


def find(corpus, annotation_id):
    for image, scene in corpus.items():
        for person in scene.people:
            if person.annotation_id == annotation_id:
                return image, person
    raise KeyError(annotation_id)


def galleries_of(corpus, images, queries):
    """Gallery of every query: the lists of a dict, or all images but the query's own."""
    if isinstance(queries, dict):
        return queries
    return {q: [i for i in images if i != find(corpus, q)[0]] for q in queries}


def with_gt_as_detections(corpus):
    """The corpus whose detections are its ground truth; rows count through the images."""
    row = 0
    scenes = {}
    for image in sorted(corpus):
        detections = []
        for person in corpus[image].people:
            detections.append(Detection(person.box, 1.0, row))
            row += 1
        scenes[image] = Scene(corpus[image].people, detections)
    return scenes


def retrieval(corpus, galleries, similarity):
    """Per query (ap, place of the first hit or -1); similarity(annotation id, row) -> float."""
    return [
        retrieve_one(corpus, query, gallery, similarity) for query, gallery in galleries.items()
    ]


def retrieve_one(corpus, query, gallery, similarity):
    wanted = find(corpus, query)[1].person
    present, pool_sims, pool_labels, used = 0, [], [], set()
    for image in gallery:
        boxes = [p for p in corpus[image].people if p.person == wanted]
        if boxes:
            present += 1
        detections = [
            d for d in detections_that_count(corpus[image]) if d.query is None or d.query == query
        ]
        if not detections or image in used:
            continue
        used.add(image)
        sims = [similarity(query, d.row) for d in detections]
        labels = [0] * len(detections)
        if boxes:
            first = boxes[0]
            candidates = [
                k for k, d in enumerate(detections) if iou(d.box, first.box) >= first.iou_thresh
            ]
            if candidates:
                labels[max(candidates, key=lambda k: sims[k])] = 1
        pool_sims += sims
        pool_labels += labels
    if not pool_sims or present == 0 or 1 not in pool_labels:
        return 0.0, -1
    recall = sum(pool_labels) / present
    ranking = sorted(range(len(pool_sims)), key=lambda k: -pool_sims[k])
    first_hit = [pool_labels[k] for k in ranking].index(1)
    return sklearn_ap(pool_labels, pool_sims) * recall, first_hit


def sklearn_ap(labels, scores):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "no positive class": the value is 0
        return float(average_precision_score(labels, scores)) if 1 in labels else 0.0
