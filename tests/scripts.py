"""Command-line scripts of the project as modules, for tests."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


def load_script(path: str | Path) -> ModuleType:
    """Import a script anew.

    Args:
        path: relative to the project, e.g. ``tools/search.py``.
    """
    name = f"{Path(path).stem}_script"
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look up their module.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
