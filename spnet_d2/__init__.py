"""SPNet person search (Swap Path Network) as a Detectron2 project.

Importing the package fills Detectron2's registries and catalogs, so that ``build_model(cfg)`` and
the built-in data sets work with nothing else imported.
"""

from spnet_d2.process import prepare_process

prepare_process()

from spnet_d2.requirements_check import require_detectron2  # noqa: E402

require_detectron2()

from spnet_d2 import modeling  # noqa: E402, F401  (fills the registries)
from spnet_d2.config import add_spnet_config  # noqa: E402
from spnet_d2.data.catalog import register_builtin_datasets  # noqa: E402

register_builtin_datasets()

__version__ = "0.1.0"

__all__ = ["add_spnet_config", "__version__"]
