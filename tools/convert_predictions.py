#!/usr/bin/env python3
"""Turn another project's detections and features into a predictions file; --help says how."""

import sys

from spnet_d2.cli.convert_predictions import main

if __name__ == "__main__":
    sys.exit(main())
