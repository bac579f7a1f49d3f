"""The API over a gallery of painted people."""

import csv
import io
import json
import zipfile

import cv2
import numpy as np
import pytest

from tests.fixtures.painted import scene


def png(image) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def people(client, camera):
    """Row and frame of everybody a camera's scenes show who has a row of their own."""
    scenes = client.get("/api/scenes", params={"camera": camera}).json()["scenes"]
    found = []
    for where in scenes:
        parameters = {"source": where["source"], "frame": where["frame"]}
        view = client.get("/api/scene", params=parameters).json()
        found += [person for person in view["people"] if person["id"] is not None]
    return found


def search(client, *positives, **request):
    answer = client.post("/api/search", json={"positives": list(positives), **request})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_gallery(client):
    info = client.get("/api/gallery").json()
    assert [camera["name"] for camera in info["cameras"]] == ["gate", "yard"]
    assert info["people"] == sum(camera["people"] for camera in info["cameras"])
    assert info["thresholds"] == [] and info["can_embed"]


def test_search_by_a_row_needs_no_model(client, service, monkeypatch):
    monkeypatch.setattr(service.model, "run", lambda work: pytest.fail("the model ran"))
    red = people(client, "yard")[0]
    hits = search(client, {"person": red["id"]})["hits"]
    assert hits[0]["similarity"] == pytest.approx(1, abs=1e-3)
    assert {hits[0]["camera"], hits[1]["camera"]} == {"yard", "gate"}
    # Everybody else is of another colour.
    assert hits[1]["similarity"] > 0.99 > hits[2]["similarity"]


def test_search_by_upload_and_by_drawn_box(client):
    made = client.post("/api/uploads", content=png(scene(("green", 30), ("blue", 100))))
    assert made.status_code == 201
    view = made.json()
    assert (view["width"], view["height"], len(view["people"])) == (160, 96, 2)
    green = next(p for p in view["people"] if p["box"][0] < 60)
    hit = search(client, {"upload": view["id"], "box": green["box"]})["hits"][0]
    shown = client.get("/api/scene", params={"source": "gate", "frame": hit["frame"]}).json()
    same = [p for p in shown["people"] if p["box"] == hit["box"]]
    assert hit["camera"] == "gate" and len(same) == 1 and 55 < hit["box"][0] < 70

    drawn = {"source": "gate", "frame": hit["frame"], "box": hit["box"]}
    assert search(client, drawn)["hits"][0]["id"] == hit["id"]


def test_negatives_move_their_like_down(client):
    gate = people(client, "gate")
    by_place = sorted(gate, key=lambda person: person["box"][0])
    red, blue = by_place[0], by_place[-1]
    mixed = [{"person": red["id"]}, {"person": blue["id"]}]
    before = search(client, *mixed, grouped=False)["hits"]
    after = search(client, *mixed, negatives=[{"person": blue["id"]}], grouped=False)["hits"]
    blues = [
        next(hit["similarity"] for hit in hits if hit["id"] == blue["id"])
        for hits in (before, after)
    ]
    assert blues[1] < blues[0] - 0.1
    assert after[0]["box"][0] < 60 and after[0]["similarity"] == pytest.approx(blues[0], abs=0.01)


def test_filters_hold_before_neighbours(client):
    red = people(client, "yard")[0]
    only = search(client, {"person": red["id"]}, where={"cameras": ["gate"]}, limit=1)["hits"]
    assert [hit["camera"] for hit in only] == ["gate"]
    late = search(client, {"person": red["id"]}, where={"since": "2026-05-02T00:00:00Z"})["hits"]
    assert late == []


def test_pages_of_a_ranking(client):
    red = people(client, "yard")[0]["id"]
    everything = search(client, {"person": red}, grouped=False, limit=200)
    assert not everything["more"]
    parts, more = [], True
    while more:
        page = search(client, {"person": red}, grouped=False, offset=len(parts), limit=2)
        parts += page["hits"]
        more = page["more"]
    assert [hit["id"] for hit in parts] == [hit["id"] for hit in everything["hits"]]


