#!/usr/bin/env python3
"""Convert a checkpoint of the authors' SPNet code; --help says how."""

import sys

from spnet_d2.cli.convert_llnl_checkpoint import main

if __name__ == "__main__":
    sys.exit(main())
