"""A gallery of every engine that is installed."""

import importlib.util
import uuid

import pytest

from spnet_d2.gallery import GallerySettings, create_gallery

SETTINGS = GallerySettings(16, "model A", 0.1)
NEEDS = {"exact": None, "lancedb": "lancedb"}


@pytest.fixture(params=list(NEEDS))
def engine(request) -> str:
    package = NEEDS[request.param]
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    return request.param


@pytest.fixture
def make(engine, tmp_path):
    """Function that makes an empty gallery of the engine; all are closed in the end."""
    made = []

    def make(settings=SETTINGS, **options):
        address = tmp_path / uuid.uuid4().hex
        made.append(create_gallery(address, settings, engine=engine, **options))
        return made[-1]

    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(make):
    return make()
