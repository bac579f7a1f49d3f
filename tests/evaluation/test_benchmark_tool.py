"""tools/benchmark_evaluation.py: its corpora evaluate, and it measures what a process takes."""

import json
from types import SimpleNamespace

import pytest

from tests.fixtures.scripts import load_script


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
    with pytest.raises(RuntimeError, match="program.py --fail` failed"):
        tool.measure(["--fail"])


def test_a_page_with_targets_and_growth(tool, monkeypatch, tmp_path, capsys):
    """Two cases are measured, one fails, and the page says so."""

    def measure(arguments):
        if arguments == ["--help"]:
            return tool.Cost(1.0, 1.0, 0.1)
        if "cuhk" in arguments:
            raise RuntimeError("tools/evaluate.py failed, see above.")
        half = "half" in arguments
        return tool.Cost(6.0, 5.0, 1.0) if half else tool.Cost(13.0, 9.0, 2.5)

    monkeypatch.setattr(tool, "measure", measure)
    monkeypatch.setattr(
        tool, "write_case", lambda case, folder: [{1028: "half", 2900: "cuhk"}.get(case.queries)]
    )
    page = tmp_path / "page.md"
    cases = ["prw", "prw_half_the_queries", "cuhk_g100"]
    assert tool.main(["--cases", *cases, "--output", str(page)]) == 1
    lines = page.read_text().splitlines()
    assert "cuhk_g100: tools/evaluate.py failed" in capsys.readouterr().err
    assert "- prw: 13.00 s, ABOVE the target of 12" in lines
    assert "- prw: 2.50 GiB, within the target of 3" in lines
    assert "- cuhk_g100, s: not measured, target 5" in lines
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    costs = {row[0]: row[6:] for row in cells if len(row) == 12}
    assert costs["prw"] == ["13.00", "12", "9.00", "8.00", "2.50", "3"]
    assert costs["cuhk_g100"][0] == "failed"
    growth = {row[0]: row[1:] for row in cells if len(row) == 7}
    # Wall 5 of 12 seconds after start, CPU 4 of 8.
    assert growth["prw_half_the_queries"] == ["0.50", "1.00", "1.00", "0.50", "0.42", "0.50"]


def test_a_disk_without_room_is_said_before_writing(tool, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tool.shutil, "disk_usage", lambda place: SimpleNamespace(free=2**30))
    result = tool.run_case("prw_gallery_times_10", tool.CASES["prw_gallery_times_10"], tmp_path, [])
    assert result.cost is None and not list(tmp_path.iterdir())
    assert "GiB free, found 1.0. Give another --folder" in capsys.readouterr().err


def test_a_small_case_is_measured(tool, tmp_path):
    page = tmp_path / "page.md"
    arguments = ["--cases", "prw", "--scale", "0.002", "--output", str(page)]
    assert tool.main([*arguments, "--folder", str(tmp_path)]) == 0
    assert "| prw " in page.read_text() and "--cases prw --scale 0.002" in page.read_text()
    assert "target of" not in page.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]
