import numpy as np
import pytest

from spnet_d2.evaluation import RetrievalProtocol, evaluate_predictions
from tests.evaluation.corpus import ground_truth, predictions
from tests.oracles.evaluation import Detection, Person, Scene

BOX, ELSEWHERE = (0, 0, 20, 40), (50, 50, 70, 90)


def evaluate(corpus, gallery, query_centric, embeddings=None):
    if query_centric:
        for scene in corpus.values():
            for detection in scene.detections:
                detection.query = 0
    truth = ground_truth(corpus)
    protocol = RetrievalProtocol.from_ids("p", truth, list(corpus), {0: gallery})
    return evaluate_predictions(truth, [protocol], predictions(corpus, embeddings)).retrieval["p"]


@pytest.mark.parametrize("query_centric", [False, True])
def test_equal_similarities_rank_in_the_order_of_the_gallery(query_centric):
    """Average precision takes them as one step instead."""
    corpus = {
        1: Scene([Person(0, 7, BOX)]),
        2: Scene([Person(1, 7, BOX)], [Detection(BOX, 0.9, 0)]),
        3: Scene([], [Detection(BOX, 0.9, 1)]),
    }
    for gallery, rank in ([2, 3], 0), ([3, 2], 1), ([2, 3, 2], 0), ([3, 2, 3], 1):
        scores = evaluate(corpus, gallery, query_centric)
        assert scores.first_hit_rank.tolist() == [rank]
        assert scores.ap[0] == pytest.approx(0.5 / gallery.count(2))


def test_of_several_overlapping_boxes_the_most_similar_is_the_hit():
    """Not the one with the highest IoU; the others are false positives."""
    corpus = {
        1: Scene([Person(0, 7, BOX)], [Detection(ELSEWHERE, 0.9, 0)]),
        2: Scene(
            [Person(1, 7, BOX)],
            [Detection(BOX, 0.9, 1), Detection((0, 0, 20, 30), 0.9, 2)],
        ),
    }
    embeddings = np.array([[1, 0.5], [1, 0], [1, 1]], np.float32)  # the query's is (1, 1)
    scores = evaluate(corpus, [1, 2], False, embeddings)
    assert scores.first_hit_rank[0] == 0
    assert scores.ap[0] == 0.5  # the person is missed in image 1
    assert (scores.hits[0], scores.present[0], scores.pool_size[0]) == (1, 2, 3)


def test_person_twice_in_an_image_counts_once_by_the_first_box():
    def corpus(box):
        return {
            1: Scene([Person(0, 7, BOX)]),
            2: Scene([Person(1, 7, BOX), Person(2, 7, ELSEWHERE)], [Detection(box, 0.9, 0)]),
        }

    assert evaluate(corpus(BOX), [2], False).ap[0] == 1
    scores = evaluate(corpus(ELSEWHERE), [2], False)
    assert (scores.ap[0], scores.present[0]) == (0, 1)


@pytest.mark.parametrize("gallery", [[], [3], [3, 4]])
def test_query_without_a_match_scores_zero(gallery):
    corpus = {
        1: Scene([Person(0, 7, BOX)]),
        3: Scene([Person(1, 8, BOX)], [Detection(BOX, 0.9, 0)]),
        4: Scene(),
    }
    scores = evaluate(corpus, gallery, False)
    assert (scores.mean_ap, scores.top(1), scores.first_hit_rank[0]) == (0, 0, -1)
