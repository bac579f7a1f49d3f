"""What must be importable before spnet_d2 is, and how to get it.

Detectron2 and OpenCV can't be requirements of the package (see ``setup.py`` and ``INSTALL.md``), so
their absence is the one thing a new user runs into. It is checked here, before anything else.
"""

import importlib
import importlib.util
import shlex
import sys
import sysconfig
from pathlib import Path

_INSTALLER = Path(__file__).resolve().parent.parent / "tools" / "install_detectron2.py"
_DETECTRON2_WHEEL = "sal-detectron2==0.7.2"


def _fix(pip_arguments: list[str]) -> str:
    """The command that installs what is missing: the project's script, or plain pip outside it."""
    if _INSTALLER.is_file():
        return shlex.join([sys.executable, str(_INSTALLER)])
    return shlex.join([sys.executable, "-m", "pip", "install", *pip_arguments])


def _require(module: str, title: str, pip_arguments: list[str]) -> None:
    package = module.partition(".")[0]
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in (package, module):  # it is there, but something that it needs is not
            raise
        # Python takes any folder of that name, such as a clone's, for a package.
        places = [str(place) for place in getattr(sys.modules.get(package), "__path__", ())]
        in_the_way = f" (the folder {places[0]} is something else)" if places else ""
        raise ImportError(
            f"spnet_d2 needs {title}, and {sys.executable} has no module '{error.name}'"
            f"{in_the_way}. Install it with:\n    {_fix(pip_arguments)}\n"
            f"An own build of {title} serves as well; see INSTALL.md.",
            name=error.name,
        ) from None


def runs_exported_models_only() -> bool:
    """Whether there is neither PyTorch nor Detectron2, as where models that were exported run."""
    return not (_is_there("torch") or _is_there("detectron2"))


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def require_opencv() -> None:
    """
    Check that OpenCV is importable.

    Raises:
        ImportError: it is missing. The message ends with the command that installs it.
    """
    _require("cv2", "OpenCV", ["opencv-python-headless"])


def require_detectron2() -> None:
    """
    Check that Detectron2 and OpenCV are importable; the compiled part of Detectron2 is not needed.

    Raises:
        ImportError: one of them is missing. The message ends with the command that installs it.
    """
    tags = "--no-deps --only-binary=:all: --python-version 3.10 --implementation cp"
    target = ["--platform", "linux_x86_64", "--target", sysconfig.get_path("purelib")]
    _require("detectron2.config", "Detectron2", [*tags.split(), *target, _DETECTRON2_WHEEL])
    require_opencv()
