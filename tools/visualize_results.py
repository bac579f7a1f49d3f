#!/usr/bin/env python3
"""Write an evaluation as one HTML file to look at; --help says how."""

import sys

from spnet_d2.cli.visualize_results import main

if __name__ == "__main__":
    sys.exit(main())
