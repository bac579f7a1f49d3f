"""What the recorder sees of an evaluation agrees with the evaluation."""

import numpy as np
import pytest

from spnet_d2.evaluation import CORRECTED, ORIGINAL, RetrievalProtocol, evaluate_predictions
from spnet_d2.visualization import RankingRecorder
from spnet_d2.visualization.recorder import BINS
from tests.evaluation.corpus import QUERY, ground_truth, predictions, worked_example


def record(queries, variant=ORIGINAL, length=10, query_centric=False, images=range(6)):
    corpus, embeddings, gt_embeddings = worked_example(True)
    truth, found = ground_truth(corpus), predictions(corpus, embeddings, gt_embeddings)
    if query_centric:
        rows = np.full(len(found.scores), QUERY)
        found = type(found)(**{**vars(found), "query_annotation_ids": rows})
    protocol = RetrievalProtocol.from_ids("p", truth, list(images), queries)
    recorder = RankingRecorder(truth, protocol, variant, length)
    evaluation = evaluate_predictions(truth, [protocol], found, variant, None, recorder)
    return truth, recorder, evaluation.retrieval["p"]


@pytest.mark.parametrize("query_centric", [False, True])
def test_worked_example(query_centric):
    """Ranked by similarity: a stranger, a hit, a box too small, a hit, and one beside."""
    truth, recorder, scores = record([QUERY], query_centric=query_centric)
    query = recorder.queries[0]
    assert query.images.tolist() == [3, 1, 5, 4, 1]
    assert query.similarities == pytest.approx([0.95, 0.9, 0.7, 0.5, 0.3])
    assert query.boxes[0].tolist() == [50, 50, 150, 250]
    assert query.is_hit.tolist() == [False, True, False, True, False]
    assert truth.annotation_ids[query.missed].tolist() == [102, 105]
    for counts, values in (
        (recorder.match_counts, [0.9, 0.5]),
        (recorder.other_counts, [0.95, 0.7, 0.3]),
    ):
        # Values lie on edges of bins, so rounding chooses the side.
        middles = np.repeat((BINS[1:] + BINS[:-1]) / 2, counts)
        assert middles == pytest.approx(sorted(values), abs=0.0051)
    # Image 3 is the only one without the person; its box leads.
    assert recorder.sizes.tolist() == [1]
    assert recorder.size_scores[:, 0] == pytest.approx([scores.mean_ap, scores.top(1)])


@pytest.mark.parametrize("variant", [ORIGINAL, CORRECTED], ids=lambda v: v.name)
def test_agrees_with_the_scores(variant):
    """Listed galleries with a repeat and own images, shared ones, and a query without a match."""
    listed = {QUERY: [0, 1, 2, 3, 4, 5, 1], 103: [0, 1, 2, 4], 105: [3, 1, 0]}
    for queries in (listed, [QUERY, 101, 103, 104]):
        _, recorder, scores = record(queries, variant, length=2)
        assert recorder.size_scores[:, -1] == pytest.approx([scores.mean_ap, scores.top(1)])
        # 200 steps of recall.
        assert recorder.precisions.mean() == pytest.approx(scores.mean_ap, abs=0.005)
        assert (recorder.size_scores[:, 0] >= recorder.size_scores[:, -1] - 1e-12).all()
        assert recorder.match_counts.sum() == scores.hits.sum()
        assert (recorder.match_counts + recorder.other_counts).sum() == scores.pool_size.sum()
        for q, query in recorder.queries.items():
            assert len(query.boxes) == min(2, scores.pool_size[q])
            first = scores.first_hit_rank[q]
            assert (np.flatnonzero(query.is_hit)[:1].tolist() or [-1])[0] == (
                first if first < 2 else -1
            )


def test_galleries_without_anybody_else():
    _, recorder, scores = record([QUERY], images=[0, 1, 2])
    assert recorder.sizes.tolist() == []
    assert recorder.precisions.mean() == pytest.approx(scores.mean_ap, abs=0.005)
