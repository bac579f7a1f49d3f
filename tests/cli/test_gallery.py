"""``spnet-gallery``: index, search, calibrate and look after a gallery of painted people."""

import csv
import json
import re
import shlex
import zipfile
from pathlib import Path

import cv2
import pytest

from spnet_d2.cli.gallery import index, main, make_parser
from spnet_d2.cli.gallery import search as search_command
from spnet_d2.gallery import Filter
from spnet_d2.ingestion import GalleryHome
from tests.fixtures.painted import PaintedPredictor, scene, walk, write_folder, write_video

ROOT = Path(__file__).resolve().parents[2]


class Opened:
    predictor = PaintedPredictor()
    model = {"opens": "painted"}  # noqa: RUF012
    min_score = 0.5

    @classmethod
    def of(cls, args):
        return cls

    @classmethod
    def again(cls, model, fingerprint):
        assert model == cls.model and fingerprint == "painted"
        return cls


@pytest.fixture(autouse=True)
def painted(monkeypatch):
    monkeypatch.setattr(index, "OpenedPredictor", Opened)
    monkeypatch.setattr(search_command, "OpenedPredictor", Opened)


@pytest.fixture
def run(capsys):
    """Function that runs a command: its status, and what it printed."""

    def run(*words) -> tuple[int, str]:
        status = main([str(word) for word in words])
        caught = capsys.readouterr()
        return status, caught.out + caught.err

    return run


@pytest.fixture
def gallery(run, tmp_path):
    write_video(tmp_path / "yard.avi", walk("red", 30))
    pictures = {"a.png": scene(("red", 10), ("green", 60), ("blue", 120)), "b.png": scene()}
    write_folder(tmp_path / "gate", pictures)
    place = tmp_path / "home"
    sources = [f"--source=yard={tmp_path / 'yard.avi'}", f"--source=gate={tmp_path / 'gate'}"]
    status, text = run("index", *sources, "--gallery", place, "--fps", 5)
    assert status == 0 and "18 people found" in text, text
    return place


@pytest.fixture
def query(tmp_path):
    path = tmp_path / "query.png"
    cv2.imwrite(str(path), scene(("blue", 30), ("green", 100)))
    return path


def found(folder):
    return json.loads((folder / "found.json").read_text())


def test_index_again_adds_nothing(run, gallery, tmp_path):
    status, text = run("index", "--source", f"yard={tmp_path / 'yard.avi'}", "--gallery", gallery)
    assert status == 0 and "0 pictures added" in text


def test_other_settings_replace_what_was_indexed(run, gallery, tmp_path, caplog):
    """Each second frame only: no frame is there twice."""
    words = ("--source", f"yard={tmp_path / 'yard.avi'}", "--gallery", gallery, "--fps", 1)
    status, text = run("index", *words)
    assert status == 0 and "are replaced" in caplog.text
    home = GalleryHome(gallery)
    people = home.store.fetch(home.store.find(Filter(sources="yard")))
    assert people.frames.tolist() == [0, 1000, 2000]
    assert [scene.frame for scene in home.scenes("yard")] == [0, 1000, 2000]
    assert home.problems() == []


@pytest.mark.parametrize("command", ["search", "serve", "info", "index", "calibrate"])
def test_an_engines_address_is_no_gallery(run, capsys, command):
    with pytest.raises(SystemExit):
        run(command, "--gallery", "milvus://localhost:19530/people", "--output", "out")
    assert (
        "A gallery is a folder, found milvus://localhost:19530/people." in capsys.readouterr().err
    )


def test_search_by_a_crop_alone(run, gallery, query, tmp_path):
    """It is searched for as if it was in a scene."""
    cv2.imwrite(str(tmp_path / "crop.png"), cv2.imread(str(query))[20:80, 30:50])
    out = tmp_path / "out"
    status, text = run(
        "search", "--gallery", gallery, "--query", tmp_path / "crop.png", "--output", out
    )
    assert status == 0 and "no --box" in text
    (first, *_) = found(out)["hits"]
    assert first["box_xywh"] == [120, 20, 20, 60] and first["similarity"] > 0.999
    (asked,) = json.loads((out / "found.json").read_text())["queries"]
    assert asked["name"] == "crop.png" and asked["box_xywh"] == [0, 0, 20, 60]


