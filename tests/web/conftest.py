"""A served gallery of painted people: two cameras, of which one is a video."""

import threading
from datetime import datetime, timezone

import pytest

from spnet_d2.ingestion import GalleryHome, Options, Source, index_sources
from tests.fixtures.painted import PaintedPredictor, scene, walk, write_folder, write_video
from tests.ingestion.conftest import SETTINGS

pytest.importorskip("fastapi", reason="needs the extra web")

START = datetime(2026, 5, 1, 8, tzinfo=timezone.utc)
HOST = {"host": "127.0.0.1"}


class Opened:
    predictor = PaintedPredictor()


def make_gallery(folder):
    """Red walks through the yard's video; red, green and blue stand at the gate."""
    video = write_video(folder / "yard.avi", walk("red", 30))
    images = {f"{i}.png": scene(("red", 10), ("green", 60 + i), ("blue", 120)) for i in range(3)}
    gate = write_folder(folder / "gate", images)
    home = GalleryHome.create(folder / "home", SETTINGS, {"opens": "painted"})
    sources = [
        Source("yard", str(video), "yard", start=START, fps=5.0),
        Source("gate", str(gate), "gate"),
    ]
    predictor = PaintedPredictor()
    options = Options(per_tracklet=2, segment_seconds=60)
    index_sources(home, sources, lambda image: predictor.detect([image])[0], options)
    home.close()
    return folder / "home"


@pytest.fixture
def gallery(tmp_path):
    return make_gallery(tmp_path)


@pytest.fixture
def service(gallery, monkeypatch):
    from spnet_d2.web import service as module

    monkeypatch.setattr(module.OpenedPredictor, "again", lambda *_: Opened)
    return module.Service(GalleryHome(gallery), can_add=True)


@pytest.fixture
def client(service):
    from fastapi.testclient import TestClient

    from spnet_d2.web.app import create_app

    app = create_app(service, hosts=frozenset({"127.0.0.1"}))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as made:
        yield made


@pytest.fixture
def address(service):
    """Of a server that runs."""
    import uvicorn

    from spnet_d2.web.app import create_app
    from spnet_d2.web.server import ServeOptions, _listen

    listener = _listen(ServeOptions(port=0))
    hosts = frozenset({"127.0.0.1"})
    config = uvicorn.Config(create_app(service, hosts=hosts), log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.should_exit = True
    thread.join()
