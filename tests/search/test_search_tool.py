"""tools/search.py end to end, with a model that finds coloured rectangles."""

import io
import json
import os
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from spnet_d2 import pretrained
from spnet_d2.cli import search as search_tool
from spnet_d2.config_files import get_config_file
from spnet_d2.search import Gallery, PersonSearchPredictor, open_frames
from spnet_d2.search import gallery as gallery_module
from spnet_d2.search.query import cosine_similarities
from tests.fixtures.scripts import load_script

from .scenes import BLUE, RED, draw_scene, make_predictor, write_video
from .tiny import tiny_config

# What is made of a config and weights.
BUILT = "spnet_d2.search.predictor.PersonSearchPredictor"


def min_score_of(cfg):
    """As ``PersonSearchPredictor.from_config`` has it."""
    return {"min_score": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST}


@pytest.fixture(scope="module")
def tool():
    assert load_script("tools/search.py").main is search_tool.main
    return search_tool


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "frames").mkdir()
    for i in range(6):
        people = {BLUE: (10 + 5 * i, 20, 20, 60)}
        if i in (1, 4):
            people[RED] = (100, 30, 20, 60)
        cv2.imwrite(str(tmp_path / "frames" / f"{i}.png"), draw_scene(people))
    (tmp_path / "frames" / "broken.png").write_bytes(b"broken")
    cv2.imwrite(str(tmp_path / "query.png"), draw_scene({RED: (40, 30, 20, 60)}))
    return tmp_path


@pytest.fixture
def run(tool, folder, monkeypatch, capsys):
    """Call the tool with the query's defaults; returns (status, text, report)."""
    monkeypatch.setattr(BUILT, lambda cfg, **kwargs: make_predictor(**min_score_of(cfg)))
    (folder / "config.yaml").write_text("VERSION: 2\n")
    (folder / "model_final.pth").write_bytes(b"")

    def call(*extra, box="40,30,20,60", query="query.png", gallery="frames", output="out"):
        report = folder / output / "matches.json"
        if report.is_file():
            report.unlink()
        argv = ["--query", str(folder / query), f"--box={box}", "--gallery", str(folder / gallery)]
        argv += ["--output", str(folder / output), "--weights", str(folder / "model_final.pth")]
        status = tool.main([*argv, *map(str, extra)])
        captured = capsys.readouterr()
        return (
            status,
            captured.out + captured.err,
            json.loads(report.read_text()) if report.is_file() else None,
        )

    return call


def test_folder(run, folder):
    status, text, report = run("--topk", 3)
    assert status == 0
    query, gallery, matches = report["query"], report["gallery"], report["matches"]
    assert query["box_xywh"] == [40, 30, 20, 60] and query["box_xyxy"] == [40, 30, 60, 90]
    assert gallery["frames"] == 6 and gallery["people"] == 8
    assert [Path(p).name for p in gallery["skipped"]] == ["broken.png"]
    assert "1 unreadable images were skipped" in text
    assert [Path(m["file"]).name for m in matches] == ["1.png", "4.png", matches[2]["file"][-5:]]
    assert matches[0]["time"] is None and matches[0]["similarity"] > 0.99 > matches[2]["similarity"]
    np.testing.assert_allclose(matches[0]["box_xywh"], [100, 30, 20, 60], atol=1.5)
    assert set(matches[0]) == {
        "rank", "file", "frame", "time", "box_xywh", "box_xyxy", "score", "similarity"
    }  # fmt: skip
    sheet = cv2.imread(str(folder / "out" / "search.png"))
    assert (sheet == RED).all(axis=2).sum() > 1000
    assert sorted(p.name for p in (folder / "out").iterdir()) == [
        "gallery.npz", "matches.json", "search.png"
    ]  # fmt: skip


