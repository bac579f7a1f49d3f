"""datasets/convert.py from foreign files to data sets."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from spnet_d2.data.own_sets import read_sets
from spnet_d2.data.person_search_json import load_person_search_json, load_protocol
from tests.data.formats.convert.files import image, write
from tests.fixtures.scripts import ROOT, load_script

SEQINFO = "[Sequence]\nname=x\nimDir=img1\nframeRate=10\nimWidth=64\nimHeight=48\nimExt=.jpg\n"


@pytest.fixture
def mot(tmp_path):
    """Two sequences of six frames; person 1 walks, person 2 stands, a static person sits."""
    for name in ("east", "west"):
        folder = tmp_path / "MOT" / name
        rows = []
        for frame in range(1, 7):
            image(folder / "img1" / f"{frame:06d}.jpg")
            rows.append(f"{frame},1,{5 * frame},4,9,20,1,1,1.0")
            rows.append(f"{frame},2,50,4,9,20,1,1,{frame / 10}")
            rows.append(f"{frame},3,1,30,9,9,0,7,1.0")
        write(folder / "gt" / "gt.txt", "\n".join(rows) + "\n")
        write(folder / "seqinfo.ini", SEQINFO)
    return tmp_path / "MOT"


def run(*arguments):
    return load_script("datasets/convert.py").main([str(argument) for argument in arguments])


def test_everything_is_written(mot, tmp_path, capsys):
    out = tmp_path / "street"
    options = ("--test-sequences", "west", "--protocol", "later", "--gap", "0.3s")
    assert run("--from", "mot", mot, out, "--min-visibility", "0.25", *options) == 0
    text = capsys.readouterr().out
    assert text == (out / "report.txt").read_text()
    assert "annotations: 12 images (12 with people), 20 boxes, 4 known people" in text
    assert "        12  class static person\n" in text
    assert "         4  less than 0.25 visible" in text
    assert f"DATASETS.FILES {out / 'datasets.yaml'}" in text
    sets = {entry.name: entry for entry in read_sets(out / "datasets.yaml")}
    assert list(sets) == ["street", "street_train", "street_test"]
    test = sets["street_test"]
    dicts = load_person_search_json(test.json, test.images)
    assert [len(entry["annotations"]) for entry in dicts] == [1, 1, 2, 2, 2, 2]
    queries = load_protocol(test.protocols["later"]).queries
    first = dicts[0]["annotations"][0]["annotation_id"]
    assert queries[first] == [entry["image_id"] for entry in dicts[3:]]
    preview = cv2.imread(str(out / "preview.jpg"))
    assert preview.shape[0] == 4 * 304 and preview.std() > 10
    assert not (out / "images").exists()


def test_again_and_under_another_name(mot, tmp_path):
    out = tmp_path / "street"
    assert run("--from", "mot", mot, out) == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert run("--from", "mot", mot, out) == 0
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert run("--from", "mot", mot, out, "--name", "more", "--step", "3", "--copy-images") == 0
    more = {entry.name: entry for entry in read_sets(out / "datasets.yaml")}["more"]
    copies = sorted(p.relative_to(out).as_posix() for p in (out / "images").rglob("*.jpg"))
    assert copies == [f"images/{s}/img1/00000{n}.jpg" for s in ("east", "west") for n in (1, 4)]
    assert more.images == out / "images"


def test_images_in_another_place(mot, tmp_path):
    (tmp_path / "frames").mkdir()
    for name in ("east", "west"):
        (tmp_path / "frames" / name).mkdir()
        (mot / name / "img1").rename(tmp_path / "frames" / name / "img1")
    assert run("--from", "mot", mot, tmp_path / "out") == 1
    assert run("--from", "mot", mot, tmp_path / "out", "--images", tmp_path / "frames") == 0


def test_other_formats_by_their_options(tmp_path, capsys):
    image(tmp_path / "in" / "Images" / "a.jpg")
    person = {"tag": "person", "fbox": [1, 2, 9, 20], "vbox": [1, 2, 9, 10], "extra": {}}
    line = json.dumps({"ID": "a", "gtboxes": [person]})
    write(tmp_path / "in" / "annotation_train.odgt", line + "\n")
    assert run("--from", "crowdhuman", tmp_path / "in", tmp_path / "out", "--box", "visible") == 0
    (box,) = json.loads((tmp_path / "out" / "annotations.json").read_text())["annotations"]
    assert box["bbox"] == [1, 2, 9, 10]
    assert "note: boxes: visible (vbox)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, message",
    [
        (["--gap", "3"], "--protocol later and --gap belong together"),
        (["--protocol", "later"], "--protocol later and --gap belong together"),
        (["--protocol", "later", "--gap", "x"], "argument --gap"),
        (["--step", "0"], "--step must be at least 1"),
        (["--min-score", "0.5"], "--min-score needs --detections"),
        (["--box", "head"], "--box is of --from crowdhuman only"),
        (["--test-share", "100"], "--test-share must be 1 to 99"),
        (["--test-share", "20", "--test-sequences", "east"], "either --test-share or"),
        (["--min-visibility", "40"], "--min-visibility must be 0 to 1"),
    ],
)
def test_wrong_options(mot, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit):
        run("--from", "mot", mot, tmp_path / "out", *options)
    assert message in capsys.readouterr().err


def test_one_message_and_no_files(mot, tmp_path, capsys):
    file = mot / "west" / "gt" / "gt.txt"
    file.write_text(file.read_text() + "3,4,oops\n")
    assert run("--from", "mot", mot, tmp_path / "out") == 1
    assert capsys.readouterr().err.startswith(f"convert: {file}:19: expected 6 to 10 values")
    assert not (tmp_path / "out").exists()
    assert run("--from", "mot", mot, tmp_path / "out", "--sequences", "east") == 0
    assert (
        run("--from", "mot", mot, tmp_path / "out", "--sequences", "east", "--person", "car") == 1
    )
    assert "No box of a person is left" in capsys.readouterr().err


def test_as_a_program_it_starts_without_pytorch(mot, tmp_path):
    """A hundred conversions in a row should not wait for PyTorch a hundred times."""
    script = ROOT / "datasets" / "convert.py"
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['convert.py', '--from', 'mot', {str(mot)!r}, {str(tmp_path / 'out')!r}]\n"
        "try:\n"
        f"    runpy.run_path({str(script)!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert np.fromfile(tmp_path / "out" / "preview.jpg", np.uint8).size > 1000
