"""The fast evaluation equals the literal loops on random corpora full of special cases."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spnet_d2.evaluation import RetrievalProtocol, similarity
from spnet_d2.evaluation.detection import score_detections, score_query_centric_detections
from spnet_d2.evaluation.gallery import detected_boxes, ground_truth_boxes
from spnet_d2.evaluation.retrieval import score_retrieval
from spnet_d2.evaluation.scoring import evaluate_predictions
from tests.evaluation import oracle
from tests.evaluation.corpus import ground_truth, predictions
from tests.evaluation.oracle import Detection, Person, Scene

TIGHT = 1e-12
# Few sizes and places, so that overlaps, equal overlaps and duplicates are frequent.
BOX = st.tuples(
    st.sampled_from([0, 5, 10, 40, 45]),
    st.sampled_from([0, 10, 60]),
    st.sampled_from([10, 15, 20, 30]),
    st.sampled_from([20, 40, 50]),
).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
SCORE = st.sampled_from([0.2, 0.49999, 0.5, 0.6, 0.6, 0.8, 0.99, np.nan, np.inf])
RANDOM = settings(
    max_examples=50, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


def threshold(box):
    width, height = box[2] - box[0], box[3] - box[1]
    return min(0.5, width * height / ((width + 10) * (height + 10)))


@st.composite
def corpora(draw, ignore_regions=False, query_centric=False):
    """Images in any order, some empty, people missed, twice in an image, or only once at all."""
    image_ids = draw(st.lists(st.integers(0, 40), min_size=1, max_size=7, unique=True))
    corpus, annotation_id, row = {}, 1000, 0
    for image_id in image_ids:
        scene = Scene()
        for box in draw(st.lists(BOX, max_size=4)):
            person = draw(st.integers(0, 3))
            scene.people.append(Person(annotation_id, person, box, threshold(box)))
            annotation_id -= 1
        if ignore_regions:
            scene.ignore_regions = draw(st.lists(BOX, max_size=2))
        corpus[image_id] = scene
    known = sorted(p.annotation_id for scene in corpus.values() for p in scene.people)
    for scene in corpus.values():
        for _ in range(draw(st.integers(0, 6 if not query_centric or known else 0))):
            near = scene.people and draw(st.booleans())
            box = draw(st.sampled_from(scene.people)).box if near else draw(BOX)
            query = draw(st.sampled_from(known)) if query_centric else None
            scene.detections.append(Detection(box, draw(SCORE), row, query))
            row += 1
    return corpus


@st.composite
def protocols(draw, corpus):
    """(images, queries) in either form; galleries with repeats, in any order, perhaps empty."""
    known = sorted(p.annotation_id for scene in corpus.values() for p in scene.people)
    queries = draw(st.lists(st.sampled_from(known), min_size=1, max_size=5, unique=True))
    image_ids = list(corpus)
    if draw(st.booleans()):
        return draw(st.lists(st.sampled_from(image_ids), max_size=8)), queries
    gallery = st.lists(st.sampled_from(image_ids), max_size=2 * len(image_ids))
    return sorted(image_ids), {query: draw(gallery) for query in queries}


def values_with_ties(data, shape):
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    steps = data.draw(st.sampled_from([2, 5, 1000]))
    return rng.integers(-steps, steps + 1, shape) / steps


def matrix_source(matrix):
    def source(pool_of):
        for query, row in enumerate(matrix):
            pool = pool_of(query)
            yield pool, row[pool]

    return source


def assert_same_retrieval(scores, expected):
    np.testing.assert_allclose(scores.ap, [ap for ap, _ in expected], rtol=0, atol=TIGHT)
    assert scores.first_hit_rank.tolist() == [rank for _, rank in expected]
    for k in (1, 5, 10):
        top = np.mean([0 <= rank < k for _, rank in expected])
        assert scores.top(k) == pytest.approx(top, abs=TIGHT)


@RANDOM
@given(data=st.data(), ignore=st.booleans(), query_centric=st.booleans())
def test_retrieval(data, ignore, query_centric):
    corpus = data.draw(corpora(ignore, query_centric).filter(has_people))
    images, queries = data.draw(protocols(corpus))
    galleries = oracle.galleries_of(corpus, images, queries)
    truth, found = ground_truth(corpus), predictions(corpus)
    protocol = RetrievalProtocol.from_ids("p", truth, images, queries)

    matrix = values_with_ties(data, (len(galleries), len(found.scores)))
    order = {query: k for k, query in enumerate(galleries)}
    expected = oracle.retrieval(corpus, galleries, lambda q, row: matrix[order[q], row])
    boxes = detected_boxes(truth, found)
    scores = score_retrieval(truth, protocol, boxes, matrix_source(matrix[:, boxes.rows]))
    assert_same_retrieval(scores, expected)

    perfect = oracle.with_gt_as_detections(corpus)
    matrix = values_with_ties(data, (len(galleries), len(truth.boxes)))
    expected = oracle.retrieval(perfect, galleries, lambda q, row: matrix[order[q], row])
    boxes = ground_truth_boxes(truth, found)
    scores = score_retrieval(truth, protocol, boxes, matrix_source(matrix[:, boxes.rows]))
    assert_same_retrieval(scores, expected)


@RANDOM
@given(data=st.data(), query_centric=st.booleans(), dense=st.booleans())
def test_whole_evaluation_from_embeddings(data, query_centric, dense):
    """Embeddings of four entries +-1 have exact cosines k / 4: ties survive every product."""
    corpus = data.draw(corpora(True, query_centric).filter(has_people))
    images, queries = data.draw(protocols(corpus))
    galleries = oracle.galleries_of(corpus, images, queries)
    truth = ground_truth(corpus)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rows = sum(len(scene.detections) for scene in corpus.values())
    embeddings = rng.choice([-1.0, 1.0], (rows, 4)).astype(np.float16)
    gt = {int(a): rng.choice([-1.0, 1.0], 4) for a in truth.annotation_ids}
    found = predictions(corpus, embeddings, gt)
    if rows:
        embeddings[rng.integers(rows)] = 0  # no direction: similarity 0
    protocol = RetrievalProtocol.from_ids("p", truth, images, queries)

    with pytest.MonkeyPatch.context() as patch:
        # Tiny blocks and chunks, so that their seams are crossed.
        patch.setattr(similarity, "DENSE_SHARE", 0.0 if dense else np.inf)
        patch.setattr(similarity, "BLOCK_VALUES", 12)
        patch.setattr(similarity, "CHUNK_ROWS", 3)
        evaluation = evaluate_predictions(truth, [protocol], found)

    expected = oracle.retrieval(
        corpus, galleries, lambda q, row: float(embeddings[row].astype(float) @ gt[q]) / 4
    )
    assert_same_retrieval(evaluation.retrieval["p"], expected)
    perfect = oracle.with_gt_as_detections(corpus)
    gt_rows = [gt[a] for a in truth.annotation_ids]
    expected = oracle.retrieval(perfect, galleries, lambda q, row: gt_rows[row] @ gt[q] / 4)
    assert_same_retrieval(evaluation.gt_retrieval["p"], expected)


@RANDOM
@given(data=st.data(), ignore=st.booleans())
def test_detection(data, ignore):
    corpus = data.draw(corpora(ignore))
    images = data.draw(st.lists(st.sampled_from(list(corpus)), unique=True))
    truth = ground_truth(corpus)
    scores = score_detections(
        truth, truth.find_images(images, "test"), detected_boxes(truth, predictions(corpus))
    )
    assert_same_detection(scores, oracle.detection_of_images(corpus, images))


@RANDOM
@given(data=st.data())
def test_query_centric_detection(data):
    corpus = data.draw(corpora(True, query_centric=True).filter(has_people))
    images, queries = data.draw(protocols(corpus))
    truth, found = ground_truth(corpus), predictions(corpus)
    if not found.is_query_centric:  # no detection at all
        return
    protocol = RetrievalProtocol.from_ids("p", truth, images, queries)
    scores = score_query_centric_detections(truth, protocol, detected_boxes(truth, found))
    galleries = oracle.galleries_of(corpus, images, queries)
    assert_same_detection(scores, oracle.detection_of_pairs(corpus, galleries))


def assert_same_detection(scores, expected):
    assert (scores.recall, scores.ap, scores.rap) == pytest.approx(expected, abs=TIGHT)


def has_people(corpus):
    return any(scene.people for scene in corpus.values())
