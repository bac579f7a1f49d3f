#!/usr/bin/env python3
"""Find a person in a folder of images or in a video; --help says how."""

import sys

from spnet_d2.cli.search import main

if __name__ == "__main__":
    sys.exit(main())
