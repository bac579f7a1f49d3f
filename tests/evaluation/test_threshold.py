import numpy as np
import pytest

from spnet_d2.evaluation.retrieval import RetrievalScores
from spnet_d2.evaluation.threshold import suggest_threshold


def scores(best, rank, absent, present):
    empty = RetrievalScores.empty(np.arange(len(best)))
    empty.best_similarity[:] = best
    empty.first_hit_rank[:] = rank
    empty.best_absent_similarity[:] = absent
    empty.present[:] = present
    return empty


def test_highest_f1_over_galleries_with_and_without_the_person():
    # Answers: .9 right, .8 wrong box, .7 right, .4 right; absent: .8, .5, .3, and .2 unmatchable.
    found = suggest_threshold(
        scores(
            [0.9, 0.8, 0.7, 0.4, 0.2], [0, 3, 0, 0, -1], [0.3, 0.8, 0.5, 0.3, 0.2], [1, 2, 1, 1, 0]
        )
    )
    # F1 by threshold: .9 2/5, .8 2/7, .7 4/8, .5 4/9, .4 6/10, .3 6/12 ...
    assert found.similarity == 0.4
    assert found.precision == pytest.approx(3 / 6)
    assert found.recall == pytest.approx(3 / 4)
    assert found.false_alarms == pytest.approx(2 / 5)
    assert (found.num_present, found.num_absent) == (4, 5)


def test_equal_similarities_are_answered_together():
    found = suggest_threshold(scores([0.6, 0.6], [0, 0], [0.6, 0.1], [1, 1]))
    assert (found.similarity, found.precision, found.recall) == (0.6, pytest.approx(2 / 3), 1)


def test_person_without_any_box_ranked_lowers_recall():
    found = suggest_threshold(scores([0.6, np.nan], [0, -1], [np.nan, np.nan], [1, 3]))
    assert (found.precision, found.recall, found.false_alarms, found.num_absent) == (1, 0.5, 0, 0)


def test_no_suggestion_where_nothing_is_right():
    assert suggest_threshold(scores([0.6, 0.5], [1, -1], [0.2, 0.1], [1, 1])) is None
