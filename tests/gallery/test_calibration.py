"""Calibration without labels, checked where the truth is known: people made up for it."""

import dataclasses

import numpy as np
import pytest

from spnet_d2.gallery import GalleryError, GallerySettings, People, create_gallery
from spnet_d2.gallery.calibration import Calibration, calibrate, collect_pairs, thresholds
from spnet_d2.visualization.calibration_plot import draw_calibration

DIMENSION = 32


def walkers(random, count: int, spread: float) -> tuple[People, np.ndarray]:
    """Three people a frame, five pictures of each three seconds apart; and who they are."""
    centres = random.standard_normal((count, DIMENSION)) + 0.5
    person = np.repeat(np.arange(count), 5)
    picture = np.tile(np.arange(5), count)
    people = People.of(
        centres[person] + spread * random.standard_normal((len(person), DIMENSION)),
        [[0, 0, 10, 20]] * len(person),
        np.full(len(person), 0.9),
        sources="yard",
        cameras="yard",
        frames=(person // 3) * 100_000 + picture * 3_000,
        tracklets=person,
    )
    return people, person


@pytest.fixture
def gallery(tmp_path):
    with create_gallery(tmp_path / "g", GallerySettings(DIMENSION, "m", 0.1)) as store:
        yield store


@pytest.fixture
def fitted(gallery):
    people, person = walkers(np.random.default_rng(0), 300, 0.7)
    gallery.add(people)
    pairs = collect_pairs(gallery)
    return calibrate(gallery, pairs), pairs, people, person


def test_pairs_are_what_they_are_called(fitted):
    """Of three people a frame: 3 pairs of tracklets, both ways, 5 pictures each."""
    _, pairs, *_ = fitted
    assert len(pairs.strangers) == 100 * 3 * 2 * 5
    assert len(pairs.same) == 300 * 10


def test_pictures_too_near_in_time_are_no_pairs(gallery):
    people, _ = walkers(np.random.default_rng(0), 30, 0.7)
    gallery.add(people)
    assert len(collect_pairs(gallery, min_seconds=6.0).same) == 30 * 6


def test_claimed_false_alarms_are_true(fitted):
    """New people search a gallery that doesn't know them: so often somebody is above."""
    found, *_ = fitted
    random = np.random.default_rng(7)
    strangers, owner = walkers(random, 300, 0.7)
    searches, _ = walkers(random, 400, 0.7)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    vectors = unit(strangers.embeddings.astype(np.float64))
    queries = unit(searches.embeddings[::5].astype(np.float64))
    similarity = np.stack([(queries @ vectors[owner == p].T).max(axis=1) for p in range(300)], 1)
    for rate, threshold in thresholds(found):
        alarms = (similarity >= threshold).sum(axis=1).mean()
        # 400 searches tell rates of some per cent.
        least = rate / 4 if rate >= 0.05 else 0
        assert least <= alarms < 4 * rate + 0.02, (rate, alarms)


def test_more_rows_need_a_higher_threshold(fitted):
    found, *_ = fitted
    small, all_of_it = found.threshold(0.1, rows=found.rows // 10), found.threshold(0.1)
    assert small < all_of_it
    assert found.false_alarms(all_of_it) <= 0.1


def test_probability_tells_right_from_wrong(fitted):
    found, pairs, *_ = fitted
    grid = np.linspace(0, 1, 50)
    chance = found.probability(grid)
    assert ((chance >= 0) & (chance <= 1)).all()
    assert found.probability(0.9) > 0.9
    assert found.probability(np.median(pairs.strangers)) < 0.05


def test_kept_and_refused_for_another_model(fitted, tmp_path):
    found, pairs, *_ = fitted
    assert Calibration.load(tmp_path, "m") is None
    found.save(tmp_path)
    assert Calibration.load(tmp_path, "m") == found
    with pytest.raises(GalleryError, match="another model"):
        Calibration.load(tmp_path, "other")
    (tmp_path / "calibration.json").write_text("{")
    with pytest.raises(GalleryError, match="calibrate again"):
        Calibration.load(tmp_path, "m")
    draw_calibration(tmp_path / "c.png", pairs, found)
    assert (tmp_path / "c.png").stat().st_size > 5_000


def test_too_few_pairs(gallery):
    gallery.add(walkers(np.random.default_rng(0), 2, 0.7)[0])
    with pytest.raises(GalleryError, match=r"Only 2\d pairs .* 30 are needed"):
        calibrate(gallery, collect_pairs(gallery))


def test_a_model_that_tells_nobody_apart(fitted, gallery):
    _, pairs, *_ = fitted
    turned = dataclasses.replace(pairs, same=pairs.strangers - 0.2)
    with pytest.raises(GalleryError, match="can't tell"):
        calibrate(gallery, turned)
