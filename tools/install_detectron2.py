#!/usr/bin/env python3
"""Make ``import detectron2`` and ``import cv2`` work in the Python that runs this script.

Whatever is importable already is kept. Otherwise

* Detectron2 comes from PyPI's ``sal-detectron2`` 0.7.2: upstream's Python code in a wheel that is
  tagged for CPython 3.10 on Linux only because it also carries the compiled extension. spnet_d2
  never uses that extension, so the wheel's Python part is installed for any Python and platform,
  pinned by its sha256, and the extension (built against another PyTorch) is removed.
* OpenCV comes as ``opencv-python-headless``, which needs no system libraries.

Detectron2's own requirements come with spnet_d2 (see setup.py). Only the standard library is used,
so the script runs in an empty environment.
"""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

REQUIREMENT = "sal-detectron2==0.7.2"
SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
OPENCV = "opencv-python-headless"
# The tags of the one wheel there is. Naming all of them lets any Python on any platform take it.
WHEEL_TAGS = ["--python-version", "3.10", "--implementation", "cp", "--platform", "linux_x86_64"]

# Loads all of Detectron2 that spnet_d2 builds on.
CHECK = (
    "import cv2, detectron2, detectron2.engine; "
    "print('OpenCV', cv2.__version__, 'and Detectron2', detectron2.__version__, 'are importable')"
)


def pip_install(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "install", *arguments]
    if importlib.util.find_spec("pip") is None:
        sys.exit(
            f"This Python has no pip: {sys.executable}. Run `{sys.executable} -m ensurepip`, "
            "then run this script again."
        )
    if subprocess.run(command).returncode:
        sys.exit(
            f"Failed: {shlex.join(command)}\npip's own message is above. See INSTALL.md for other "
            "ways to get Detectron2 and OpenCV."
        )


def install_detectron2(target: Path) -> None:
    """Install the Python part of the pinned wheel into ``target`` (a site-packages folder)."""
    with tempfile.TemporaryDirectory() as folder:
        # pip checks hashes only in requirement files.
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(f"{REQUIREMENT} --hash=sha256:{SHA256}\n")
        pip_install(
            "--require-hashes",
            "--no-deps",
            "--only-binary=:all:",
            *WHEEL_TAGS,
            "--target",
            str(target),
            "--requirement",
            str(requirements),
        )
    for extension in (target / "detectron2").glob("_C.*.so"):
        extension.unlink()


def check(statement: str) -> str:
    """Run ``statement`` in a fresh interpreter; its last line of output, or exit with the error."""
    run = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True)
    if run.returncode:
        sys.exit(
            f"`{statement}` fails in {sys.executable}:\n{run.stderr.strip()}\n"
            "If a package is missing, install spnet_d2's requirements first "
            "(`python -m pip install -e .` in the project's folder); see INSTALL.md."
        )
    return run.stdout.strip().splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--constraint", metavar="FILE", help="pip constraints for OpenCV's version")
    args = parser.parse_args()

    if importlib.util.find_spec("cv2") is None:
        constraint = ["--constraint", args.constraint] if args.constraint else []
        pip_install(OPENCV, *constraint)
    if importlib.util.find_spec("detectron2") is None:
        install_detectron2(Path(sysconfig.get_path("purelib")))
    print(check(CHECK))


if __name__ == "__main__":
    main()
