"""An empty gallery home for painted people."""

import pytest

from spnet_d2.gallery import GallerySettings
from spnet_d2.ingestion import GalleryHome
from tests.fixtures.painted import PaintedPredictor

SETTINGS = GallerySettings(3, "painted", 0.5)


@pytest.fixture
def home(tmp_path):
    made = GalleryHome.create(tmp_path / "home", SETTINGS, {"opens": "nothing"})
    yield made
    made.close()


@pytest.fixture
def predictor():
    return PaintedPredictor()
