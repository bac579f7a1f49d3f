"""Scores of scenes, as factor and as filter; numbers of the authors' code where there are any."""

import dataclasses

import numpy as np
import pytest
import torch

from spnet_d2.evaluation import ExtraMetrics, Predictions, RetrievalProtocol, evaluate_predictions
from spnet_d2.evaluation.report import flat_metrics, format_table
from spnet_d2.evaluation.scene_scores import scene_scores, suggested_filter
from spnet_d2.modeling.gallery_filter.fuser import Fuser, IdentityFuser, SumFuser
from tests.evaluation.corpus import ground_truth, predictions
from tests.oracles.evaluation import Detection, Person, Scene

DIM = 6
GALLERY = (10, 11, 12, 13, 14)
GATE = 5.0


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def by_formula():
    """Queries 0 to 3, scenes, rows of own scenes and the fuser."""
    d = np.arange(DIM)
    queries = np.sin(1 + 0.7 * np.arange(4)[:, None] + 1.3 * d)
    scenes = np.cos(0.5 + 0.9 * np.array(GALLERY)[:, None] + 1.1 * d)
    scale = (1 + 0.1 * d) / np.sqrt(0.5 + 0.1 * d + 1e-5)
    fuser = np.stack([scale, 0.05 * d - scale * 0.01 * d, np.full(DIM, GATE)])
    return unit(queries), np.array([0, 0, 1, 2]), unit(scenes), fuser


COMBINED = [
    [0.7310585, 0.6510654, 0.4196622, 0.2916192, 0.3217492],
    [0.7310585, 0.6461443, 0.4031763, 0.2834392, 0.3322287],
    [0.6511734, 0.7310586, 0.5942152, 0.3596893, 0.2809363],
    [0.3536680, 0.5703068, 0.7310586, 0.6684070, 0.4794154],
]


def test_combined():
    queries, own, scenes, fuser = by_formula()
    assert scene_scores(queries, own, scenes, fuser) == pytest.approx(np.array(COMBINED), abs=1e-6)


def test_the_models_own_fuser_agrees():
    queries, own, scenes, _ = by_formula()
    fuser, d = Fuser(DIM).eval(), torch.arange(DIM)
    with torch.no_grad():
        fuser.weight.copy_(1 + 0.1 * d)
        fuser.bias.copy_(0.05 * d)
        fuser.running_mean.copy_(0.01 * d)
        fuser.running_var.copy_(0.5 + 0.1 * d)
        cosines = fuser(*map(torch.from_numpy, (queries, scenes, own)))
    assert cosines.sigmoid().numpy() == pytest.approx(np.array(COMBINED), abs=1e-6)


@pytest.mark.parametrize("kind", [SumFuser, IdentityFuser])
def test_other_activations_score_as_the_model(kind):
    """Of vectors of any length, which count in sums."""
    queries, own, scenes, fuser = by_formula()
    module, d = kind(DIM).eval(), torch.arange(DIM)
    if kind is SumFuser:
        queries, scenes = 2 * queries, 3 * scenes
        with torch.no_grad():
            module.weight.copy_(1 + 0.1 * d)
            module.bias.copy_(0.05 * d)
            module.running_mean.copy_(0.01 * d)
    with torch.no_grad():
        cosines = module(*map(torch.from_numpy, (queries, scenes, own)))
        expected = cosines.sigmoid().numpy()
        found = scene_scores(queries, own, scenes, module.scoring().numpy())
    assert found == pytest.approx(expected, abs=1e-6)
    if kind is SumFuser:
        x, y = queries[0], scenes
        z = (1 + 0.1 * np.arange(DIM)) / np.sqrt(1 + 1e-5) * (x + y - 0.01 * np.arange(DIM))
        z = unit(z + 0.05 * np.arange(DIM))
        assert expected[0] == pytest.approx(1 / (1 + np.exp(-z @ z[own[0]])), abs=1e-6)


def test_separate_and_image():
    queries, own, scenes, fuser = by_formula()
    separate = scene_scores(queries, own, scenes, None)[0]
    expected = [0.2765934, 0.3596205, 0.5661059, 0.7116022, 0.6991279]
    assert separate == pytest.approx(expected, abs=1e-6)
    alone = np.stack([np.ones(DIM), np.zeros(DIM), np.zeros(DIM)])
    image = scene_scores(queries, own, scenes, alone)[0]
    expected = [0.7310585, 0.6581298, 0.4487618, 0.2871586, 0.2875213]
    assert image == pytest.approx(expected, abs=1e-6)


def test_by_hand():
    scenes = np.array([[0.6, 0.8], [0, 1], [1, 0], [-0.6, 0.8]], np.float32)
    fuser = np.array([[1, 1], [0, 0], [GATE, GATE]])
    found = scene_scores(np.array([[1, 0]], np.float32), np.array([0]), scenes, fuser)[0]
    assert found == pytest.approx([0.7310586, 0.6358229, 0.6964236, 0.4063974], abs=1e-6)


def test_suggested_threshold():
    """0.70 0.66 0.40 are positive: floor(2.97) = 2, so 0.40; below it is 0.30 of five."""
    scores = np.array([0.70, 0.50, 0.60, 0.40, 0.66, 0.62, 0.30, 0.55])
    shows = np.array([1, 0, 0, 1, 1, 0, 0, 0], bool)
    found = suggested_filter(scores, shows)
    assert found == pytest.approx({"suggested_threshold": 0.4, "suggested_skipped": 0.2})
    assert suggested_filter(scores, np.zeros(8, bool)) == {}


BOX = (0.0, 0.0, 40.0, 100.0)
# Angles of the detections of images 2, 3 and 4 to the query, and of their scenes to its own.
ANGLES, SCENE_ANGLES = (60, 20, 100), (30, 150, 170)


