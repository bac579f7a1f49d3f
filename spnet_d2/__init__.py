"""SPNet person search (Swap Path Network) as a Detectron2 project.

Importing the package fills Detectron2's registries and catalogs, so that ``build_model(cfg)`` and
the built-in data sets work with nothing else imported. Where there is neither PyTorch nor
Detectron2, exported models run (``spnet_d2.export.predictor``, docs/export.md), and so does what
needs no model.
"""

from spnet_d2.process import prepare_process

prepare_process()

from spnet_d2.requirements_check import (  # noqa: E402
    require_detectron2,
    require_opencv,
    runs_exported_models_only,
)

__version__ = "0.1.0"

__all__ = ["add_spnet_config", "__version__"]

if runs_exported_models_only():
    require_opencv()
else:
    require_detectron2()

    from spnet_d2 import modeling  # noqa: F401  (fills the registries)
    from spnet_d2.config import add_spnet_config
    from spnet_d2.data.catalog import register_builtin_datasets

    register_builtin_datasets()


def __getattr__(name: str):
    """What needs PyTorch and Detectron2, where they are missing: says how to get them."""
    if name == "add_spnet_config":
        require_detectron2()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
