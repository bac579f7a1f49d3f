"""The cases of OpenVINO, in a process of their own.

OpenVINO 2026.4 corrupts the memory of a process in which PyTorch's loaders forked before: the test
run crashed some tests later.
"""

import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("openvino_cases.py")


def test_openvino():
    pytest.importorskip("onnxruntime")
    # Looked for, not imported.
    if subprocess.run([sys.executable, "-c", "import openvino"], capture_output=True).returncode:
        pytest.skip("needs openvino (extra [openvino])")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    done = subprocess.run(command, cwd=CASES.parents[3], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
