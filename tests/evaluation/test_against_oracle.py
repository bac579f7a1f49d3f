"""The fast evaluation equals the literal loops on random corpora full of special cases."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spnet_d2.evaluation import (
    CORRECTED,
    ORIGINAL,
    ExtraMetrics,
    KReciprocal,
    RetrievalProtocol,
    similarity,
)
from spnet_d2.evaluation.detection import score_detections, score_query_centric_detections
from spnet_d2.evaluation.gallery import detected_boxes, ground_truth_boxes
from spnet_d2.evaluation.reranking import final_distances
from spnet_d2.evaluation.retrieval import score_retrieval
from spnet_d2.evaluation.scoring import evaluate_predictions
from tests.evaluation.corpus import ground_truth, predictions
from tests.oracles import evaluation as oracle
from tests.oracles.evaluation import Detection, Person, Scene

TIGHT = 1e-12
# Few sizes and places, so that overlaps, equal overlaps and duplicates are frequent.
BOX = st.tuples(
    st.sampled_from([0, 5, 10, 40, 45]),
    st.sampled_from([0, 10, 60]),
    st.sampled_from([10, 15, 20, 30]),
    st.sampled_from([20, 40, 50]),
).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
VARIANT = st.sampled_from([ORIGINAL, CORRECTED])
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
    """Equal to the oracle's (ap, rank) per query; None: not in the mean."""
    assert scores.counted.tolist() == [result is not None for result in expected]
    every = [result or (0, -1) for result in expected]
    np.testing.assert_allclose(scores.ap, [ap for ap, _ in every], rtol=0, atol=TIGHT)
    assert scores.first_hit_rank.tolist() == [rank for _, rank in every]
    counted = [result for result in expected if result is not None] or [(0, -1)]
    assert scores.mean_ap == pytest.approx(np.mean([ap for ap, _ in counted]), abs=TIGHT)
    for k in (1, 5, 10):
        top = np.mean([0 <= rank < k for _, rank in counted])
        assert scores.top(k) == pytest.approx(top, abs=TIGHT)


@RANDOM
@given(data=st.data(), ignore=st.booleans(), query_centric=st.booleans(), variant=VARIANT)
def test_retrieval(data, ignore, query_centric, variant):
    corpus = data.draw(corpora(ignore, query_centric).filter(has_people))
    images, queries = data.draw(protocols(corpus))
    galleries = oracle.galleries_of(corpus, images, queries)
    truth, found = ground_truth(corpus), predictions(corpus)
    protocol = protocol_of(truth, images, queries, variant)
    corrected = variant is CORRECTED

    matrix = values_with_ties(data, (len(galleries), len(found.scores)))
    order = {query: k for k, query in enumerate(galleries)}
    expected = oracle.retrieval(corpus, galleries, lambda q, row: matrix[order[q], row], corrected)
    boxes = detected_boxes(truth, found)
    scores = score_retrieval(truth, protocol, boxes, matrix_source(matrix[:, boxes.rows]), variant)
    assert_same_retrieval(scores, expected)

    perfect = oracle.with_gt_as_detections(corpus)
    matrix = values_with_ties(data, (len(galleries), len(truth.boxes)))
    expected = oracle.retrieval(perfect, galleries, lambda q, row: matrix[order[q], row], corrected)
    boxes = ground_truth_boxes(truth, found, np.arange(truth.num_images))
    scores = score_retrieval(truth, protocol, boxes, matrix_source(matrix[:, boxes.rows]), variant)
    assert_same_retrieval(scores, expected)


def protocol_of(truth, images, queries, variant):
    protocol = RetrievalProtocol.from_ids("p", truth, images, queries)
    return protocol if variant.own_frame_searched else protocol.without_own_frames()


@RANDOM
@given(data=st.data(), query_centric=st.booleans(), dense=st.booleans(), variant=VARIANT)
def test_whole_evaluation_from_embeddings(data, query_centric, dense, variant):
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
        evaluation = evaluate_predictions(truth, [protocol], found, variant, ExtraMetrics(cws=True))

    def cosine(q, row):
        return float(embeddings[row].astype(float) @ gt[q]) / 4

    corrected = variant is CORRECTED
    expected = oracle.retrieval(corpus, galleries, cosine, corrected)
    assert_same_retrieval(evaluation.retrieval["p"], expected)
    score_of = {d.row: d.score for scene in corpus.values() for d in scene.detections}
    expected = oracle.retrieval(
        corpus, galleries, lambda q, row: cosine(q, row) * score_of[row], corrected
    )
    assert_same_retrieval(evaluation.rescored["p"]["cws"], expected)
    perfect = oracle.with_gt_as_detections(corpus)
    gt_rows = [gt[a] for a in truth.annotation_ids]
    expected = oracle.retrieval(
        perfect, galleries, lambda q, row: gt_rows[row] @ gt[q] / 4, corrected
    )
    assert_same_retrieval(evaluation.gt_retrieval["p"], expected)
    if query_centric and rows:
        expected = oracle.detection_of_pairs(corpus, galleries, corrected)
    elif rows:
        expected = oracle.detection_of_images(corpus, set(images), corrected)
    else:
        expected = (0, 0, 0)
    assert_same_detection(evaluation.detection, expected)


