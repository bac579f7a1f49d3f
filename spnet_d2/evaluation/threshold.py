"""A similarity threshold for open galleries: below it, the answer is "not in this gallery".

Every query searches twice. Its gallery as it is: an answer is right if the best-ranked box is a
hit. The same gallery without the images that show the person: every answer is wrong. The
suggested threshold is the one with the highest F1 of "answered and right" over both.
"""

from dataclasses import dataclass

import numpy as np

from spnet_d2.evaluation.retrieval import RetrievalScores


@dataclass(frozen=True)
class SuggestedThreshold:
    """Attributes:
    similarity: cosine from which the best match is an answer.
    precision: share of right answers among those given, with and without the person
        in the gallery.
    recall: share of right answers among the queries whose person is in the gallery.
    false_alarms: share of answers among the galleries without the person.
    num_present: queries whose person is in the gallery.
    num_absent: galleries without the person.
    """

    similarity: float
    precision: float
    recall: float
    false_alarms: float
    num_present: int
    num_absent: int


def suggest_threshold(scores: RetrievalScores) -> SuggestedThreshold | None:
    """Suggest a threshold from the plain ranking; None if no answer is right.

    It fits the evaluated set: on other cameras or with other weights it is only a start.
    """
    present = (scores.present > 0) & np.isfinite(scores.best_similarity)
    absent = scores.best_absent_similarity[np.isfinite(scores.best_absent_similarity)]
    answers = np.concatenate([scores.best_similarity[present], absent])
    right = np.zeros(len(answers), bool)
    right[: present.sum()] = scores.first_hit_rank[present] == 0
    if not right.any():
        return None

    order = np.argsort(-answers, kind="stable")
    answers, right = answers[order], np.cumsum(right[order])
    # Equal similarities are answered together.
    last = np.flatnonzero(np.append(answers[1:] != answers[:-1], True))
    given, right = last + 1, right[last]
    num_present = int((scores.present > 0).sum())
    best = int(np.argmax(2 * right / (given + num_present)))
    similarity = float(answers[last[best]])
    return SuggestedThreshold(
        similarity=similarity,
        precision=float(right[best] / given[best]),
        recall=float(right[best] / num_present),
        false_alarms=float(np.mean(absent >= similarity)) if len(absent) else 0.0,
        num_present=num_present,
        num_absent=len(absent),
    )