def test_search_by_box(run, gallery, query, tmp_path):
    out = tmp_path / "out"
    where = ("--query", query, "--box", "30,20,20,60", "--output", out)
    status, text = run("search", "--gallery", gallery, *where)
    assert status == 0 and "Not calibrated" in text
    hits = found(out)["hits"]
    assert hits[0]["source"] == "gate" and hits[0]["box_xywh"] == [120, 20, 20, 60]
    assert hits[0]["similarity"] > 0.999 > hits[1]["similarity"]
    with open(out / "found.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == [hit["id"] for hit in hits]
    page = (out / "found.html").read_text()
    assert page.count("data:image/jpeg") >= len(hits)
    assert page.count(f'alt="{query.name}"') == page.count(f'alt="scene of {query.name}"') == 1
    assert "src=http" not in page.replace('"', "") and "<script src" not in page


def test_search_by_detection_row_and_negatives(run, gallery, query, tmp_path):
    out = tmp_path / "out"
    first = ("--query", query, "--detection", "2", "--output", out)
    assert run("search", "--gallery", gallery, *first)[0] == 0
    best = found(out)["hits"][0]
    again = ("--person", best["id"], "--output", out)
    assert run("search", "--gallery", gallery, *again)[0] == 0
    assert found(out)["hits"][0]["id"] == best["id"]
    plain = {hit["id"]: hit["similarity"] for hit in found(out)["hits"]}
    wrong = found(out)["hits"][1]
    less = (*again, "--not-person", wrong["id"])
    assert run("search", "--gallery", gallery, *less)[0] == 0
    after = {hit["id"]: hit["similarity"] for hit in found(out)["hits"]}
    assert after[wrong["id"]] < plain[wrong["id"]] and after[best["id"]] == plain[best["id"]]


def test_filters_of_the_command(run, gallery, query, tmp_path):
    out = tmp_path / "out"
    red = tmp_path / "red.png"
    cv2.imwrite(str(red), scene(("red", 30)))
    words = ("--query", red, "--box", "30,20,20,60", "--camera", "gate", "--output", out)
    assert run("search", "--gallery", gallery, *words)[0] == 0
    assert {hit["camera"] for hit in found(out)["hits"]} == {"gate"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "--query IMAGE"),
        (("--query", "QUERY", "--detection", "9"), "finds 2 people"),
        (("--query", "QUERY", "--box", "900,0,5,5"), "box"),
        (("--query", "nowhere.png"), "nowhere.png"),
        (("--person", "99999"), "99999"),
        (("--person", "0", "--from", "yesterday"), "--from"),
        (("--person", "0", "--from", "2026-05-01T08:00:00"), "time zone"),
    ],
    ids=["nobody", "detection", "outside", "no file", "no row", "no time", "no zone"],
)
def test_errors_are_one_line(run, gallery, query, tmp_path, words, expected):
    words = [str(query) if word == "QUERY" else word for word in words]
    status, text = run("search", "--gallery", gallery, *words, "--output", tmp_path / "out")
    assert status == 1
    last = text.strip().splitlines()[-1]
    assert expected in last and "Traceback" not in text


def test_box_without_a_picture(run, gallery, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        run("search", "--gallery", gallery, "--box", "1,2,3,4", "--output", tmp_path / "out")
    assert stopped.value.code == 2


def test_no_gallery(run, tmp_path):
    for command in ("info", "compact", "verify"):
        status, text = run(command, "--gallery", tmp_path)
        assert status == 1 and "spnet-gallery index makes one" in text


def test_info_delete_verify(run, gallery):
    status, text = run("info", "--gallery", gallery)
    assert status == 0 and "yard" in text and "gate" in text
    assert run("delete", "--gallery", gallery)[0] == 1
    status, text = run("delete", "--gallery", gallery, "--source", "yard")
    assert status == 0 and "3 are left" in text
    assert run("compact", "--gallery", gallery)[0] == 0
    assert run("verify", "--gallery", gallery)[0] == 0
    ready = GalleryHome(gallery).path / "units"
    next(ready.glob("*.json")).write_text("{")
    status, text = run("verify", "--gallery", gallery)
    assert status == 1 and "index its source again" in text


def test_calibrate_says_what_is_missing(run, gallery):
    status, text = run("calibrate", "--gallery", gallery)
    assert status == 1 and "30 are needed" in text


def test_higher_floor_than_indexed_is_refused(run, gallery, tmp_path):
    video = f"yard={tmp_path / 'yard.avi'}"
    words = ("--source", video, "--gallery", gallery, "--min-score", "0.3")
    status, text = run("index", *words)
    assert status == 1 and "0.3" in text and "0.5" in text


def test_export_and_import(run, gallery, query, tmp_path):
    """The same hits, crops and scenes; going on indexing adds nothing."""
    status, text = run("export", "--gallery", gallery, "--output", tmp_path / "g.zip")
    assert status == 0 and "pictures of people" in text
    copy = tmp_path / "copy"
    assert run("import", "--archive", tmp_path / "g.zip", "--gallery", copy)[0] == 0
    hits = []
    for number, place in enumerate((gallery, copy)):
        out = tmp_path / str(number)
        words = ("--query", query, "--box", "30,20,20,60", "--output", out)
        assert run("search", "--gallery", place, *words)[0] == 0
        hits.append(found(out)["hits"])
        assert (out / "found.html").read_text().count("data:image/jpeg") >= len(hits[-1])
    assert hits[0] == hits[1]
    video = f"yard={tmp_path / 'yard.avi'}"
    status, text = run("index", "--source", video, "--gallery", copy)
    assert status == 0 and "0 pictures added" in text
    assert run("verify", "--gallery", copy)[0] == 0


def test_import_of_what_is_no_export(run, tmp_path):
    (tmp_path / "no.zip").write_bytes(b"no zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("../evil.json", "{}")
    for name, expected in (("no.zip", "damaged"), ("other.zip", "damaged"), ("x.zip", "No file")):
        words = ("--archive", tmp_path / name, "--gallery", tmp_path / "copy")
        status, text = run("import", *words)
        assert status == 1 and expected in text
    assert not (tmp_path / "copy").exists() and not (tmp_path.parent / "evil.json").exists()


def documented() -> list[list[str]]:
    """Words of every ``spnet-gallery`` command in the documentation."""
    found = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words and words[0].endswith("spnet-gallery"):
                    found.append(words[1:])
    return found


@pytest.mark.parametrize("words", documented(), ids=" ".join)
def test_documented_commands_are_understood(words):
    assert callable(make_parser().parse_args(words).run)


def test_every_command_is_documented():
    commands = {words[0] for words in documented()}
    everything = "index search calibrate serve info delete compact verify export import"
    assert commands == set(everything.split())
