#!/usr/bin/env python3
"""Galleries of cameras and archives; see spnet_d2/cli/gallery and docs/gallery.md."""

import sys

from spnet_d2.cli.gallery import main

if __name__ == "__main__":
    sys.exit(main())
