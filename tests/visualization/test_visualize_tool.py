"""tools/visualize_results.py on files: the page's content, and how a browser shows it."""

import base64
import re
import runpy
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from spnet_d2.data.person_search_json import load_person_search_json, write_protocol
from spnet_d2.evaluation import (
    ExtraMetrics,
    GroundTruth,
    Predictions,
    RetrievalProtocol,
    evaluate_predictions,
    flat_metrics,
    report,
    results_dict,
)
from spnet_d2.visualization import html_report
from tests.evaluation.corpus import QUERY, predictions, worked_example, write_dataset

TOOL = runpy.run_path(
    Path(__file__).parents[2] / "tools" / "visualize_results.py", run_name="visualize_results"
)
# A name that would break a page that does not escape it.
PROTOCOL = "<b>plain & simple"
COLOURS = [(40, 40, 220), (40, 200, 40), (220, 60, 40), (0, 200, 200), (200, 0, 200), (90, 90, 90)]


class Page(HTMLParser):
    """Tags and text of a page; fails on what it must not hold."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.classes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert tag not in ("script", "link", "iframe", "object")
        assert not any(name.startswith("on") or name == "href" for name in attrs)
        self.classes += attrs.get("class", "").split()
        if tag == "img":
            self.sources.append(attrs["src"])

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def folder(tmp_path):
    """The worked example as files, every image in a colour of its own."""
    corpus, embeddings, gt_embeddings = worked_example(True)
    (tmp_path / "frames").mkdir()
    for image, colour in zip(corpus, COLOURS):
        shown = np.full((300, 450, 3), colour, np.uint8)
        cv2.imwrite(str(tmp_path / "frames" / f"{image}.png"), shown)
    write_dataset(tmp_path / "test.json", corpus, ".png", width=450, height=300)
    write_protocol(tmp_path / f"{PROTOCOL}.json", list(corpus), [QUERY, 101, 102, 104])
    predictions(corpus, embeddings, gt_embeddings).save(tmp_path / "predictions.npz")
    return tmp_path


def visualize(folder, *options, protocol=None):
    arguments = [
        "--annotations", folder / "test.json",
        "--image-root", folder / "frames",
        "--protocol", protocol or folder / f"{PROTOCOL}.json",
        "--predictions", folder / "predictions.npz",
        "--output", folder / "report.html",
        *options,
    ]  # fmt: skip
    status = TOOL["main"]([str(argument) for argument in arguments])
    report = folder / "report.html"
    return status, Page(report.read_text(encoding="utf-8")) if report.exists() else None


def decoded(source):
    """Content of a data URI: a JPEG's pixels, or an SVG's root."""
    kind, data = re.fullmatch(r"data:(image/[\w+]+);base64,([\w+/=]+)", source).groups()
    data = base64.b64decode(data, validate=True)
    if kind == "image/svg+xml":
        return ElementTree.fromstring(data)
    assert kind == "image/jpeg"
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def test_page(folder, capsys):
    status, page = visualize(folder, "--queries", "1")
    assert status == 0
    printed = capsys.readouterr()
    assert "report: " in printed.out and "missing" not in printed.err
    for expected in (PROTOCOL, "original rules", "top-10", "AP@0.5", "mAP, ground-truth boxes"):
        assert expected in page.text, expected
    assert "Best queries" in page.text and "Worst queries" in page.text
    assert page.classes.count("query") == 3
    images = [decoded(source) for source in page.sources]
    plots = [p for p in images if isinstance(p, ElementTree.Element)]
    crops = [p for p in images if isinstance(p, np.ndarray)]
    assert len(plots) == 4 and all(len(list(p.iter())) > 50 for p in plots)
    kinds = ("query", "hit", "miss", "missed")
    assert len(crops) == sum(page.classes.count(kind) for kind in kinds)
    assert all(page.classes.count(kind) for kind in kinds)
    # Crops are of the right images: the first is a query's.
    number = int(re.search(r"Query (\d+):", page.text)[1])
    assert np.abs(crops[0].mean(axis=(0, 1)) - COLOURS[number % 100]).max() < 8

    first = (folder / "report.html").read_bytes()
    visualize(folder, "--queries", "1")
    assert (folder / "report.html").read_bytes() == first
    status, page = visualize(folder, "--queries", "0", "--protocol-variant", "corrected")
    assert status == 0 and "corrected rules" in page.text and "query" not in page.classes
    assert len(page.sources) == 4


def test_a_new_metric_needs_one_line(folder, capsys, monkeypatch):
    """A metric that report.py is given is in the table, metrics.json and the page by itself."""
    known = report._ranking_metrics

    def with_one_more(scores):
        return known(scores) | {"mean_first_rank": float(scores.first_hit_rank.mean()) / 100}

    monkeypatch.setattr(report, "_ranking_metrics", with_one_more)
    status, page = visualize(folder, "--queries", "0")
    assert status == 0
    assert "mean_first_rank" in page.text
    assert "mean_first_rank, ground-truth boxes" in page.text
    assert "gt_mean_first_rank" in capsys.readouterr().out

    truth = GroundTruth.from_dicts(load_person_search_json(folder / "test.json", folder))
    protocol = RetrievalProtocol.read(folder / f"{PROTOCOL}.json", truth)
    found = Predictions.load(folder / "predictions.npz")
    evaluation = evaluate_predictions(truth, [protocol], found, extra=ExtraMetrics(cws=True))
    metrics = flat_metrics(evaluation)
    for name in ("mean_first_rank", "gt_mean_first_rank", "cws_mean_first_rank"):
        assert np.isfinite(metrics[name]), name
    assert results_dict(evaluation)[PROTOCOL]["mean_first_rank"] == pytest.approx(
        100 * metrics["mean_first_rank"]
    )


def test_missing_images_are_marked_and_counted(folder, capsys):
    (folder / "frames" / "1.png").unlink()
    (folder / "frames" / "3.png").write_bytes(b"no image")
    cv2.imwrite(str(folder / "frames" / "4.png"), np.zeros((30, 20, 3), np.uint8))
    status, page = visualize(folder)
    assert status == 0
    assert "3 images are marked as missing; first: No image at" in capsys.readouterr().err
    assert "3 images could not be shown; first: No image at" in page.text
    assert page.text.count("image missing") > 3
    assert all(decoded(source) is not None for source in page.sources)


def test_nobody_to_find_and_nothing_found(folder, monkeypatch):
    status, page = visualize(folder, protocol="all")
    assert status == 0 and "1 of 6 queries have nobody to find" in page.text
    arrays = dict(np.load(folder / "predictions.npz"))
    for name, shape in (("image_ids", 0), ("boxes", (0, 4)), ("scores", 0), ("embeddings", (0, 2))):
        arrays[name] = np.zeros(shape, arrays[name].dtype)
    np.savez(folder / "predictions.npz", **arrays)
    monkeypatch.setattr(html_report, "MISSED_SHOWN", 3)
    status, page = visualize(folder)
    # The query is in four other images.
    assert "and 1 more missed" in page.text
    assert status == 0 and "no hit" in page.text and "missed" in page.classes
    assert "hit" not in page.classes and "no best match is right" in page.text


def test_boxes_that_are_none(folder):
    arrays = dict(np.load(folder / "predictions.npz"))
    arrays["boxes"][3] = np.nan
    np.savez(folder / "predictions.npz", **arrays)
    status, page = visualize(folder)
    assert status == 0 and "box is not finite" in page.text


def test_broken_inputs_are_one_clear_error(folder, capsys):
    assert visualize(folder, "--image-root", folder / "nowhere") == (1, None)
    error = capsys.readouterr().err
    assert error.startswith("visualize_results: No folder") and "--image-root" in error
    assert visualize(folder, "--predictions", folder / "none.npz") == (1, None)
    assert "No predictions file at" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        visualize(folder, "--queries", "-1")
    assert "--queries must be 0 or more" in capsys.readouterr().err


def test_a_browser_shows_it(folder):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if browser is None:
        pytest.skip("no Chromium on PATH (Debian: apt-get install chromium)")
    status, page = visualize(folder, "--queries", "1")
    assert status == 0
    shot = folder / "shot.png"
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--no-first-run", "--disable-extensions", "--disable-background-networking",
            f"--user-data-dir={folder / 'browser'}", "--window-size=1200,1800",
            f"--screenshot={shot}", (folder / "report.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert shot.is_file(), done.stderr[-2000:]
    shown = cv2.imread(str(shot)).astype(int)
    # Crops hold one colour each, so the page shows them if it shows their colours; and plots have
    # lines in colours that nothing else on the page has.
    for crop in (p for p in map(decoded, page.sources) if isinstance(p, np.ndarray)):
        colour = np.median(crop.reshape(-1, 3), axis=0)
        assert (np.abs(shown - colour).max(axis=2) <= 6).sum() > 2000, colour
    blue = (0xA8, 0x5F, 0x1F)
    assert (np.abs(shown - blue).max(axis=2) <= 6).sum() > 200
