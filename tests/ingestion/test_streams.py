"""Streams over HTTP, from a server in this process."""

import io
import threading
import time
from contextlib import suppress
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from spnet_d2.gallery import Filter, GalleryError
from spnet_d2.ingestion import Options, Source, index_sources, streams
from tests.fixtures.painted import SIZE, PaintedPredictor, walk

av = pytest.importorskip("av")

EVERY = Options(per_tracklet=0, segment_seconds=1)
START = datetime(2026, 5, 1, 8, tzinfo=timezone.utc)
# A camera that sends one JPEG after another: seconds between them.
PERIOD = 0.3


def transport_stream(colour: str, frames: int) -> bytes:
    """MPEG-TS, 10 frames a second."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for image in walk(colour, frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode())
    return buffer.getvalue()


class Camera(BaseHTTPRequestHandler):
    """/red, /blue: three seconds each; /broken: breaks off once; /jpegs: without times."""

    asked: list[str] = []

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.asked.append(self.path)
        self.send_response(200)
        if self.path == "/jpegs":
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.send_header("Connection", "close")
            self.end_headers()
            for image in walk("green", 6):
                data = cv2.imencode(".jpg", image)[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                # Nobody listens any more once the test has seen enough.
                with suppress(OSError):
                    self.wfile.write(head.encode() + data + b"\r\n")
                    self.wfile.flush()
                time.sleep(PERIOD)
            return
        data = transport_stream("blue" if self.path == "/blue" else "red", 30)
        self.send_header("Content-Type", "video/mp2t")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.path == "/broken" and self.asked.count("/broken") == 1:
            data = data[: len(data) // 2]
        self.wfile.write(data)


@pytest.fixture
def camera(monkeypatch):
    monkeypatch.setattr(Camera, "asked", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def index(home, predictor, *sources):
    return index_sources(home, sources, lambda image: predictor.detect([image])[0], EVERY)


def seconds(home, source: str) -> np.ndarray:
    """Times of a source's people since ``START``."""
    home.close()
    people = home.store.fetch(home.store.find(Filter(sources=source)))
    times = np.sort(people.times)
    since_1970 = times.astype("datetime64[ms]").astype(np.int64)
    np.testing.assert_allclose(np.sort(people.frames), since_1970, rtol=0, atol=1)
    return (times - np.datetime64("2026-05-01T08:00:00", "ns")) / np.timedelta64(1, "s")


def test_several_streams_at_once(home, predictor, camera):
    sources = [
        Source(name, f"{camera}/{name}", name, start=START, fps=5.0) for name in ("red", "blue")
    ]
    progress = index(home, predictor, *sources)
    assert progress.frames == progress.found == 30
    for name, channel in (("red", 2), ("blue", 0)):
        np.testing.assert_allclose(seconds(home, name), np.arange(15) / 5, atol=1e-3)
        people = home.store.fetch(home.store.find(Filter(sources=name)))
        assert (people.embeddings.argmax(axis=1) == channel).all()
        # Segments of a second.
        assert len(set(people.batches.tolist())) == 3


def test_jpegs_have_the_times_of_their_arrival(home, camera, monkeypatch):
    """Until somebody stops it: a camera that closes the connection is asked again."""
    monkeypatch.setattr(streams, "FIRST_WAIT", 0.01)
    with pytest.raises(KeyboardInterrupt):
        predictor = PaintedPredictor(fail_after=6)
        index(home, predictor, Source("yard", f"{camera}/jpegs", "yard", start=START, fps=20.0))
    assert Camera.asked == ["/jpegs", "/jpegs"]
    found = seconds(home, "yard")
    # The last but one; the next connection's first has the time of today.
    assert len(found) == 6 and found[5] > 3600
    assert np.diff(found).min() > 0.5 * PERIOD and found[4] > 3.5 * PERIOD


def test_a_stream_that_breaks_off_is_opened_again(home, predictor, camera, monkeypatch, caplog):
    monkeypatch.setattr(streams, "FIRST_WAIT", 0.01)
    before = datetime.now(timezone.utc)
    index(home, predictor, Source("yard", f"{camera}/broken", "yard", fps=5.0))
    assert Camera.asked == ["/broken", "/broken"]
    assert "It will be opened again in 0.01 s." in caplog.text
    found = seconds(home, "yard")
    assert 15 < len(found) < 30 and (np.diff(found) != 0).all()
    since = (before - START).total_seconds()
    assert since - 1e-3 <= found[0] < since + 60


def test_no_stream_there(home, predictor, camera):
    sources = [
        Source(name, place, name, start=START, fps=5.0)
        for name, place in (("gone", "http://127.0.0.1:9/x"), ("red", f"{camera}/red"))
    ]
    with pytest.raises(GalleryError, match="http://127.0.0.1:9/x can't be opened as a video"):
        index(home, predictor, *sources)
    # The other was followed.
    assert len(seconds(home, "red")) == 15
    assert not list((home.path / "leases").iterdir())
