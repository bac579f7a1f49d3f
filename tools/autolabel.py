#!/usr/bin/env python3
"""Label people in footage by a detector; --help says how."""

import sys

from spnet_d2.cli.autolabel import main

if __name__ == "__main__":
    sys.exit(main())
