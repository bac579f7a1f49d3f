"""Who may ask, and what can't be read."""

import io
import os
import struct
import zlib

import pytest
from fastapi.testclient import TestClient

from spnet_d2.ingestion import GalleryHome
from spnet_d2.web import uploads as uploads_module
from spnet_d2.web.app import create_app
from spnet_d2.web.jobs import FootageError, Jobs
from spnet_d2.web.schemas import NewSource
from spnet_d2.web.server import ServeOptions, _hosts
from spnet_d2.web.service import Service
from spnet_d2.web.uploads import NoUploadError, Uploads
from tests.fixtures.painted import scene

TOKEN = "a-token-of-32-characters-or-so"


@pytest.fixture
def guarded(gallery):
    app = create_app(Service(GalleryHome(gallery)), token=TOKEN)
    with TestClient(app, base_url="http://camera.example:8080") as client:
        yield client


def test_token_is_needed(guarded):
    for path in ("/", "/api/gallery", "/docs", "/openapi.json", "/static/main.js"):
        answer = guarded.get(path)
        assert answer.status_code == 401 and "token" in answer.json()["detail"]
    assert guarded.get("/?token=wrong").status_code == 401
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert guarded.get("/api/gallery", headers=headers).status_code == 200


def test_link_sets_a_cookie_that_scripts_cannot_read(guarded):
    page = guarded.get(f"/?token={TOKEN}")
    assert page.status_code == 200
    cookie = page.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert guarded.get("/api/gallery").status_code == 200


def test_foreign_requests_are_refused(client):
    refused = [
        {"origin": "https://evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "null"},
    ]
    for headers in refused:
        assert client.post("/api/cases", json={"name": "x"}, headers=headers).status_code == 403
        assert client.get("/api/gallery", headers=headers).status_code == 403
    own = {"origin": "http://127.0.0.1", "sec-fetch-site": "same-origin"}
    assert client.post("/api/cases", json={"name": "x"}, headers=own).status_code == 201
    assert client.get("/api/cases").json()[0]["name"] == "x"


def test_foreign_names_of_this_machine_are_refused(client):
    """A name that somebody else lets resolve to 127.0.0.1 (DNS rebinding)."""
    assert client.get("/api/gallery", headers={"host": "evil.example"}).status_code == 421
    assert client.get("/api/gallery", headers={"host": "127.0.0.1:80"}).status_code == 200


def test_hosts_of_the_options():
    assert "evil.example" not in _hosts(ServeOptions())
    assert "search.example" in _hosts(ServeOptions(allowed_hosts=("search.example",)))
    assert _hosts(ServeOptions(host="0.0.0.0")) is None


def test_policy_of_the_page(client):
    headers = client.get("/").headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert client.get("/api/gallery").headers["cache-control"] == "no-store"


PATHS = ["../../../etc/passwd", "/etc/passwd", "..%2f..%2fetc%2fpasswd", "....//etc/passwd", "a\0b"]


@pytest.mark.parametrize("path", PATHS, ids=range(len(PATHS)))
def test_no_path_leads_out(client, path):
    addresses = [
        ("/api/scene", {"source": path, "frame": 0}),
        ("/api/scene/image", {"source": path, "frame": 0}),
        (f"/api/cases/{path}", {}),
        (f"/api/cases/aaaaaaaaaaaa/pictures/{path}", {}),
        (f"/static/{path}", {}),
    ]
    for address, parameters in addresses:
        try:
            answer = client.get(address, params=parameters)
        except Exception as error:  # httpx itself refuses some addresses
            assert "Invalid" in type(error).__name__
            continue
        assert answer.status_code in (400, 404, 405, 422), address
        assert "root:" not in answer.text


def test_a_source_folders_links_do_not_lead_out(client, gallery, tmp_path):
    """A frame that became a link to a file elsewhere is not read."""
    secret = tmp_path / "secret.png"
    secret.write_bytes((tmp_path / "gate" / "0.png").read_bytes())
    (tmp_path / "gate" / "0.png").unlink()
    os.symlink(secret, tmp_path / "gate" / "0.png")
    answer = client.get("/api/scene/image", params={"source": "gate", "frame": 0})
    assert answer.status_code in (400, 404)


def test_footage_from_given_folders_only(gallery, tmp_path):
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    os.symlink("/etc", allowed / "link")
    jobs = Jobs(gallery, [allowed], lambda: None)
    try:
        for path in ("/etc", str(allowed / "link"), str(allowed / ".." / "gate"), "x\0", "missing"):
            with pytest.raises(FootageError):
                jobs.add(NewSource(path=path))
        assert jobs.all() == []
    finally:
        jobs.close()


def test_adding_and_deleting_are_off_by_default(client):
    answer = client.post("/api/sources", json={"path": "/tmp"})
    assert answer.status_code == 400 and "--footage" in answer.json()["detail"]
    assert client.delete("/api/sources", params={"name": "yard"}).status_code == 400
    assert client.get("/api/gallery").json()["people"] > 0


def _bomb(side: int) -> bytes:
    """A PNG of side x side zeros, which packs to almost nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * side)
    body = b"".join(packer.compress(row) for _ in range(16)) + packer.flush()
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_decompression_bomb_is_refused_by_its_header(client):
    answer = client.post("/api/uploads", content=_bomb(50_000))
    assert answer.status_code == 400 and "pixels" in answer.json()["detail"]


def test_uploads_have_a_size(client, monkeypatch):
    monkeypatch.setattr("spnet_d2.web.app.MAX_BYTES", 1000)
    answer = client.post("/api/uploads", content=io.BytesIO(bytes(2000)))
    assert answer.status_code == 413


def test_uploads_are_no_files(client, gallery):
    import cv2

    before = sorted(gallery.rglob("*"))
    data = cv2.imencode(".png", scene(("green", 30)))[1].tobytes()
    view = client.post("/api/uploads", content=data).json()
    body = {"positives": [{"upload": view["id"]}]}
    assert client.post("/api/search", json=body).status_code == 200
    after = [path for path in sorted(gallery.rglob("*")) if path not in before]
    assert [path.name for path in after] == ["audit.jsonl"]
    assert data[:40] not in (gallery / "audit.jsonl").read_bytes()


def test_uploads_are_forgotten():
    import cv2

    now = [0.0]
    data = cv2.imencode(".png", scene(("green", 30)))[1].tobytes()
    kept = Uploads(kept_bytes=2 * len(data), kept_seconds=10, clock=lambda: now[0])
    first, second = kept.add(data), kept.add(data)
    assert kept.get(first.id).size == (160, 96)
    third = kept.add(data)
    with pytest.raises(NoUploadError):
        kept.get(first.id)
    now[0] = 11.0
    for upload in (second, third):
        with pytest.raises(NoUploadError, match="again"):
            kept.get(upload.id)
    assert uploads_module.MAX_PIXELS <= 100_000_000