def test_saved_gallery_gives_the_same(run, folder):
    _, _, first = run()
    status, _, again = run(gallery="out/gallery.npz", output="again")
    assert status == 0 and again["matches"] == first["matches"]
    _, _, surest = run("--min-score", 0.85, gallery="out/gallery.npz", output="again")
    assert 0 < len(surest["matches"]) < len(first["matches"])


def test_scenes_that_do_not_match_are_left_out(run, folder, monkeypatch):
    monkeypatch.setattr(
        BUILT, lambda cfg, **kwargs: make_predictor(scenes=True, **min_score_of(cfg))
    )
    _, _, first = run()
    assert first["gallery"]["people"] == 8 and first["scene_filter"] is None
    # From the index, too. Two of the six scenes show somebody red; their people are compared.
    for gallery in ("frames", "out/gallery.npz"):
        status, text, report = run("--scene-threshold", 0.5, gallery=gallery, output="again")
        assert status == 0 and "of 8 people in 6 frames: scenes below 0.5 were left out" in text
        assert (report["gallery"]["frames"], report["gallery"]["people"]) == (2, 4)
        cost = report["scene_filter"]
        assert (cost["frames"], cost["people"]) == (6, 8) and cost["seconds"] > 0
        assert report["matches"][:2] == first["matches"][:2] and len(report["matches"]) == 4


def test_scores_of_scenes_need_a_gallery_filter(run):
    status, text, _ = run("--scene-threshold", 0.5)
    assert status == 1 and "MODEL.SPNET.GFN.ENABLED" in text


def test_saved_gallery_of_another_model(run, tool, monkeypatch):
    run()

    def other(cfg, **kwargs):
        predictor = make_predictor()
        with torch.no_grad():
            predictor.model.weight.mul_(2)
        return predictor

    monkeypatch.setattr(BUILT, other)
    status, text, _ = run(gallery="out/gallery.npz", output="again")
    assert status == 1 and "made with other weights" in text


def test_video(run, folder):
    images = [draw_scene({BLUE: (10, 20, 20, 60), RED: (60 + i, 30, 20, 60)}) for i in range(20)]
    write_video(folder / "v.avi", images, fps=5)
    status, text, report = run("--every", 4, "--topk", 5, gallery="v.avi")
    assert status == 0
    assert report["gallery"]["frames"] == 5 and report["gallery"]["people"] == 10
    assert {m["frame"] for m in report["matches"]} == {0, 4, 8, 12, 16}
    for match in report["matches"]:
        assert match["time"] == pytest.approx(match["frame"] / 5)
        assert match["box_xywh"][0] == pytest.approx(60 + match["frame"], abs=3)


def test_box_that_begins_outside_the_image(tool, run, folder):
    _, _, cut = run(box="-5,30,65,60")
    assert cut["query"]["box_xyxy"] == [0, 30, 60, 90]
    argv = ["--query", str(folder / "query.png"), "--box", "-5,30,65,60", "--output"]
    argv += [str(folder / "apart"), "--gallery", str(folder / "frames")]
    assert tool.main([*argv, "--weights", str(folder / "model_final.pth")]) == 0
    apart = json.loads((folder / "apart" / "matches.json").read_text())
    assert apart["query"]["box_xyxy"] == [0, 30, 60, 90]


def test_nobody_found_is_an_empty_result(run, folder):
    (folder / "empty_scenes").mkdir()
    cv2.imwrite(str(folder / "empty_scenes" / "a.png"), draw_scene({}))
    status, text, report = run(gallery="empty_scenes")
    assert status == 0 and report["matches"] == [] and report["gallery"]["people"] == 0
    assert "no match" in text and (folder / "out" / "search.png").is_file()
    status, _, report = run("--min-similarity", 1.1)
    assert status == 0 and report["matches"] == []


