#!/usr/bin/env python3
"""Export a trained SPNet as ONNX; --help says how."""

import sys

from spnet_d2.cli.export import main

if __name__ == "__main__":
    sys.exit(main())