@RANDOM
@given(data=st.data(), variant=VARIANT)
def test_context_matching_and_reranking(data, variant):
    """Embeddings without ties, so that the best assignment is unique."""
    corpus = data.draw(corpora().filter(has_people))
    images, queries = data.draw(protocols(corpus))
    galleries = oracle.galleries_of(corpus, images, queries)
    truth = ground_truth(corpus)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rows = sum(len(scene.detections) for scene in corpus.values())
    unit = rng.standard_normal((rows + len(truth.boxes), 6))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    embeddings, gt = unit[:rows], dict(zip(truth.annotation_ids.tolist(), unit[rows:]))
    sizes = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    reranking = KReciprocal(
        data.draw(st.integers(1, 6)),
        data.draw(st.integers(1, 4)),
        data.draw(st.sampled_from([0.0, 0.3, 1.0])),
        data.draw(st.sampled_from([2, 1000])),
    )
    evaluation = evaluate_predictions(
        truth,
        [RetrievalProtocol.from_ids("p", truth, images, queries)],
        predictions(corpus, embeddings, gt),
        variant,
        ExtraMetrics(cbgm=True, cbgm_sizes=sizes, rerank=reranking),
    )
    corrected = variant is CORRECTED

    def cosine(q, row):
        return float(embeddings[row] @ gt[q])

    matching = oracle.context_matching(
        corpus, cosine, lambda a, b: float(embeddings[a] @ embeddings[b]), *sizes
    )
    expected = oracle.retrieval(corpus, galleries, cosine, corrected, matching)
    assert_same_retrieval(evaluation.rescored["p"]["cbgm"], expected)

    def rerank(query, scenes):
        flat = sorted(
            (-sim, d.row)
            for detections, sims in scenes.values()
            for d, sim in zip(detections, sims)
        )
        listed = [row for _, row in flat[: reranking.shortlist]]
        vectors = [gt[query], *(embeddings[row] for row in listed)]
        distances = [[0.0 if a is b else 2 - 2 * float(a @ b) for b in vectors] for a in vectors]
        final = oracle.reranked_distances(distances, reranking.k1, reranking.k2, reranking.weight)
        values = {row: 1 - distance for row, distance in zip(listed, final)}
        return {
            image: (
                detections,
                [values.get(d.row, sim - 4) for d, sim in zip(detections, sims)],
            )
            for image, (detections, sims) in scenes.items()
        }

    # Jaccard distances of 1 are equal but for rounding, so whole values are compared below; here
    # weight 0 would compare the noise.
    if reranking.weight > 0:
        expected = oracle.retrieval(corpus, galleries, cosine, corrected, rerank)
        assert_same_retrieval(evaluation.rescored["p"]["rerank"], expected)


@RANDOM
@given(
    data=st.data(),
    n=st.integers(2, 40),
    k1=st.integers(1, 25),
    k2=st.integers(1, 8),
    weight=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_reranked_distances(data, n, k1, k2, weight):
    """Many equal distances and equal elements; exact in every precision."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    vectors = rng.choice([-0.5, 0.5], (n, 4)).astype(np.float32)
    if data.draw(st.booleans()):
        vectors[rng.integers(n)] = 0  # no direction
    distances = (2 - 2 * (vectors @ vectors.T)).tolist()
    expected = oracle.reranked_distances(distances, k1, k2, weight)
    found = final_distances(vectors, KReciprocal(k1, k2, weight))
    np.testing.assert_allclose(found, expected, rtol=0, atol=TIGHT)


@RANDOM
@given(data=st.data(), ignore=st.booleans(), variant=VARIANT)
def test_detection(data, ignore, variant):
    corpus = data.draw(corpora(ignore))
    images = data.draw(st.lists(st.sampled_from(list(corpus)), unique=True))
    truth = ground_truth(corpus)
    scores = score_detections(
        truth,
        truth.find_images(images, "test"),
        detected_boxes(truth, predictions(corpus)),
        variant,
    )
    assert_same_detection(scores, oracle.detection_of_images(corpus, images, variant is CORRECTED))


@RANDOM
@given(data=st.data(), variant=VARIANT)
def test_query_centric_detection(data, variant):
    corpus = data.draw(corpora(True, query_centric=True).filter(has_people))
    images, queries = data.draw(protocols(corpus))
    truth, found = ground_truth(corpus), predictions(corpus)
    if not found.is_query_centric:  # no detection at all
        return
    protocol = protocol_of(truth, images, queries, variant)
    scores = score_query_centric_detections(truth, protocol, detected_boxes(truth, found), variant)
    galleries = oracle.galleries_of(corpus, images, queries)
    expected = oracle.detection_of_pairs(corpus, galleries, variant is CORRECTED)
    assert_same_detection(scores, expected)


def assert_same_detection(scores, expected):
    assert (scores.recall, scores.ap, scores.rap) == pytest.approx(expected, abs=TIGHT)


def has_people(corpus):
    return any(scene.people for scene in corpus.values())