def evaluated(extra, protocol=(1, 2, 3, 4), angles=ANGLES, with_scenes=True):
    """Person 1 is searched for from image 1, and is in images 2 and 4; image 3 has another."""
    corpus = {1: Scene([Person(10, 1, BOX)], [])}
    for row, (image, person) in enumerate(((2, 1), (3, 2), (4, 1))):
        corpus[image] = Scene([Person(10 * image, person, BOX)], [Detection(BOX, 0.9, row)])

    def direction(*degrees):
        return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)

    found = predictions(
        corpus, direction(*angles), dict.fromkeys((10, 20, 30, 40), direction(0)[0])
    )
    if with_scenes:
        found = dataclasses.replace(
            found,
            scene_image_ids=np.array([1, 2, 3, 4]),
            scene_embeddings=direction(0, *SCENE_ANGLES),
            scene_fuser=np.array([[1, 1], [0, 0], [0, 0]], np.float32),
        )
    truth = ground_truth(corpus)
    queries = RetrievalProtocol.from_ids("p", truth, list(protocol), [10])
    return evaluate_predictions(truth, [queries], found, extra=extra)


def scores_of(*degrees):
    return 1 / (1 + np.exp(-np.cos(np.radians(degrees))))


def test_factor_beside_the_plain_ranking():
    evaluation = evaluated(ExtraMetrics(gfn=True))
    plain, gfn = evaluation.retrieval["p"], evaluation.rescored["p"]["gfn"]
    # cos 60 = 0.5 behind cos 20; weighed 0.352 before 0.278.
    assert (plain.top(1), gfn.top(1)) == (0, 1)
    weighed = np.cos(np.radians(60)) * scores_of(30)[0]
    assert gfn.best_similarity == pytest.approx([weighed], abs=1e-6)
    with_scores = evaluation.rescored["p"]["gfn_cws"]
    assert with_scores.best_similarity == pytest.approx([0.9 * weighed], abs=1e-6)
    metrics = flat_metrics(evaluation)
    assert metrics["gfn_top1"] == 1 and metrics["top1"] == 0
    # Scenes in the order 2, 3, 4: the person's at ranks 1 and 3.
    assert metrics["gfn_scene_mAP"] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics["gfn_scene_top1"] == 1
    assert metrics["gfn_suggested_threshold"] == pytest.approx(scores_of(170)[0], abs=1e-6)
    assert "gfn_skipped_scenes" not in metrics
    assert "p (gfn)" in format_table(evaluation) and "p (scenes)" in format_table(evaluation)


def test_a_factor_below_one_moves_negative_similarities_up():
    """Where nothing is like the query, the scene that fits least comes first."""
    gfn = evaluated(ExtraMetrics(gfn=True), angles=(120, 130, 130)).rescored["p"]["gfn"]
    values = np.cos(np.radians([120, 130, 130])) * scores_of(*SCENE_ANGLES)
    assert np.argmax(values) == 2
    assert gfn.best_similarity == pytest.approx([values[2]], abs=1e-6)


def test_skipped_scenes_stay_to_be_found():
    """Scene 4 shows the person, too: half of the recall is lost; scene 3 is gone as well."""
    evaluation = evaluated(ExtraMetrics(gfn=True, gfn_threshold=0.5))
    kept = evaluation.rescored["p"]["gfn_filter"]
    assert (kept.top(1), kept.ap[0], kept.hits[0], kept.present[0]) == (1, 0.5, 1, 2)
    metrics = flat_metrics(evaluation)
    assert metrics["gfn_skipped_scenes"] == pytest.approx(2 / 3)
    assert metrics["gfn_skipped_boxes"] == pytest.approx(2 / 3)
    assert metrics["gfn_lost_scenes"] == pytest.approx(1 / 2)
    everything = evaluated(ExtraMetrics(gfn_threshold=0.9)).rescored["p"]["gfn_filter"]
    assert (everything.ap[0], everything.hits[0], everything.present[0]) == (0, 0, 2)
    nothing = evaluated(ExtraMetrics(gfn_threshold=0.0))
    assert nothing.rescored["p"]["gfn_filter"].ap == pytest.approx(nothing.retrieval["p"].ap)


def test_without_scenes_it_is_refused():
    with pytest.raises(ValueError, match="needs scene_image_ids and scene_embeddings"):
        evaluated(ExtraMetrics(gfn=True), with_scenes=False)


def test_the_file_carries_scenes(tmp_path):
    arrays = {
        "image_ids": np.zeros(0, np.int64),
        "boxes": np.zeros((0, 4)),
        "scores": np.zeros(0),
        "embeddings": np.zeros((0, 2), np.float32),
        "gt_annotation_ids": np.array([1]),
        "gt_embeddings": np.ones((1, 2), np.float32),
        "scene_image_ids": np.array([5, 3]),
        "scene_embeddings": np.array([[1, 2], [3, 4]], np.float32),
        "scene_fuser": np.ones((3, 2), np.float32),
    }
    Predictions(**arrays).save(str(tmp_path / "p.npz"))
    found = Predictions.load(str(tmp_path / "p.npz"))
    for name, expected in arrays.items():
        assert np.array_equal(getattr(found, name), expected), name
    for change, message in (
        ({"scene_embeddings": None}, "need one another"),
        ({"scene_image_ids": np.array([5, 5])}, "must be unique"),
        ({"scene_image_ids": np.array([5])}, "1 ids .* for 2 scenes"),
        ({"scene_fuser": np.ones((4, 2), np.float32)}, r"must be \(3, 2\) or \(2, 2\), found"),
        ({"scene_embeddings": np.ones((2, 3), np.float32)}, r"must be \(S, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            Predictions(**{**arrays, **change})
