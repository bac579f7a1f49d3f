"""Oracle corpora as the arrays of the fast code, and the worked examples of the protocols."""

import numpy as np

from spnet_d2.data.person_search_json import write_person_search_json
from spnet_d2.evaluation import GroundTruth, Predictions
from tests.oracles.evaluation import Detection, Person, Scene


def xywh(box):
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def dataset_dicts(corpus):
    return [
        {
            "image_id": image_id,
            "ignore_regions": [xywh(region) for region in scene.ignore_regions],
            "annotations": [
                {
                    "annotation_id": p.annotation_id,
                    "person_id": p.person,
                    "bbox": xywh(p.box),
                    "iou_thresh": p.iou_thresh,
                }
                for p in scene.people
            ],
        }
        for image_id, scene in corpus.items()
    ]


def write_dataset(path, corpus, suffix=".jpg", **image_fields):
    """The corpus as person-search JSON; ``image_fields`` are those of every image."""
    write_person_search_json(
        path,
        [{"id": i, "file_name": f"{i}{suffix}", **image_fields} for i in corpus],
        [
            {
                "id": p.annotation_id,
                "image_id": image,
                "bbox": xywh(p.box),
                "area": 1.0,
                "person_id": p.person,
                "is_known": True,
                "iou_thresh": p.iou_thresh,
                "category_id": 1,
                "iscrowd": 0,
            }
            for image, scene in corpus.items()
            for p in scene.people
        ],
    )


def ground_truth(corpus):
    return GroundTruth.from_dicts(dataset_dicts(corpus))


def predictions(corpus, embeddings=None, gt_embeddings=None):
    """Arrays by row; embeddings default to size 1.

    Args:
        embeddings (ndarray | None): (N, D) by row.
        gt_embeddings (dict | None): annotation id -> (D,).
    """
    pairs = [(image, d) for image, scene in corpus.items() for d in scene.detections]
    pairs.sort(key=lambda pair: pair[1].row)
    assert [d.row for _, d in pairs] == list(range(len(pairs)))
    ids = [p.annotation_id for image in sorted(corpus) for p in corpus[image].people]
    if embeddings is None:
        embeddings = np.ones((len(pairs), 1), np.float32)
    size = embeddings.shape[1]
    if gt_embeddings is None:
        gt_embeddings = {annotation_id: np.ones(size) for annotation_id in ids}
    queries = [d.query for _, d in pairs]
    return Predictions(
        image_ids=np.array([image for image, _ in pairs], np.int64),
        boxes=np.array([d.box for _, d in pairs], np.float64).reshape(-1, 4),
        scores=np.array([d.score for _, d in pairs], np.float64),
        embeddings=embeddings,
        gt_annotation_ids=np.array(ids, np.int64),
        gt_embeddings=np.array([gt_embeddings[i] for i in ids], np.float32).reshape(-1, size),
        query_annotation_ids=(
            np.array(queries, np.int64) if queries and queries[0] is not None else None
        ),
    )


# The query of the worked examples: person 7 in image 0.
QUERY = 100
TALL = (0, 0, 100, 200)


def plane(cosine):
    """Unit vector with this cosine to (1, 0)."""
    return np.array([cosine, np.sqrt(1 - cosine**2)], np.float32)


def worked_example(with_query_frame_detection):
    """Images 1-5 with person 7 in 1, 2, 4, 5 and person 8 in 3; image 0 holds the query.

    Returns:
        corpus, embeddings (N, 2), gt_embeddings by annotation id.
    """
    people = {  # image: annotation id, person, box, threshold, cosine to the query
        0: (QUERY, 7, TALL, 0.5, 1.0),
        1: (101, 7, TALL, 0.5, 0.8),
        2: (102, 7, TALL, 0.5, 0.6),
        3: (103, 8, (50, 50, 150, 250), 0.5, 0.7),
        4: (104, 7, (0, 0, 10, 20), 200 / 600, 0.9),
        5: (105, 7, TALL, 0.5, 0.5),
    }
    detections = [  # image, box, score, cosine
        (1, (0, 0, 100, 160), 0.90, 0.90),
        (1, (300, 0, 400, 200), 0.60, 0.30),
        (2, TALL, 0.40, 0.99),
        (3, (50, 50, 150, 250), 0.95, 0.95),
        (4, (0, 0, 10, 8), 0.70, 0.50),
        (5, (0, 0, 100, 90), 0.92, 0.70),
    ]
    if with_query_frame_detection:
        detections.append((0, TALL, 0.99, 1.0))
    corpus = {image: Scene([Person(*entry[:4])]) for image, entry in people.items()}
    for row, (image, box, score, _) in enumerate(detections):
        corpus[image].detections.append(Detection(box, score, row))
    embeddings = np.stack([plane(entry[3]) for entry in detections])
    return corpus, embeddings, {entry[0]: plane(entry[4]) for entry in people.values()}