def test_scene_around_a_hit(client):
    scenes = client.get("/api/scenes", params={"camera": "yard"}).json()["scenes"]
    first = {"source": "yard", "frame": scenes[0]["frame"]}
    later = client.get("/api/scene", params={**first, "offset": 1.0}).json()
    assert later["frame"] == scenes[0]["frame"] + 1000 and later["position"] == "0:01"
    assert later["people"][0]["position"] == "0:01"
    image = client.get("/api/scene/image", params={"source": "yard", "frame": later["frame"]})
    decoded = cv2.imdecode(np.frombuffer(image.content, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (96, 160, 3)
    x, y, w, h = (int(v) for v in later["people"][0]["box"])
    assert decoded[y + h // 2, x + w // 2].argmax() == 2


def test_footage_that_is_gone_leaves_thumbnails(client, tmp_path):
    hit = people(client, "yard")[0]
    (tmp_path / "yard.avi").unlink()
    view = client.get(
        "/api/scene", params={"source": "yard", "frame": people_frame(client, hit)}
    ).json()
    assert "yard" in view["problem"]
    answer = client.get(f"/api/people/{hit['id']}/thumbnail")
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/jpeg"
    image = client.get(
        "/api/scene/image", params={"source": "yard", "frame": people_frame(client, hit)}
    )
    assert 400 <= image.status_code < 500 and "detail" in image.json()


def people_frame(client, person) -> int:
    return client.get(f"/api/people/{person['id']}").json()["frame"]


def test_case_is_kept_exported_and_logged(client, gallery):
    red = people(client, "yard")[0]["id"]
    hits = search(client, {"person": red})["hits"]
    case = client.post("/api/cases", json={"name": "=lost <child>"}).json()
    address = f"/api/cases/{case['id']}"
    client.post(f"{address}/queries", json={"person": red})
    for hit, decision in zip(hits, ("confirmed", "rejected")):
        change = {"decision": decision, "note": "+1 <b>", "similarity": hit["similarity"]}
        assert client.put(f"{address}/sightings/{hit['id']}", json=change).status_code == 200
    client.patch(address, json={"notes": "seen twice"})

    # A case outlives what the gallery keeps.
    assert client.get(address).json()["notes"] == "seen twice"
    archive = client.post(f"{address}/export")
    with zipfile.ZipFile(io.BytesIO(archive.content)) as files:
        names = set(files.namelist())
        kept = json.loads(files.read("case.json"))
        rows = list(csv.DictReader(io.StringIO(files.read("sightings.csv").decode())))
        page = files.read("index.html").decode()
    assert {"case.json", "sightings.csv", "index.html", "pictures/query-1.jpg"} <= names
    assert [s["decision"] for s in kept["sightings"]] == ["confirmed", "rejected"]
    assert [s["position"] for s in kept["sightings"]] == [hit["position"] for hit in hits[:2]]
    assert [row["note"] for row in rows] == ["'+1 <b>"] * 2
    assert "<b>" not in page and "&lt;child&gt;" in page and "http" not in page.split("</style>")[1]

    lines = (gallery / "audit.jsonl").read_text().splitlines()
    assert [json.loads(line)["what"] for line in lines] == ["search", "new case", "export case"]
    assert [entry["what"] for entry in client.get("/api/audit").json()][0] == "export case"


def test_case_survives_deletion_of_its_source(client, service):
    red = people(client, "yard")[0]["id"]
    case = client.post("/api/cases", json={"name": "c"}).json()["id"]
    client.put(f"/api/cases/{case}/sightings/{red}", json={"decision": "confirmed"})
    service.delete_source("yard")
    assert client.get(f"/api/people/{red}").status_code == 404
    kept = client.get(f"/api/cases/{case}").json()["sightings"][0]
    picture = client.get(f"/api/cases/{case}/pictures/{kept['picture']}")
    assert picture.status_code == 200
    change = client.put(f"/api/cases/{case}/sightings/{red}", json={"decision": "rejected"})
    assert change.json()["sightings"][0]["decision"] == "rejected"


@pytest.mark.parametrize(
    ("request_body", "status", "word"),
    [
        ({"positives": []}, 422, "positives"),
        ({"positives": [{"person": 10**9}]}, 404, "no person"),
        ({"positives": [{"upload": "nothing", "box": [0, 0, 5, 5]}]}, 404, "upload"),
        ({"positives": [{"source": "gate", "frame": 0, "box": [500, 0, 5, 5]}]}, 400, "box"),
        ({"positives": [{"person": 1, "upload": "x"}]}, 422, "one of person"),
        ({"positives": [{"person": 1}], "wheres": {}}, 422, "wheres"),
        ({"positives": [{"person": 1}], "where": {"since": "2026-05-01T08:00:00"}}, 422, "since"),
    ],
    ids=["none", "unknown row", "unknown upload", "outside", "two kinds", "misspelt", "no zone"],
)
def test_errors_are_one_sentence(client, request_body, status, word):
    answer = client.post("/api/search", json=request_body)
    assert answer.status_code == status
    detail = answer.json()["detail"]
    assert isinstance(detail, str) and "\n" not in detail and word in detail


def test_documentation_needs_no_network(client):
    page = client.get("/docs")
    assert page.status_code == 200 and "http" not in page.text
    assert client.get("/static/docs.js").status_code == 200
    schema = client.get("/openapi.json").json()
    responses = [
        answer
        for path, methods in schema["paths"].items()
        for method in methods.values()
        for code, answer in method["responses"].items()
        if code in ("200", "201") and path != "/"
    ]
    assert all(answer.get("content") for answer in responses)
