"""Person-search evaluation as literal loops, one box and one query at a time.

Written from the description of the protocols, not from the fast code, and it shares nothing with
it. A corpus is ``{image id: Scene}``; similarities come from a function.
"""

import itertools
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


def greedy(boxes, scores, gt_boxes):
    """Labels (0 or 1) of boxes that choose one after the other, by falling score."""
    labels, taken = [0] * len(boxes), set()
    for d in sorted(range(len(boxes)), key=lambda d: -scores[d]):
        overlaps = [(iou(boxes[d], g), -k) for k, g in enumerate(gt_boxes) if k not in taken]
        if overlaps and max(overlaps)[0] >= 0.5:
            taken.add(-max(overlaps)[1])
            labels[d] = 1
    return labels


def detection(groups, corrected=False):
    """(recall, AP, rAP) of a list of (detections, ground-truth boxes)."""
    total, matched, labels, scores = 0, 0, [], []
    for detections, gt_boxes in groups:
        total += len(gt_boxes)
        if not detections:
            continue
        boxes = [d.box for d in detections]
        if corrected:
            found = greedy(boxes, [d.score for d in detections], gt_boxes)
        else:
            found = mutual_best(boxes, gt_boxes)
        labels += found
        scores += [d.score for d in detections]
        matched += sum(found)
    if not labels or total == 0:
        return 0.0, 0.0, 0.0
    recall = matched / total
    ap = sklearn_ap(labels, scores) * recall
    return recall, ap, sum(labels) / len(labels) * ap


def detection_of_images(corpus, images, corrected=False):
    return detection(
        [(detections_that_count(corpus[i]), [p.box for p in corpus[i].people]) for i in images],
        corrected,
    )


def detection_of_pairs(corpus, galleries, corrected=False):
    """Query-centric: one group per (query, gallery image) that shows the query's person.

    Corrected: of every pair, so that false positives elsewhere count, too.
    """
    groups = []
    for query, gallery in galleries.items():
        own_image, query_box = find(corpus, query)
        for image in sorted(set(gallery)):
            if corrected and image == own_image:
                continue
            boxes = [p.box for p in corpus[image].people if p.person == query_box.person]
            if boxes or corrected:
                own = [d for d in detections_that_count(corpus[image]) if d.query == query]
                groups.append((own, boxes))
    return detection(groups, corrected)


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


def retrieval(corpus, galleries, similarity, corrected=False, rescore=None):
    """Per query (ap, place of the first hit or -1); similarity(annotation id, row) -> float.

    Corrected: None for queries that do not enter the mean.
    """
    return [
        retrieve_one(corpus, query, gallery, similarity, corrected, rescore)
        for query, gallery in galleries.items()
    ]


def retrieve_one(corpus, query, gallery, similarity, corrected=False, rescore=None):
    own_image, query_box = find(corpus, query)
    wanted = query_box.person
    present, shown, scenes = 0, set(), {}
    for image in gallery:
        if corrected and image == own_image:
            continue
        if any(p.person == wanted for p in corpus[image].people):
            if not (corrected and image in shown):
                present += 1
            shown.add(image)
        detections = [
            d for d in detections_that_count(corpus[image]) if d.query is None or d.query == query
        ]
        if not detections or image in scenes:
            continue
        scenes[image] = (detections, [similarity(query, d.row) for d in detections])
    if rescore is not None:
        scenes = rescore(query, scenes)
    pool_sims, pool_labels = [], []
    for image, (detections, sims) in scenes.items():
        people = [p for p in corpus[image].people if p.person == wanted]
        if not corrected:
            people = people[:1]
        candidates = [
            k
            for k, d in enumerate(detections)
            if any(iou(d.box, p.box) >= p.iou_thresh for p in people)
        ]
        labels = [0] * len(detections)
        if candidates:
            labels[max(candidates, key=lambda k: sims[k])] = 1
        pool_sims += sims
        pool_labels += labels
    if corrected and present == 0:
        return None
    if not pool_sims or present == 0 or 1 not in pool_labels:
        return 0.0, -1
    recall = sum(pool_labels) / present
    ranking = sorted(range(len(pool_sims)), key=lambda k: -pool_sims[k])
    first_hit = [pool_labels[k] for k in ranking].index(1)
    return sklearn_ap(pool_labels, pool_sims) * recall, first_hit


def context_matching(corpus, similarity, between, k1, k2):
    """Re-scoring by the best of all assignments; between(row, row) -> similarity of detections."""

    def rescore(query, scenes):
        image, asked = find(corpus, query)
        around = [d for d in detections_that_count(corpus[image]) if iou(d.box, asked.box) <= 0.4]
        around = sorted(around, key=lambda d: -d.score)[: k2 - 1]
        flat = [(sim, image) for image, (_, sims) in scenes.items() for sim in sims]
        best = sorted(flat, key=lambda entry: -entry[0])[:k1]
        revised = {image: (d, list(sims)) for image, (d, sims) in scenes.items()}
        for image in {image for _, image in best}:
            detections, sims = scenes[image]
            rows = [sims] + [[between(p.row, d.row) for d in detections] for p in around]
            people, places = range(len(rows)), range(len(detections))
            if len(rows) <= len(detections):
                options = [list(zip(people, p)) for p in itertools.permutations(places, len(rows))]
            else:
                options = [
                    list(zip(p, places)) for p in itertools.permutations(people, len(detections))
                ]
            total, chosen = max((sum(rows[i][j] for i, j in pairs), pairs) for pairs in options)
            for person, place in chosen:
                if person == 0:
                    revised[image][1][place] = total
        return revised

    return rescore


def reranked_distances(distances, k1, k2, weight):
    """k-reciprocal re-ranking of element 0 among the others; distances as a list of lists."""
    n = len(distances)
    ranks = [sorted(range(n), key=lambda j: (distances[i][j], j)) for i in range(n)]
    scaled = [[d / (max(row) or 1.0) for d in row] for row in distances]

    def reciprocal(i, k):
        return {j for j in ranks[i][: k + 1] if i in ranks[j][: k + 1]}

    encodings = []
    for i in range(n):
        near = reciprocal(i, k1)
        expanded = set(near)
        for j in near:
            close = reciprocal(j, round(k1 / 2))
            if 3 * len(close & near) > 2 * len(close):
                expanded |= close
        weights = {j: math.exp(-scaled[i][j]) for j in expanded}
        encodings.append({j: w / sum(weights.values()) for j, w in weights.items()})
    if k2 > 1:
        means = []
        for i in range(n):
            nearest = ranks[i][:k2]
            means.append(
                [sum(encodings[j].get(m, 0.0) for j in nearest) / len(nearest) for m in range(n)]
            )
    else:
        means = [[encoding.get(m, 0.0) for m in range(n)] for encoding in encodings]
    final = []
    for i in range(1, n):
        overlap = sum(min(a, b) for a, b in zip(means[0], means[i]))
        jaccard = 1 - overlap / (2 - overlap)
        final.append((1 - weight) * jaccard + weight * scaled[0][i])
    return final


def sklearn_ap(labels, scores):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "no positive class": the value is 0
        return float(average_precision_score(labels, scores)) if 1 in labels else 0.0
