"""tools/benchmark_evaluation.py: its corpora evaluate, and it measures what a process takes."""

import json

import pytest

from tests.scripts import load_script


@pytest.fixture
def tool():
    return load_script("tools/benchmark_evaluation.py")


@pytest.mark.parametrize("name", ["prw", "cuhk_g100"])
def test_synthetic_corpora_evaluate(name, tool, monkeypatch, tmp_path, capsys):
    case = tool.scaled(tool.CASES[name], 0.01)
    arguments = tool.write_case(case, tmp_path)
    assert load_script("tools/evaluate.py").main([*arguments, "--output", str(tmp_path)]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["num_queries"] == case.queries
    assert (metrics["num_gt_boxes"], metrics["num_detections"]) == (case.gt_boxes, case.detections)
    # Neither perfect nor chance, so rankings are as long to score as real ones.
    assert 0.95 > metrics["recall50"] > 0.5
    assert 0.99 > metrics["gt_mAP"] > 0.1
    protocol = json.loads((tmp_path / "protocol.json").read_text())
    if case.gallery:
        assert {len(gallery) for gallery in protocol["queries"].values()} == {case.gallery}


def test_measures_processes(tool, monkeypatch, tmp_path, capsys):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, time\n"
        "memory = bytearray(300 * 2**20)\n"
        "end = time.process_time() + 0.3\n"
        "while time.process_time() < end: pass\n"
        "sys.exit('--fail' in sys.argv)\n"
    )
    monkeypatch.setattr(tool, "EVALUATE", program)
    # The memory of the process that measures doesn't count.
    ballast = bytearray(b"x") * (1200 * 2**20)
    cost = tool.measure([])
    del ballast
    assert cost.wall >= cost.cpu * 0.9 > 0.25
    assert 0.29 < cost.memory < 1
    with pytest.raises(RuntimeError, match="evaluate.py --fail failed"):
        tool.measure(["--fail"])
    page = tmp_path / "page.md"
    tool.main(["--cases", "prw", "--scale", "0.002", "--output", str(page)])
    assert "| prw " in page.read_text() and "--cases prw --scale 0.002" in page.read_text()
