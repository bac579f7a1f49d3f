#!/usr/bin/env python3
"""Adapt the starter weights to your own footage; --help says how."""

import sys

from spnet_d2.cli.adapt import main

if __name__ == "__main__":
    sys.exit(main())
