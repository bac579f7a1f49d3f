"""tools/benchmark.py: every task runs, and says what it measured."""

import json
import subprocess
import sys

import pytest
import torch

from spnet_d2.analysis import detecting, measured_detector
from spnet_d2.data.synthetic import noise_images
from tests.fixtures.scripts import ROOT, load_script
from tests.modeling.tiny import TRUNK

SMALL = [
    *("MODEL.SPNET.BACKBONE.NAME", TRUNK, "MODEL.SPNET.EMBED_DIM", "16"),
    *("MODEL.SPNET.REID_DIM", "16", "MODEL.SPNET.REID.QUEUE_SIZE", "64"),
]


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/benchmark.py")


@pytest.fixture
def run(tool, tmp_path, capsys):
    def run(options: str, *settings: str) -> tuple[dict, str]:
        output = tmp_path / "numbers.json"
        words = ["--output", str(output), "--device", "cpu", "--people", "2", *options.split()]
        assert tool.main([*words, "--repetitions", "2", *SMALL, *settings]) == 0
        return json.loads(output.read_text()), capsys.readouterr().out

    return run


def check(result: dict, text: str, steps: list[str]) -> None:
    """Works beside the limits, whose parts make up the whole."""
    limits = ["backbone + FPN", "backbone + FPN + anchor convolution"]
    assert list(result["timings"]) == limits + steps
    assert list(result["over_limit"]) == list(result["over_anchor_limit"]) == steps
    assert min(*result["over_limit"].values(), *result["over_anchor_limit"].values()) > 0
    assert result["peak_bytes"] > 2**20
    for name in steps:
        timing = result["timings"][name]
        assert len(timing["repetitions"]) == 2 and timing["images_per_second"] > 0
        # Of medians of two, the whole is the sum of the parts.
        parts = [seconds for phase in timing["parts"].values() for seconds in phase.values()]
        assert sum(parts) == pytest.approx(timing["seconds"], rel=1e-3)
        assert f"{result['over_limit'][name]:.3f}" in text
    assert "limit" in text and "x limit" in text and "share" in text and "Peak memory" in text


def test_training_on_both_pathways(run):
    options = "--task train --images 4 --size 64 64 --both-pathways"
    queue = ["MODEL.SPNET.REID.LOSS", "momentum_queue", "MODEL.SPNET.MOMENTUM_TWIN.ENABLED", "True"]
    result, text = run(options, *queue, "MODEL.SPNET.ANCHORS_PER_IMAGE", "64")
    check(result, text, ["OC step", "QC step"])
    assert min(result["rois"].values()) >= 8
    assert (
        f"QC step / OC step: {result['qc_over_oc']:.3f}; anchors: 4 pairs x 64 / 4 images" in text
    )
    for phase in ("forward", "backward"):
        assert "backbone" in result["timings"]["QC step"]["parts"][phase]
    assert "momentum encoder" in result["timings"]["OC step"]["parts"]["forward"]


def test_the_trainer_s_whole_step(run):
    result, text = run("--task step --images 2 --size 64 64", "MODEL.SPNET.ANCHORS_PER_IMAGE", "16")
    assert len(result["repetitions"]) == 2 and result["peak_bytes"] > 2**20
    assert "OC step of 2 x 64 x 64, CPU" in text
    assert f"{result['wall_seconds']:.3f} seconds" in text


def test_inference_with_operators(run):
    result, text = run("--task inference --size 64 96 --images 2 --profile")
    check(result, text, ["OC inference"])
    # Two people in each of two images, in the first stage and at the end.
    assert result["rois"] >= 4 and "RoIs embedded" in text
    assert "aten::" in text


def test_search(run):
    result, text = run("--task qc-search --size 64 96 --queries 3")
    check(result, text, ["no query", "3 queries"])
    assert f"{1e3 * result['pair']:.2f} ms" in text
    assert "swap path" in result["timings"]["3 queries"]["parts"]["forward"]


def test_data(run):
    options = "--task data --size 120 160 --workers 1 --profile"
    settings = ["INPUT.CROP_SIZE", "64", "SOLVER.IMS_PER_BATCH", "2"]
    result, text = run(options, *settings)
    parts = result["image"]["parts"]["forward"]
    assert {"decode", "augment", "rest"} == set(parts)
    assert result["images_per_second"]["loader"] > 0
    of_8 = result["images_per_second"]["loader"] * 8
    assert result["of_what_a_gpu_needs"]["loader"] == pytest.approx(of_8 / (8 / 0.35))
    assert "decode" in text and "Ordered by: internal time" in text


def test_models_side_by_side(run, tmp_path):
    base = ROOT / "projects_configs/profiles/finetune_prw.yaml"
    others = [tmp_path / f"{kind}.yaml" for kind in ("SeqNet", "SeqNeXt")]
    for path in others:
        path.write_text(f"_BASE_: {base}\nMODEL:\n  META_ARCHITECTURE: {path.stem}\n")
    names = [str(path) for path in (base, *others)]
    options = f"--task models --config-file {names[0]} --beside {' '.join(names[1:])}"
    result, text = run(f"{options} --size 96 128")
    assert list(result["timings"]) == list(result["speed"]) == names
    assert result["speed"][names[0]] == 1 and min(result["speed"].values()) > 0
    assert all(name in text for name in names) and "speed" in text


@pytest.mark.parametrize("kind", ["SeqNet", "SeqNeXt"])
def test_seqnets_that_are_timed_find_people(kind, tmp_path):
    """As many proposals as a trained model's, and as many people as were asked for."""
    opts = ["MODEL.META_ARCHITECTURE", kind, "MODEL.SPNET.BACKBONE.NAME", TRUNK]
    model = detecting(measured_detector("", opts, "cpu", "OC", 3))
    counts = []
    for head in (model.roi_heads.first_head, model.roi_heads.second_head):
        head.register_forward_pre_hook(lambda _, rois: counts.append(len(rois[0])))
    with torch.no_grad():
        model(noise_images(1, 480, 640))
    assert counts == [256, 44, 3]


@pytest.mark.parametrize(
    ("task", "name"),
    [("evaluate", "benchmark_evaluation.py"), ("gallery", "benchmark_gallery.py")],
)
def test_some_are_scripts_of_their_own(tool, monkeypatch, task, name):
    called = []
    monkeypatch.setattr(subprocess, "call", lambda words: called.append(words) or 3)
    assert tool.main(["--task", task, "--cases", "prw"]) == 3
    assert called == [[sys.executable, str(ROOT / "tools" / name), "--cases", "prw"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--task train MODEL.SPNET.EMBED_DIM", "KEY VALUE pairs, found 1 words"),
        ("--task inference --queries 0", "--queries must be 1 or more, found 0"),
        ("--task inference --size 0 96", "--size must be 1 1 or more, found 0 96"),
        ("--task train --size 64 96", "square, found --size 64 96"),
        ("--task train MODEL.SPNET.EMBED_DIMS 16", "MODEL.SPNET.EMBED_DIM"),
        ("--task models", "--beside names the other configs"),
        ("--task train MODEL.META_ARCHITECTURE SeqNeXt", "takes no SeqNeXt"),
        ("--task evaluate --profile", "--task evaluate has no --profile"),
    ],
)
def test_bad_arguments(tool, words, message, capsys):
    with pytest.raises(SystemExit) as error:
        tool.main(words.split())
    assert message in capsys.readouterr().err + str(error.value)
