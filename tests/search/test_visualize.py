import numpy as np
import pytest

from spnet_d2.search import Match, draw_search
from spnet_d2.search.visualize import HIT, MAX_CARDS, MISS, WHITE, crop_person, draw_box

from .scenes import BLUE, RED, draw_scene


def make_matches(count, box=(100, 40, 124, 100), file="v.avi", time=3.5):
    return [Match(i + 1, 0.9 - 0.01 * i, 0.8, box, 5 * i, file, time) for i in range(count)]


def count_color(image, color):
    return int((image == color).all(axis=2).sum())


def test_people_and_colours_are_on_the_sheet():
    scene = draw_scene({RED: (20, 30, 20, 50), BLUE: (100, 40, 24, 60)})
    matches = make_matches(7)
    images = {(m.file, m.frame): scene for m in matches}
    plain = draw_search(scene, (20, 30, 40, 80), matches, images)
    judged = draw_search(
        scene, (20, 30, 40, 80), matches, images, hits=[True] * 3 + [False] * 4, query_name="q.png"
    )
    assert plain.dtype == np.uint8 and plain.shape == judged.shape
    assert count_color(plain, RED) > 5000 and count_color(plain, BLUE) > 5000
    assert count_color(plain, HIT) == count_color(plain, MISS) == 0
    assert count_color(judged, HIT) > 1000 and count_color(judged, MISS) > 1000
    # Two rows of cards: not endlessly wide.
    assert plain.shape[1] < 1400


@pytest.mark.parametrize("count", [0, 1, 5, 23])
@pytest.mark.parametrize("size", [(20, 400), (400, 20), (3, 3), (1, 1)])
def test_any_number_and_shape(count, size):
    scene = np.zeros((*size, 3), np.uint8)
    # Boxes may stick out of the image or be thinner than a pixel.
    matches = make_matches(count, (-5, 0.2, 0.4, 900), "images/a very long näme " * 9, None)
    image = draw_search(scene, (0, 0, 1, 1), matches, {(m.file, m.frame): scene for m in matches})
    assert image.ndim == 3 and image.shape[1] < 1500


def test_crop_is_filled_up_with_surroundings():
    image = np.arange(100 * 100 * 3).reshape(100, 100, 3)
    tall = crop_person(image, (45, 30, 55, 70), aspect=2 / 3)
    assert abs(tall.shape[1] / tall.shape[0] - 2 / 3) < 0.05 and 40 <= tall.shape[0] <= 48
    wide = crop_person(image, (20, 45, 80, 55), aspect=2 / 3)
    assert abs(wide.shape[1] / wide.shape[0] - 2 / 3) < 0.05 and wide.shape[1] >= 60
    assert crop_person(image, (500, 500, 501, 501), 0.5).size > 0


def test_draw_box_leaves_the_content_and_the_original():
    image = np.full((60, 60, 3), 9, np.uint8)
    drawn = draw_box(image, (20, 20, 40, 40), HIT)
    assert (image == 9).all() and (drawn[22:38, 22:38] == 9).all()
    assert count_color(drawn, HIT) > 50


def test_frames_come_one_by_one_and_some_are_missing():
    scene = draw_scene({RED: (20, 30, 20, 50), BLUE: (100, 40, 24, 60)})
    matches = make_matches(3)
    places = [(match.file, match.frame) for match in matches]
    whole = draw_search(scene, (20, 30, 40, 80), matches, dict.fromkeys(places, scene))
    stream = ((place, scene) for place in reversed(places))
    assert (draw_search(scene, (20, 30, 40, 80), matches, stream) == whole).all()
    gone = [(places[0], scene), (places[1], ValueError("v.avi: not there any more."))]
    marked = draw_search(scene, (20, 30, 40, 80), matches, gone)
    assert marked.shape == whole.shape
    assert count_color(marked, WHITE) > count_color(whole, WHITE) + 20000
    assert count_color(marked, BLUE) < count_color(whole, BLUE)


def test_long_lists_are_cut():
    scene = draw_scene({RED: (20, 30, 20, 50)})
    matches = make_matches(MAX_CARDS + 50)
    images = {(match.file, match.frame): scene for match in matches}
    sheet = draw_search(scene, (20, 30, 40, 80), matches, images)
    assert sheet.shape == draw_search(scene, (20, 30, 40, 80), matches[:MAX_CARDS], images).shape