def test_clear_errors(run, folder):
    (folder / "text.mp4").write_text("text")
    (folder / "nothing").mkdir()
    (folder / "file").write_text("")
    for kwargs, message in (
        ({"query": "missing.png"}, "No image at .*missing.png"),
        ({"query": "text.mp4"}, "not an image"),
        ({"box": "500,10,20,20"}, "lies inside the image of 160 x 120"),
        ({"box": "10,10,0,20"}, "positive width and height"),
        ({"gallery": "missing"}, "No gallery at"),
        ({"gallery": "text.mp4"}, "nor a video"),
        ({"gallery": "nothing"}, "No images in"),
        ({"gallery": "query.png"}, "is a single image"),
        ({"gallery": "missing.npz"}, "No gallery file at"),
        ({"output": "file/sub"}, "Cannot write to the folder"),
        # A folder in which nobody may make a file.
        ({"output": "/proc/self"}, "Cannot write to the folder"),
    ):
        status, text, _ = run(**kwargs)
        assert status == 1
        assert len(text.strip().splitlines()) == 1, text
        assert re.search(message, text), text
    status, text, _ = run("--every", 0)
    assert status == 1 and "n >= 1" in text
    status, text, _ = run("MODEL.NO_SUCH_KEY", 1)
    assert status == 1 and "Cannot use the settings" in text
    (folder / "config.yaml").unlink()
    status, text, _ = run()
    assert status == 1 and "No config file at" in text


def test_query_centric(tool, folder, capsys):
    """A model of query-centric training finds the query's own candidates in every frame."""
    cfg = tiny_config()
    cfg.MODEL.SPNET.PATHWAY = "QC"
    cfg.MODEL.SPNET.SMALL_DATA.ANCHOR_BIAS = 0.0
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, folder / "model_final.pth")
    (folder / "config.yaml").write_text(cfg.dump())

    def call(*extra, gallery="frames"):
        argv = ["--query", str(folder / "query.png"), "--box", "40,30,20,60"]
        argv += ["--weights", str(folder / "model_final.pth"), "--output", str(folder / "out")]
        status = tool.main([*argv, "--gallery", str(folder / gallery), *extra])
        return status, capsys.readouterr().err

    status, text = call("--topk", "5", "--min-score", "0.1")
    assert status == 0, text
    assert not (folder / "out" / "gallery.npz").exists()
    report = json.loads((folder / "out" / "matches.json").read_text())
    assert len(report["matches"]) == 5 and report["gallery"]["frames"] == 6

    predictor = PersonSearchPredictor(cfg, weights=str(folder / "model_final.pth"))
    query = predictor.query(cv2.imread(str(folder / "query.png")), (40, 30, 60, 90))
    best = max(
        (similarity, i, score)
        for i in range(6)
        for found in predictor.detect([cv2.imread(str(folder / "frames" / f"{i}.png"))], query)
        for similarity, score in zip(
            cosine_similarities(found.embeddings, query.reid), found.scores
        )
        if score >= 0.1
    )
    first = report["matches"][0]
    assert Path(first["file"]).stem == str(best[1])
    assert (first["similarity"], first["score"]) == pytest.approx((best[0], best[2]), abs=1e-4)

    # An index of everybody is none of this query, and it is said what to do.
    frames = open_frames(folder / "frames")
    Gallery.build(make_predictor(), frames, progress=False).save(folder / "all.npz")
    status, text = call(gallery="all.npz")
    assert status == 1 and f"give its frames, {folder / 'frames'}, instead" in text


def test_settings_of_no_model(tool, folder, capsys):
    (folder / "model_final.pth").write_bytes(b"")
    (folder / "config.yaml").write_text(tiny_config().dump())
    argv = ["--query", str(folder / "query.png"), "--box", "40,30,20,60"]
    argv += ["--weights", str(folder / "model_final.pth"), "--output", str(folder / "out")]
    argv += ["--gallery", str(folder / "frames")]
    for settings, message in (
        (["INPUT.AUG_TEST", "crop"], "INPUT.AUG_TEST must be"),
        (["MODEL.SPNET.TEST_PATHWAY", "both"], "TEST_PATHWAY is 'both'"),
        (["MODEL.SPNET.REID_DIM", "8"], "make them equal"),
        (["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"], "expected SPNet"),
        (["MODEL.DEVICE", "gpu"], "MODEL.DEVICE is 'gpu'"),
    ):
        assert tool.main([*argv, *settings]) == 1
        text = capsys.readouterr().err
        assert text.startswith("search: The config can't be used: ") and message in text
    assert tool.main([*argv[:4], "--weights", str(folder / "no.pth"), *argv[6:]]) == 1
    assert "No weight file at" in capsys.readouterr().err


