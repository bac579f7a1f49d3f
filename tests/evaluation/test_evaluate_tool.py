"""tools/evaluate.py on files, and what it writes."""

import csv
import dataclasses
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spnet_d2.data.person_search_json import write_protocol
from tests.evaluation.corpus import QUERY, predictions, worked_example, write_dataset

TOOL = runpy.run_path(Path(__file__).parents[2] / "tools" / "evaluate.py", run_name="evaluate")
GALLERY = [1, 2, 3, 4, 5]


@pytest.fixture
def files(tmp_path):
    """The worked example as files: annotations, two protocols and arrays."""
    corpus, embeddings, gt_embeddings = worked_example(True)
    write_dataset(tmp_path / "test.json", corpus, width=640, height=480)
    write_protocol(tmp_path / "plain.json", [0, *GALLERY], [QUERY])
    # Image 1 twice, own images listed, and a query whose person is in no other image.
    quirks = {QUERY: [0, *GALLERY, 1], 103: GALLERY}
    write_protocol(tmp_path / "quirks.json", [0, *GALLERY], quirks)
    return tmp_path, predictions(corpus, embeddings, gt_embeddings)


def evaluate(folder, *options, protocols=("plain.json",)):
    arguments = [
        "--annotations", folder / "test.json",
        "--predictions", folder / "predictions.npz",
        "--protocol", *(p if p == "all" else folder / p for p in protocols),
        "--output", folder / "results",
        *options,
    ]  # fmt: skip
    return TOOL["main"]([str(argument) for argument in arguments])


def metrics_of(folder):
    return json.loads((folder / "results" / "metrics.json").read_text())


def test_metrics_table_and_lines_per_query(files, capsys):
    folder, found = files
    found.save(folder / "predictions.npz")
    assert evaluate(folder, "--cws", "--cbgm", "--seqnet-cbgm", "--rerank") == 0
    metrics = metrics_of(folder)
    expected = {
        "AP50": 0.4583, "recall50": 0.5, "rAP50": 0.2292, "mAP": 0.25, "top1": 0, "top5": 1,
        "top10": 1, "gt_mAP": 0.8875, "gt_top1": 1, "cws_mAP": 0.25, "num_queries": 1,
    }  # fmt: skip
    for key, value in expected.items():
        assert metrics[key] == pytest.approx(value, abs=1e-4), key
    assert {"cbgm_mAP", "seqnet_cbgm_mAP", "rerank_top10", "coco_AP", "coco_AP50"} <= metrics.keys()
    assert (metrics["protocol"], metrics["protocol_variant"]) == ("plain", "original")
    assert not any(key.startswith("not_in_gallery") for key in metrics)  # the distractor leads
    assert not any(isinstance(value, dict) for value in metrics.values())
    (line,) = csv.DictReader((folder / "results" / "per_query.csv").open())
    assert line["query_id"] == str(QUERY)
    assert (line["AP"], line["top1"], line["top5"]) == ("0.25", "0", "1")
    assert (line["matches"], line["found"], line["best_match_rank"]) == ("4", "2", "2")
    similarities = ("best_match_similarity", "best_similarity", "best_other_similarity")
    assert [float(line[k]) for k in similarities] == pytest.approx([0.9, 0.95, 0.95])
    printed = capsys.readouterr().out
    assert "plain (cws)" in printed and "mAP  25.00" in printed and "original rules" in printed


