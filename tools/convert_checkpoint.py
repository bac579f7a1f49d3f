#!/usr/bin/env python3
"""Convert a checkpoint of another project; --help says how."""

import sys

from spnet_d2.cli.convert_checkpoint import main

if __name__ == "__main__":
    sys.exit(main())
