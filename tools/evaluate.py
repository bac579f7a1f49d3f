#!/usr/bin/env python3
"""Score any model's predictions by the protocols of person search; --help says how."""

import importlib.util
import sys

if __name__ == "__main__":
    # Scoring takes no model, and PyTorch and Detectron2 take longer to start than it does: this
    # process uses the package's modules without running its __init__, which imports them.
    _spec = importlib.util.find_spec("spnet_d2")
    if _spec:
        sys.modules["spnet_d2"] = importlib.util.module_from_spec(_spec)
        # The one thing of it that helps here, too.
        from spnet_d2.process import prepare_process

        prepare_process()

from spnet_d2.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
