"""A gallery of every engine that is installed."""

import importlib.util
import os
import uuid

import pytest

from spnet_d2.gallery import GallerySettings, create_gallery

SETTINGS = GallerySettings(16, "model A", 0.1)
NEEDS = {"exact": None, "lancedb": "lancedb", "milvus": "pymilvus"}
# A server to test with: milvus://127.0.0.1:19530. `.ci/run` starts one.
SERVER = os.environ.get("SPNET_TEST_MILVUS", "")


def drop_collection(store) -> None:
    from pymilvus import MilvusClient

    client = MilvusClient(store._at.server)
    client.drop_collection(store._at.collection)
    client.close()


@pytest.fixture(params=list(NEEDS))
def engine(request) -> str:
    package = NEEDS[request.param]
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    if request.param == "milvus" and not SERVER:
        pytest.skip("no Milvus server: SPNET_TEST_MILVUS names none")
    return request.param


@pytest.fixture
def make(engine, tmp_path):
    """Function that makes an empty gallery of the engine; all are closed in the end."""
    made = []

    def make(settings=SETTINGS, **options):
        address, name = tmp_path / uuid.uuid4().hex, engine
        if engine == "milvus":
            name = f"{SERVER}/test_{address.name}"
        made.append(create_gallery(address, settings, engine=name, **options))
        return made[-1]

    yield make
    for store in made:
        store.close()
        if engine == "milvus":
            drop_collection(store)


@pytest.fixture
def store(make):
    return make()