def test_min_score_reaches_the_model(tool, run, folder, monkeypatch):
    """Without it, the config's own counts, which ``tools/adapt.py`` chooses for its footage."""
    seen = []

    def record(cfg, weights, allow_untrained):
        seen.append((cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST, weights))
        assert not allow_untrained
        return make_predictor()

    monkeypatch.setattr(BUILT, record)
    for score in (0.2, 0.7):
        run("--min-score", score)
    run("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.6")
    weights = str(folder / "model_final.pth")
    assert seen == [(0.2, weights), (0.7, weights), (0.6, weights)]


def test_frames_are_searched_from_the_models_own_least_score_on(run):
    _, _, everybody = run("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0")
    _, _, surest = run("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.85", output="surest")
    assert 0 < len(surest["matches"]) < len(everybody["matches"])


def test_arguments(run, capsys):
    for extra, message in (
        (("--topk", 0), "--topk must be 1 or more"),
        (("--min-score", "nan"), "--min-score must lie between 0 and 1, found nan"),
        (("--min-similarity", "nan"), "--min-similarity: must be a finite number, found nan"),
        (("MODEL.DEVICE",), "KEY VALUE pairs"),
    ):
        with pytest.raises(SystemExit):
            run(*extra)
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(box="1,2,3")
    assert "expected four numbers" in capsys.readouterr().err


def test_without_a_model_the_starter_is_taken(tool, folder, capsys, monkeypatch):
    """Before `make demo` has run; afterwards the demo's."""
    asked = []

    def record(cfg, weights, allow_untrained):
        asked.append(Path(weights).name)
        return make_predictor()

    monkeypatch.setattr(BUILT, record)
    monkeypatch.setattr(pretrained, "DEMO", folder / "demo")
    argv = ["--query", str(folder / "query.png"), "--box", "40,30,20,60"]
    argv += ["--gallery", str(folder / "frames"), "--output", str(folder / "out")]
    assert tool.main(argv) == 0
    (folder / "demo").mkdir()
    (folder / "demo" / "config.yaml").write_text(
        Path(get_config_file("pets09/imagenet")).read_text()
    )
    (folder / "demo" / "model_final.pth").touch()
    assert tool.main([*argv, "--topk", "3"]) == 0
    assert asked == ["starter.pth", "model_final.pth"]


def test_own_results_are_not_searched(run, folder):
    _, _, first = run("--topk", 20, output="frames")
    for output in ("frames", "out"):
        (folder / "frames" / "matches.json").touch()
        status, text, again = run("--topk", 20, output=output)
        assert status == 0
        assert again["matches"] == first["matches"] and again["gallery"]["frames"] == 6
    assert again["gallery"]["left_out"] == {
        "images drawn by these tools": 1,
        "other files (.json)": 1,
        "other files (.npz)": 1,
    }
    assert "not searched: 1 image drawn by these tools, " in text


def test_an_index_is_not_asked_for_what_it_lacks(run):
    run("--min-score", 0.8)
    status, text, report = run("--min-score", 0.1, gallery="out/gallery.npz", output="again")
    assert status == 1 and report is None and "people from a score of 0.8 on" in text
    _, _, every = run("--every", 4, "--min-score", 0.8)
    run("--min-score", 0.8, output="all")
    _, _, thinned = run("--every", 4, "--min-score", 0.8, gallery="all/gallery.npz", output="again")
    assert thinned["matches"] == every["matches"] and thinned["gallery"]["every"] == 4
    status, text, _ = run("--every", 3, "--min-score", 0.8, gallery="out/gallery.npz")
    assert status == 1 and "multiple of 4, found 3" in text


