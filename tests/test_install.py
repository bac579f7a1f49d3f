"""Set-up: what `import spnet_d2` says when something is missing, and consistent requirements."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent

# Puts a finder in front that hides some modules, then imports spnet_d2 from a given folder.
IMPORT_WITHOUT = """
import sys
sys.path.insert(0, {path!r})
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
import spnet_d2
"""


def import_without(hidden: set[str], path: Path) -> str:
    """The last part of the error output of ``import spnet_d2`` with some modules hidden."""
    code = IMPORT_WITHOUT.format(path=str(path), hidden=hidden)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.count("Traceback") == 1  # one error, not a chain
    return run.stderr.partition("ImportError: ")[2]


@pytest.mark.parametrize(("module", "title"), [("detectron2", "Detectron2"), ("cv2", "OpenCV")])
def test_missing_module_names_the_script_in_a_checkout(module, title):
    message = import_without({module}, ROOT)
    assert message.startswith(f"spnet_d2 needs {title}, and {sys.executable} has no module")
    assert str(ROOT / "tools" / "install_detectron2.py") in message


def test_missing_detectron2_names_a_pip_command_without_a_checkout(tmp_path):
    package = tmp_path / "spnet_d2"
    package.mkdir()
    for name in ("__init__.py", "requirements_check.py", "process.py"):
        (package / name).write_text((ROOT / "spnet_d2" / name).read_text())
    message = import_without({"detectron2"}, tmp_path)
    command = next(line for line in message.splitlines() if line.startswith("    "))
    for word in ("pip install", "--no-deps", "--only-binary=:all:", "--python-version 3.10"):
        assert word in command
    assert command.endswith("sal-detectron2==0.7.2")


# Finds detectron2 in one folder only, as where none is installed.
IMPORT_BESIDE = """
import sys
from importlib.machinery import PathFinder
sys.path.insert(0, {path!r})
class Beside:
    def find_spec(self, name, path=None, target=None):
        if name == "detectron2":
            return PathFinder.find_spec(name, [{beside!r}])
sys.meta_path.insert(0, Beside())
import spnet_d2
"""


def test_a_clone_beside_the_user_is_not_taken_for_detectron2(tmp_path):
    """Python takes any folder of that name for a package."""
    (tmp_path / "detectron2" / "detectron2").mkdir(parents=True)
    code = IMPORT_BESIDE.format(path=str(ROOT), beside=str(tmp_path))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.count("Traceback") == 1
    message = run.stderr.partition("ImportError: ")[2]
    assert "no module 'detectron2.config' (the folder " in message
    assert str(tmp_path / "detectron2") in message and "install_detectron2.py" in message


def test_error_inside_detectron2_is_not_taken_for_its_absence():
    """A Detectron2 that is there but lacks a package of its own reports that package."""
    code = IMPORT_WITHOUT.format(path=str(ROOT), hidden={"yacs", "yacs.config"})
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1
    assert "No module named 'yacs" in run.stderr
    assert "spnet_d2 needs Detectron2" not in run.stderr


@pytest.fixture(scope="module")
def packaging_of_setup_py():
    """Arguments that setup.py gives to setuptools."""
    setuptools = pytest.importorskip("setuptools")
    captured = {}
    original = setuptools.setup
    setuptools.setup = captured.update
    try:
        runpy.run_path(str(ROOT / "setup.py"))
    finally:
        setuptools.setup = original
    return captured


def test_setup_metadata(packaging_of_setup_py):
    import spnet_d2

    assert packaging_of_setup_py["name"] == "spnet_d2"
    assert packaging_of_setup_py["version"] == spnet_d2.__version__
    assert {"dev", "demo"} <= set(packaging_of_setup_py["extras_require"])
    names = {
        canonicalize_name(Requirement(line).name)
        for line in packaging_of_setup_py["install_requires"]
    }
    # Either is kept if present, so neither may be forced on the user.
    assert not names & {"opencv-python", "opencv-python-headless", "detectron2", "sal-detectron2"}


def test_constraints_satisfy_every_requirement(packaging_of_setup_py):
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            (specifier,) = pin.specifier
            assert specifier.operator == "==", f"not a pin: {line}"
            pins[canonicalize_name(pin.name)] = specifier.version
    extras = packaging_of_setup_py["extras_require"]
    chosen = packaging_of_setup_py["install_requires"] + sum(
        (extras[name] for name in ("dev", "demo", "headless")), []
    )
    for requirement in map(Requirement, chosen):
        name = canonicalize_name(requirement.name)
        assert requirement.specifier, f"{name} has no lower bound"
        assert name in pins, f"{name} is not pinned in constraints.txt"
        assert requirement.specifier.contains(pins[name]), f"{requirement} excludes {pins[name]}"


def test_installer_and_import_error_name_the_same_wheel():
    script = (ROOT / "tools" / "install_detectron2.py").read_text()
    env = (ROOT / "spnet_d2" / "requirements_check.py").read_text()
    (wanted,) = re.findall(r'REQUIREMENT = "(.+)"', script)
    assert f'"{wanted}"' in env


# Stands in for an environment's Python: says what is installed, and notes what it is told to do.
FAKE_PYTHON = """#!/bin/sh
case "$*" in
  "-m pip --version") ;;
  "-m pip list --format=freeze"*) cat {folder}/freeze.txt ;;
  *) echo "$@" >> {folder}/calls.txt ;;
esac
"""


@pytest.mark.parametrize("kept", [["torch==2.5.1+cu121", "torchvision==0.20.1+cu121"], []])
def test_make_install_runs_once_and_keeps_pytorch(tmp_path, kept):
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(FAKE_PYTHON.format(folder=tmp_path))
    python.chmod(0o755)
    (tmp_path / "freeze.txt").write_text("\n".join(["numpy==1.26.4", *kept, ""]))
    calls = tmp_path / "calls.txt"
    for _ in range(2):
        command = ["make", "install", f"VENV={tmp_path}"]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
    packages, detectron2 = calls.read_text().splitlines()
    pins = tmp_path / ".spnet_d2_constraints.txt"
    assert packages.endswith(f"-c {pins} -e .[dev,demo]")
    assert detectron2 == f"tools/install_detectron2.py --constraint {pins}"
    own = (ROOT / "constraints.txt").read_text().splitlines()
    found = pins.read_text().splitlines()
    assert set(kept) <= set(found)
    left_out = [line for line in own if line not in found]
    assert [line.partition("==")[0] for line in left_out] == [
        line.partition("==")[0] for line in kept
    ]


def test_installer_keeps_what_is_importable():
    """In the environment of the tests both are there, so the script installs nothing."""
    run = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "install_detectron2.py")],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert re.fullmatch(r"OpenCV \S+ and Detectron2 \S+ are importable", run.stdout.strip())


def test_every_extra_is_documented(packaging_of_setup_py):
    table = (ROOT / "INSTALL.md").read_text()
    rows = " ".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", rows)) == set(packaging_of_setup_py["extras_require"])