@pytest.mark.parametrize(
    "options, unused",
    [
        ([], {"torch", "torchvision", "detectron2", "timm", "scipy"}),
        (["--cws", "--cbgm", "--rerank"], {"torch", "torchvision", "detectron2", "timm"}),
    ],
)
def test_a_process_of_its_own_imports_what_it_needs(files, options, unused):
    """The other libraries would take longer to start than scoring."""
    folder, found = files
    found.save(folder / "predictions.npz")
    tool = Path(__file__).parents[2] / "tools" / "evaluate.py"
    code = f"""
import runpy, sys
sys.argv = [{str(tool)!r}, *sys.argv[1:]]
try:
    runpy.run_path({str(tool)!r}, run_name="__main__")
finally:
    print({unused!r} & set(sys.modules))
"""
    inputs = ["--annotations", folder / "test.json", "--protocol", folder / "plain.json"]
    inputs += ["--predictions", folder / "predictions.npz"]
    command = [sys.executable, "-c", code, *map(str, inputs), *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "mAP  25.00" in run.stdout and run.stdout.endswith("set()\n")


def test_several_protocols_and_both_variants(files, capsys):
    folder, found = files
    found.save(folder / "predictions.npz")
    assert evaluate(folder, protocols=["quirks.json", "plain.json", "all"]) == 0
    original = metrics_of(folder)
    assert original["protocols"] == ["quirks", "plain", "all"]
    # Own frame, image 1 twice: (1 + 2/3 + 3/5) / 3 * 3/6. The other query finds itself at rank 5.
    expected = ((1 + 2 / 3 + 3 / 5) / 3 * 3 / 6 + 1 / 5) / 2
    assert original["mAP"] == original["quirks/mAP"] == pytest.approx(expected)
    assert original["num_queries"] == 2
    assert original["all/mAP"] == pytest.approx(0.3167, abs=1e-4)
    assert original["plain/gt_mAP"] == pytest.approx(0.8875)
    assert original["quirks/num_queries_without_match"] == 0
    assert original["all/num_queries_without_match"] == 1
    assert original["all/not_in_gallery_recall"] == pytest.approx(3 / 5)

    options = ("--protocol-variant", "corrected", "--no-coco")
    assert evaluate(folder, *options, protocols=["quirks.json", "all"]) == 0
    corrected = metrics_of(folder)
    assert corrected["protocol_variant"] == "corrected"
    assert corrected["mAP"] == pytest.approx(0.25)  # as without the quirks
    assert (corrected["num_queries_in_mean"], corrected["num_queries_without_match"]) == (1, 1)
    assert corrected["all/mAP"] == pytest.approx(original["all/mAP"] * 6 / 5)
    assert "coco_AP" not in corrected
    lines = list(csv.DictReader((folder / "results" / "per_query.csv").open()))
    assert [line["protocol"] for line in lines] == ["quirks"] * 2 + ["all"] * 6
    assert [line["in_mean"] for line in lines[:2]] == ["1", "0"]


def test_query_centric_predictions(files, capsys):
    folder, found = files
    queries = np.full(len(found.scores), QUERY)
    dataclasses.replace(found, query_annotation_ids=queries).save(folder / "predictions.npz")
    assert evaluate(folder, "--rerank") == 0
    metrics = metrics_of(folder)
    assert metrics["AP50"] == pytest.approx(0.125)
    assert metrics["mAP"] == pytest.approx(0.25)
    assert "coco_AP" not in metrics
    assert evaluate(folder, "--cbgm") == 1
    assert "Context matching compares whole scenes" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"image_ids": np.full(7, 99)}, "image ids must be in the data set's annotations"),
        ({"scores": np.ones(7, int)}, r"scores must be \(N,\) floats, found int64"),
        ({"scores": np.ones(7, object)}, "it holds Python objects instead of plain arrays"),
        ({"boxes": np.zeros(0)}, r"boxes must be \(N, 4\) numbers, found float64 \(0,\)"),
        ({"embeddings": np.ones((7, 3), np.float32)}, "same size D, found 3 and 2"),
        ({"boxes": np.ones((6, 4))}, "per-detection arrays must be equally long"),
        ({"gt_annotation_ids": np.array([101, 102, 103, 104, 105, 999])}, "not: 999"),
        ({"scores": None}, "it lacks scores"),
        ({"scores": np.full(7, 80.0)}, r"7 of 7 are not, first: .*Percent\? Divide by 100"),
        ({"boxes": np.tile([50, 60, 20, 40], (7, 1))}, "7 of 7 boxes have x2 < x1"),
        ({"boxes": np.tile([0.2, 0.3, 0.4, 0.5], (7, 1))}, "7 of 7 boxes lie within one pixel"),
    ],
)
def test_broken_predictions_are_one_clear_error(files, capsys, changes, message):
    folder, found = files
    arrays = {k: v for k, v in (vars(found) | changes).items() if v is not None}
    np.savez(folder / "predictions.npz", **arrays)
    assert evaluate(folder) == 1
    error = capsys.readouterr().err
    assert error.startswith("evaluate: ") and error.count("\n") == 1
    assert re.search(message, error)
    assert not (folder / "results").exists()


def test_other_broken_inputs(files, capsys):
    folder, found = files
    assert evaluate(folder) == 1
    assert "No predictions file at" in capsys.readouterr().err
    (folder / "predictions.npz").write_bytes(b"nothing")
    assert evaluate(folder) == 1
    assert "cannot be used as predictions: " in capsys.readouterr().err
    found.save(folder / "predictions.npz")
    assert evaluate(folder, protocols=["missing.json"]) == 1
    assert "No such file" in capsys.readouterr().err
    (folder / "test.json").write_text("{}")
    assert evaluate(folder) == 1
    assert 'expected an object with "images" and "annotations"' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        evaluate(folder, protocols=["plain.json", "plain.json"])
    assert "must differ in name" in capsys.readouterr().err


def test_inputs_with_a_defined_score(files, capsys):
    """Nothing detected, NaN scores and NaN embeddings."""
    folder, found = files
    nothing = vars(found) | {
        "image_ids": np.zeros(0, int),
        "boxes": np.zeros((0, 4)),
        "scores": np.zeros(0),
        "embeddings": np.zeros((0, 2), np.float32),
    }
    broken = vars(found) | {"scores": np.full(7, np.nan)}
    for arrays in (nothing, broken):
        arrays = {k: v for k, v in arrays.items() if v is not None}
        np.savez(folder / "predictions.npz", **arrays)
        assert evaluate(folder, "--cws", "--cbgm", "--seqnet-cbgm", "--rerank") == 0
        metrics = metrics_of(folder)
        for key in ("AP50", "recall50", "rAP50", "mAP", "top1", "cbgm_mAP", "rerank_mAP"):
            assert metrics[key] == 0, key
        assert metrics["gt_mAP"] == pytest.approx(0.8875)
    without_direction = np.full((7, 2), np.nan, np.float32)
    arrays = {k: v for k, v in vars(found).items() if v is not None}
    np.savez(folder / "predictions.npz", **(arrays | {"embeddings": without_direction}))
    assert evaluate(folder, "--cbgm", "--rerank") == 0
    # Five boxes of similarity 0 are one step: 2 hits of 5, 2 of 4 found.
    assert metrics_of(folder)["mAP"] == pytest.approx(2 / 5 * 2 / 4)