def test_images_that_changed_are_marked(run, folder):
    _, _, first = run()
    (folder / "frames" / "1.png").unlink()
    cv2.imwrite(str(folder / "frames" / "4.png"), draw_scene({}))
    status, text, again = run(gallery="out/gallery.npz", output="again")
    assert status == 0 and again["matches"] == first["matches"]
    assert "2 frames can't be shown, which is marked in search.png; first: " in text
    assert "results: " in text and (folder / "again" / "search.png").is_file()


def test_names_that_are_no_utf8(run, folder):
    data = (folder / "frames" / "1.png").read_bytes()
    with open(os.fsencode(folder / "frames") + b"/photo\xe9.png", "wb") as file:
        file.write(data)
    status, text, report = run("--topk", 3)
    assert status == 0 and "photo" in text
    assert "photo\udce9.png" in [Path(m["file"]).name for m in report["matches"]]
    status, _, again = run("--topk", 3, gallery="out/gallery.npz", output="again")
    assert status == 0 and again["matches"] == report["matches"]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_terminals_that_are_not_utf8(tool, run, folder, monkeypatch, encoding):
    (folder / "frames" / "1.png").rename(folder / "frames" / "人 ä.png")
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    status, _, report = run("--topk", 2)
    assert status == 0 and len(report["matches"]) == 2
    stream.flush()
    assert rb"\u4eba" in stream.buffer.getvalue()


def test_the_suggested_threshold_is_shown(run, folder):
    status, text, report = run()
    assert report["suggested_min_similarity"] is None and "*" not in text
    metrics = folder / "inference" / "some_test" / "metrics.json"
    metrics.parent.mkdir(parents=True)
    metrics.write_text(json.dumps({"mAP": 0.5, "not_in_gallery_similarity": 0.9}))
    status, text, report = run()
    assert report["suggested_min_similarity"] == 0.9
    below = sum(match["similarity"] < 0.9 for match in report["matches"])
    assert 0 < below < len(report["matches"])
    assert f"{below} of {len(report['matches'])} are below 0.900 (*)" in text
    assert len(re.findall(r"\d\*", text)) == below and str(metrics) in text


def test_odd_boxes_are_warned_of(run, caplog):
    run(box="0,0,160,120")
    assert "query.png: the box is as large as its image" in caplog.text
    caplog.clear()
    run(box="100,30,120,60")
    assert "50% of the box lies outside the image" in caplog.text
    caplog.clear()
    run()
    assert "the box" not in caplog.text


def test_the_frame_of_boxes_is_named(tool, run, folder, capsys):
    """A box given in the upright image finds the same person, however the file is stored."""
    _, _, plain = run("--topk", 2)
    assert "upright image" in plain["boxes"]
    with Image.open(folder / "query.png") as image:
        exif = Image.Exif()
        exif[0x0112] = 6
        image.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png", exif=exif)
    _, _, turned = run("--topk", 2, query="turned.png")
    assert turned["matches"] == plain["matches"]
    with pytest.raises(SystemExit):
        tool.main(["--help"])
    assert "upright image" in capsys.readouterr().out


def test_ctrl_c_keeps_what_is_done(tool, run, folder, monkeypatch):
    add = gallery_module.Collected.add

    def add_four(self, frame, people):
        if len(self.numbers) == 4:
            raise KeyboardInterrupt
        add(self, frame, people)

    with monkeypatch.context() as patch:
        patch.setattr(gallery_module.Collected, "add", add_four)
        status, text, _ = run()
    assert status == 130 and "search: stopped" in text and "Traceback" not in text
    assert (folder / "out" / "gallery.unfinished.npz").is_file()
    status, _, report = run()
    assert status == 0 and report["gallery"]["frames"] == 6
    assert not (folder / "out" / "gallery.unfinished.npz").exists()
