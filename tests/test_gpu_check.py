"""tools/gpu_check.py: the whole script on a CPU, and what it leaves behind without a GPU."""

import pytest
import torch

from tests.fixtures.scripts import load_script


@pytest.fixture
def tool():
    return load_script("tools/gpu_check.py")


def test_the_whole_script(tool, tmp_path, capsys):
    page = tmp_path / "gpu.md"
    options = ["--device", "cpu", "--tiny", "--output", str(page)]
    assert tool.main(options) == 0, capsys.readouterr().out
    text = page.read_text()
    assert "Measured on **a CPU" in text and "passed" in text and "not measured" not in text
    lines = [line for line in text.splitlines() if line.startswith("| SPNet-")]
    assert len(lines) == 3 and all("GiB" in line for line in lines)
    training = next(line for line in lines if "pre-training" in line or "fine-tuning" in line)
    seconds, hours = (cell.strip() for cell in training.split("|")[3:5])
    seconds = float(seconds.removesuffix(" s"))
    # 42000 iterations or 480870.
    expected = [seconds * n / 3600 for n in (tool.FINE_TUNING, tool.PRETRAINING)]
    assert any(abs(float(hours.removesuffix(" h")) - h) < 0.2 + 0.2 * h for h in expected)


def test_what_there_was_no_time_for_is_said(tool, tmp_path, monkeypatch):
    """And what was measured before stays, with what went wrong in between."""
    page = tmp_path / "gpu.md"
    answers = [(0, "5 passed"), (1, "Traceback\nCUDA out of memory")]
    monkeypatch.setattr(tool, "run", lambda *_: answers.pop(0) if answers else (None, ""))
    assert tool.main(["--device", "cpu", "--output", str(page)]) == 1
    text = page.read_text()
    assert "5 passed" in text and "failed: CUDA out of memory" in text
    assert text.count("time was up") == len(tool.all_rows()) - 1


def test_without_a_gpu_the_page_stays(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert tool.main(["--output", str(tmp_path / "gpu.md")]) == 0
    assert not (tmp_path / "gpu.md").exists()
    assert "no CUDA device" in capsys.readouterr().out


def test_the_page_says_whether_it_was_run(tool):
    text = tool.PAGE.read_text()
    assert text == tool.page(tool.all_rows()) or "Measured on **NVIDIA" in text
    for number in ("30.0 h", "24.5 h", "46.5 h", "40.5 h", "27.6"):
        assert number in text
    for row in tool.all_rows():
        assert (tool.ROOT / "projects_configs" / f"{row.config}.yaml").exists()
