"""The two forms of context matching, on an example whose edges are known."""

import numpy as np
import pytest

from spnet_d2.evaluation import ExtraMetrics, RetrievalProtocol, evaluate_predictions
from spnet_d2.evaluation.context_matching import SEQNET, SUM_OF_COSINES, ContextMatching
from spnet_d2.evaluation.gallery import detected_boxes
from tests.evaluation.corpus import ground_truth, predictions
from tests.oracles.evaluation import Detection, Person, Scene

QUERY_BOX = (0.0, 0.0, 40.0, 100.0)
BESIDE = (100.0, 0.0, 140.0, 100.0)


def directions(*degrees):
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def scene_pair(own, angles, scores):
    """A query at 0 degrees whose scene has detections ``own``, and a gallery image with two.

    ``own`` are (box, score); ``angles`` those of all detections, the gallery's last.
    """
    found = [Detection(box, score, row) for row, (box, score) in enumerate(own)]
    rows = range(len(own), len(own) + 2)
    boxes = (QUERY_BOX, BESIDE)
    gallery = [Detection(b, s, r) for r, b, s in zip(rows, boxes, scores)]
    corpus = {
        1: Scene([Person(10, 1, QUERY_BOX, 0.5)], found),
        2: Scene([Person(20, 1, QUERY_BOX, 0.5)], gallery),
    }
    gt = {10: directions(0)[0], 20: directions(35)[0]}
    return corpus, predictions(corpus, directions(*angles), gt)


def revised(corpus, found, form, k2=2):
    """New similarities of the gallery's two detections."""
    truth = ground_truth(corpus)
    protocol = RetrievalProtocol.from_ids("p", truth, [1, 2], [10])
    boxes = detected_boxes(truth, found)
    query = directions(0).astype(np.float32)
    matching = ContextMatching(truth, protocol, boxes, query, found.embeddings, 10, k2, form)
    pool = np.flatnonzero(boxes.image_index == 1)
    values = found.embeddings[boxes.rows[pool]] @ query[0]
    return matching(0, pool, values.astype(np.float32))


COMPANION = [(BESIDE, 0.9)]
SCORES = (0.9, 0.95)


def test_seqnets_form_gives_the_largest_edge_and_ours_the_sum():
    """Edges .7372368, .1322144 / .6363961, .9494213."""
    corpus, found = scene_pair(COMPANION, (80, 35, 82), SCORES)
    assert revised(corpus, found, SEQNET) == pytest.approx([0.9494213, 0.1322144], abs=1e-6)
    weighted = (directions(35, 82) @ (1, 0)) * SCORES
    assert weighted == pytest.approx([0.7372368, 0.1322144], abs=1e-6)
    cosines = directions(35, 82) @ (1, 0)
    with_companion = cosines[0] + np.cos(np.radians(2))
    ours = revised(corpus, found, SUM_OF_COSINES)
    assert ours == pytest.approx([with_companion, cosines[1]], abs=1e-6)


def test_without_companions_only_the_weights_differ():
    corpus, found = scene_pair([], (35, 82), SCORES)
    cosines = directions(35, 82) @ (1, 0)
    assert revised(corpus, found, SEQNET) == pytest.approx(cosines * SCORES, abs=1e-6)
    assert revised(corpus, found, SUM_OF_COSINES) == pytest.approx(cosines, abs=1e-6)


def test_a_detection_between_the_two_overlaps_is_a_companion_in_seqnets_form_only():
    # IoU with the query's box: 62 / 138, so 0.449.
    aside = (0.0, 38.0, 40.0, 138.0)
    corpus, found = scene_pair([(aside, 0.9)], (80, 35, 82), SCORES)
    assert revised(corpus, found, SEQNET)[0] == pytest.approx(0.9494213, abs=1e-6)
    assert revised(corpus, found, SUM_OF_COSINES)[0] == pytest.approx(np.cos(np.radians(35)))


def test_each_has_its_own_name_in_an_evaluation():
    corpus, found = scene_pair(COMPANION, (80, 35, 82), SCORES)
    truth = ground_truth(corpus)
    protocol = RetrievalProtocol.from_ids("p", truth, [1, 2], [10])
    extra = ExtraMetrics(cbgm=True, seqnet_cbgm=True, cbgm_sizes=(10, 2))
    rescored = evaluate_predictions(truth, [protocol], found, extra=extra).rescored["p"]
    assert rescored["seqnet_cbgm"].best_similarity == pytest.approx([0.9494213], abs=1e-6)
    assert rescored["cbgm"].best_similarity[0] > 1.8
