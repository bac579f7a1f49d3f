"""Imports go from room to room in one direction and never in a circle (pyproject.toml)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


RUN = "from importlinter.cli import lint_imports_command; lint_imports_command()"

pytest.importorskip("importlinter", reason="needs import-linter: pip install -e .[dev]")


def lint(folder: Path) -> subprocess.CompletedProcess:
    # The folder's own spnet_d2, whatever is installed.
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-c", RUN, "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment,
    )


def test_the_package_keeps_its_contracts():
    found = lint(ROOT)
    assert found.returncode == 0, found.stdout
    assert "Contracts: 2 kept, 0 broken." in found.stdout


@pytest.fixture
def copy(tmp_path):
    """A copy that a test may spoil."""
    shutil.copytree(ROOT / "spnet_d2", tmp_path / "spnet_d2", ignore=shutil.ignore_patterns("*.js"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("data/geometry.py", "import spnet_d2.search.query", "Imports between rooms go down"),
        ("data/geometry.py", "import spnet_d2.data.transforms", "No circles, of files"),
        # Also one that comes late.
        ("modeling/losses.py", "def f(): from . import spnet", "No circles, of files"),
        ("brand_new.py", "", "Imports between rooms go down"),
    ],
)
def test_what_would_break_them_is_found(copy, file, line, contract):
    with open(copy / "spnet_d2" / file, "a", encoding="utf-8") as spoilt:
        spoilt.write(f"\n{line}\n")
    found = lint(copy)
    assert found.returncode != 0
    assert contract in found.stdout and "BROKEN" in found.stdout
