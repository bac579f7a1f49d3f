"""The client examples of docs/web.md run against a server."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import cv2
import pytest

from tests.fixtures.painted import scene

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "web.md").read_text()


def examples(language: str, address: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return [text.replace("http://127.0.0.1:8080", address.rstrip("/")) for text in found]


def test_python_client(address, capsys):
    (example,) = examples("python", address)
    exec(example, {})
    lines = capsys.readouterr().out.splitlines()
    assert 1 < len(lines) <= 5
    assert lines[0].startswith("1.000 yard 2026-05-01T08:00:0")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_lines(address, tmp_path):
    cv2.imwrite(str(tmp_path / "scene.jpg"), scene(("red", 30)))
    (block,) = [text for text in examples("bash", address) if "curl" in text]
    lines = block.replace("\\\n", " ").splitlines()
    assert len(lines) == 3
    for line in lines:
        done = subprocess.run(
            shlex.split(line), cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0 and '"detail"' not in done.stdout, done.stdout
